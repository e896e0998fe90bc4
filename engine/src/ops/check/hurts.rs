//! Which snapshots and files suffer: a second walk, only where damage was found.
//!
//! A tree below which nothing is hurt is remembered and not walked again, for whichever snapshot.

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::meta::{Meta, MetaEntry};
use crate::format::tree::{DEPTH_MAX, Tree, TreeEntry, TreeKind};
use crate::id::{BlobId, SnapshotId};
use crate::progress::Cancel;
use crate::repo::index::Marks;
use crate::repo::{Reader, Snapshot};

use super::damage::{Damage, Hurt, Place};

/// Hurt places after which nobody counts on.
const PLACES_MAX: u64 = 1 << 20;

/// Notes the places that suffer with each finding. Whether all of them were counted.
pub(super) fn find(reader: &Reader, snapshots: &[Snapshot], damage: &Damage, cancel: &Cancel) -> Result<bool> {
    let marks = reader.index().marks();
    let mut places = 0;
    for snapshot in snapshots {
        let Some(root) = snapshot.graph.root else { continue };
        let mut hurts = Hurts { reader, damage, cancel, sound: &marks, snapshot: snapshot.id(), places };
        hurts.directory(&root, &mut Vec::new(), 0)?;
        places = hurts.places;
        if places >= PLACES_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Hurts<'h> {
    reader: &'h Reader,
    damage: &'h Damage,
    cancel: &'h Cancel,
    /// Trees with nothing hurt below them.
    sound: &'h Marks,
    snapshot: SnapshotId,
    places: u64,
}

impl Hurts<'_> {
    fn causes(&self, id: &BlobId, kind: BlobKind) -> Vec<usize> {
        self.damage.causes(&self.reader.index(), id, kind, &mut Vec::new())
    }

    /// Notes a place; the tree that it stands in is named instead where names cannot be read.
    fn note(&mut self, causes: &[usize], path: &[u8], tree: &BlobId) {
        let place = match self.reader.repository().can_read() {
            true => Place::Path(if path.is_empty() { b"/".to_vec() } else { path.to_vec() }),
            false => Place::Tree(*tree),
        };
        let hurt = Hurt { snapshot: self.snapshot, place };
        causes.iter().for_each(|cause| self.damage.hurt(*cause, &hurt));
        self.places += 1;
    }

    /// Whether anything in or below this directory or stretch is hurt.
    fn directory(&mut self, id: &BlobId, path: &mut Vec<u8>, depth: usize) -> Result<bool> {
        if self.sound.is_marked(id, BlobKind::Tree) || self.places >= PLACES_MAX || depth > DEPTH_MAX {
            return Ok(false);
        }
        if self.cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        let causes = self.causes(id, BlobKind::Tree);
        if !causes.is_empty() {
            self.note(&causes, path, id);
            return Ok(true);
        }
        // Read a moment ago; if it is lost since, the next check tells.
        let Ok(tree) = self.reader.tree(id) else { return Ok(true) };
        let hurt = match tree {
            Tree::Stretch { meta, entries } => self.stretch(id, &meta, &entries, path, depth)?,
            Tree::Split { meta, stretches } => {
                let causes = self.causes(&meta, BlobKind::Meta);
                self.note_some(&causes, path, id);
                let mut hurt = !causes.is_empty();
                // Without them no reader finds its way below.
                if hurt && self.reader.repository().can_read() {
                    return Ok(true);
                }
                for stretch in &stretches {
                    hurt |= self.directory(stretch, path, depth)?;
                }
                hurt
            }
            Tree::Part { .. } => false,
        };
        if !hurt {
            self.sound.mark(id, BlobKind::Tree);
        }
        Ok(hurt)
    }

    fn note_some(&mut self, causes: &[usize], path: &[u8], tree: &BlobId) {
        if !causes.is_empty() {
            self.note(causes, path, tree);
        }
    }

    fn stretch(
        &mut self,
        id: &BlobId,
        meta: &BlobId,
        entries: &[TreeEntry],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool> {
        let causes = self.causes(meta, BlobKind::Meta);
        self.note_some(&causes, path, id);
        let mut hurt = !causes.is_empty();
        let names = match self.reader.repository().can_read() {
            false => None,
            // Without names nothing below has a path: the directory stands for all of it.
            true if hurt => return Ok(true),
            true => self.names(meta, entries.len()),
        };
        for (n, entry) in entries.iter().enumerate() {
            let before = path.len();
            if let Some(names) = &names {
                path.push(b'/');
                path.extend_from_slice(&names[n].name);
            }
            hurt |= match entry.kind {
                TreeKind::Dir => self.directory(&entry.children[0], path, depth + 1)?,
                _ => self.file(id, n, entry, path),
            };
            path.truncate(before);
        }
        Ok(hurt)
    }

    fn names(&self, meta: &BlobId, count: usize) -> Option<Vec<MetaEntry>> {
        match self.reader.meta(meta) {
            Ok(Meta::Stretch(names)) if names.len() == count => Some(names),
            _ => None,
        }
    }

    fn file(&mut self, tree: &BlobId, n: usize, entry: &TreeEntry, path: &[u8]) -> bool {
        let mut causes: Vec<usize> = self.damage.entry_cause(tree, n).into_iter().collect();
        for (id, kind) in entry.blobs() {
            match kind {
                BlobKind::Tree => causes.extend(self.part(id)),
                _ => causes.extend(self.causes(id, kind)),
            }
        }
        causes.sort_unstable();
        causes.dedup();
        self.note_some(&causes, path, tree);
        !causes.is_empty()
    }

    /// Why a part of a large file cannot be read.
    fn part(&self, id: &BlobId) -> Vec<usize> {
        if self.sound.is_marked(id, BlobKind::Tree) {
            return Vec::new();
        }
        let mut causes = self.causes(id, BlobKind::Tree);
        if causes.is_empty()
            && let Ok(Tree::Part { map, data }) = self.reader.tree(id)
        {
            causes.extend(self.causes(&map, BlobKind::Map));
            data.iter().for_each(|id| causes.extend(self.causes(id, BlobKind::Data)));
        }
        if causes.is_empty() {
            self.sound.mark(id, BlobKind::Tree);
        }
        causes
    }
}
