//! Everything that is reachable, each tree once (I4, I5).
//!
//! What was seen is one bit a blob, so ten million blobs cost five times 1.25 MB. A tree that serves as a directory, a
//! stretch and a part of a file is looked at once in each of these roles, because each asks for another form.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rayon::Scope;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::meta::{Meta, MetaEntry};
use crate::format::node::NodeKind;
use crate::format::tree::{DEPTH_MAX, Named, Tree, TreeEntry};
use crate::id::BlobId;
use crate::progress::Cancel;
use crate::repo::index::{Index, Marks};
use crate::repo::{Node, Reader};
use crate::store::StoreError;

use super::damage::{Bad, Damage, Invariant};
use super::lists::{Packs, missing_pack};

/// How much is reachable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub trees: u64,
    pub blobs: u64,
}

/// One walk over all snapshots.
pub(super) struct Walk<'c> {
    reader: &'c Reader,
    index: Arc<Index>,
    packs: &'c Packs,
    damage: &'c Damage,
    cancel: &'c Cancel,
    blobs: Marks,
    /// One for each [`Form`](crate::format::tree::Form).
    visited: [Marks; 3],
    tree_count: AtomicU64,
    blob_count: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl<'c> Walk<'c> {
    pub(super) fn new(reader: &'c Reader, packs: &'c Packs, damage: &'c Damage, cancel: &'c Cancel) -> Self {
        let index = reader.index();
        Self {
            reader,
            packs,
            damage,
            cancel,
            blobs: index.marks(),
            visited: [(); 3].map(|()| index.marks()),
            index,
            tree_count: AtomicU64::new(0),
            blob_count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
        }
    }

    /// Walks from these roots on the threads of `pool`.
    pub(super) fn run(self, pool: &rayon::ThreadPool, roots: &[BlobId]) -> Result<Reached> {
        pool.scope(|scope| {
            for root in roots {
                self.descend(scope, Named::root(*root));
            }
        });
        if let Some(e) = self.failed.into_inner().expect("no panic while held") {
            return Err(e);
        }
        Ok(Reached { trees: self.tree_count.into_inner(), blobs: self.blob_count.into_inner() })
    }

    /// Visits a tree unless it was visited in this form.
    fn descend<'s>(&'s self, scope: &Scope<'s>, job: Named) {
        let known = self.i4_indexed(&job.tree, BlobKind::Tree);
        if known && self.visited[job.form as usize].mark(&job.tree, BlobKind::Tree) == Some(true) {
            scope.spawn(move |scope| self.visit(scope, job));
        }
    }

    /// **I4** Every blob reachable from a snapshot's root is in the index.
    fn i4_indexed(&self, id: &BlobId, kind: BlobKind) -> bool {
        match self.blobs.mark(id, kind) {
            Some(new) => {
                self.blob_count.fetch_add(u64::from(new), Ordering::Relaxed);
                true
            }
            None => {
                self.damage.absent(id, kind);
                false
            }
        }
    }

    fn visit<'s>(&'s self, scope: &Scope<'s>, job: Named) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if self.cancel.is_canceled() {
            return self.fail(Error::Interrupted);
        }
        if let Some(tree) = self.i5_tree(&job) {
            self.tree_count.fetch_add(1, Ordering::Relaxed);
            self.children(scope, &job, &tree);
            if self.reader.repository().can_read() {
                self.i5_matches(&job.tree, tree);
            }
        }
    }

    /// **I5** Every reachable tree opens, has its id: and is what it is named as.
    fn i5_tree(&self, job: &Named) -> Option<Tree> {
        let id = &job.tree;
        let text = self.read(id, BlobKind::Tree)?;
        if job.depth > DEPTH_MAX {
            self.damage.tree(id, format!("it lies deeper than {DEPTH_MAX} directories"));
            return None;
        }
        let tree = match Tree::decode(&text) {
            Ok(tree) => tree,
            Err(e) => {
                self.damage.tree(id, e.to_string());
                return None;
            }
        };
        match tree.may_be(job.form) {
            Ok(()) => Some(tree),
            Err(how) => {
                self.damage.tree(id, how);
                None
            }
        }
    }

    fn children<'s>(&'s self, scope: &Scope<'s>, job: &Named, tree: &Tree) {
        tree.each_named(&mut |id, kind, form| match form {
            Some(form) => self.descend(scope, job.below(*id, form)),
            None => {
                self.i4_indexed(id, kind);
            }
        });
    }

    /// **I5** Every reachable tree … matches its meta entry by entry (readers and owners only).
    fn i5_matches(&self, id: &BlobId, tree: Tree) {
        match tree {
            Tree::Stretch { meta, entries } => {
                let Some(metas) = self.names(id, &meta) else { return };
                if metas.len() != entries.len() {
                    return self.damage.tree(id, "it has not as many names as entries");
                }
                for (n, (entry, meta)) in entries.into_iter().zip(metas).enumerate() {
                    self.entry_matches(id, n, entry, meta);
                }
            }
            Tree::Split { meta, stretches } => self.split_matches(id, &meta, &stretches),
            Tree::Part { .. } => {}
        }
    }

    fn names(&self, tree: &BlobId, meta: &BlobId) -> Option<Vec<MetaEntry>> {
        match Meta::decode(&self.read(meta, BlobKind::Meta)?) {
            Ok(Meta::Stretch(entries)) => return Some(entries),
            Ok(Meta::Split(_)) => self.damage.tree(tree, "its names are those of a directory of stretches"),
            Err(e) => self.damage.tree(tree, e.to_string()),
        }
        None
    }

    fn split_matches(&self, id: &BlobId, meta: &BlobId, stretches: &[BlobId]) {
        let Some(text) = self.read(meta, BlobKind::Meta) else { return };
        let firsts = match Meta::decode(&text) {
            Ok(Meta::Split(names)) if names.len() == stretches.len() => names,
            _ => return self.damage.tree(id, "its names do not fit its stretches"),
        };
        let mut last: Option<Vec<u8>> = None;
        for (first, stretch) in firsts.iter().zip(stretches) {
            // What cannot be read is told of where it is visited itself.
            let Some(text) = self.read(stretch, BlobKind::Tree) else { return };
            let Ok(Tree::Stretch { meta, .. }) = Tree::decode(&text) else { return };
            let Some(text) = self.read(&meta, BlobKind::Meta) else { return };
            let Ok(Meta::Stretch(mut names)) = Meta::decode(&text) else { return };
            let in_order = last.as_ref().is_none_or(|last| *last < *first);
            if !in_order || names.first().is_none_or(|name| name.name != *first) {
                return self.damage.tree(id, "its stretches are not in order");
            }
            last = names.pop().map(|name| name.name);
        }
    }

    fn entry_matches(&self, tree: &BlobId, n: usize, entry: TreeEntry, meta: MetaEntry) {
        if !entry.kind.fits(&meta.metadata.kind) {
            return self.damage.tree(tree, format!("entry {n} is one thing in its names and another in its tree"));
        }
        if !matches!(meta.metadata.kind, NodeKind::File { .. }) || !self.maps_readable(&entry) {
            return;
        }
        let node = Node { name: meta.name, metadata: meta.metadata, kind: entry.kind, children: entry.children };
        let mut copies = Vec::new();
        let fits = self.reader.each_piece(&node, &mut |piece| {
            let Some(id) = piece.data else { return Ok(()) };
            self.index.lookup(&id, &mut copies);
            let known = copies.is_empty() || copies.iter().any(|copy| u64::from(copy.entry.len) == piece.len);
            if known { Ok(()) } else { Err(Error::damaged("", "a chunk has another length than the file needs")) }
        });
        match fits {
            Ok(()) => {}
            Err(Error::Damaged { how, .. }) => self.damage.entry(tree, n, how),
            Err(e) => self.fail(e),
        }
    }

    /// Whether all that tells where a file's chunks stand can be read; what cannot is damage by itself.
    fn maps_readable(&self, entry: &TreeEntry) -> bool {
        entry.blobs().filter(|(_, kind)| *kind != BlobKind::Data).all(|(id, kind)| {
            let Some(text) = self.read(id, kind) else { return false };
            match (kind, Tree::decode(&text)) {
                (BlobKind::Tree, Ok(Tree::Part { map, .. })) => self.read(&map, BlobKind::Map).is_some(),
                // Told of where it is visited itself.
                (BlobKind::Tree, _) => false,
                _ => true,
            }
        })
    }

    /// A blob from any sound copy; each copy that is not is damage of its pack.
    fn read(&self, id: &BlobId, kind: BlobKind) -> Option<Bytes> {
        let mut copies = Vec::new();
        self.index.lookup(id, &mut copies);
        copies.retain(|copy| copy.entry.kind == kind && !self.damage.is_bad(copy));
        for copy in &copies {
            let how = match self.reader.read_copy(id, copy) {
                Ok(text) => return Some(text),
                Err(Error::Store(StoreError::NotFound { .. })) => {
                    missing_pack(&self.packs.of_copy(copy), self.damage);
                    continue;
                }
                Err(Error::Damaged { how, .. }) => how,
                Err(Error::Store(e @ (StoreError::Wrong { .. } | StoreError::Failed { .. }))) => e.to_string(),
                Err(e) => {
                    self.fail(e);
                    return None;
                }
            };
            let what = format!("{} blob {}: {how}", kind.as_str(), id.short());
            self.damage.pack(&self.packs.of_copy(copy), Invariant::I5, what, Bad::Blobs(vec![*id]));
        }
        None
    }

    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().expect("no panic while held").get_or_insert(error);
    }
}
