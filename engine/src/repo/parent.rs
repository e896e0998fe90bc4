//! The previous tree of a directory, known by tags only: what a writer that reads no name can compare with.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::format::tree::{Tag, Tags, Tree, TreeEntry};
use crate::id::BlobId;

use super::reader::Reader;

/// Stretches of one split directory that are kept decoded; the walk meets them in order, several threads at a time.
const STRETCHES_KEPT: usize = 4;

/// Where an entry stood: number of its stretch, and its number there.
pub type Place = (u32, u16);

/// A directory of the parent snapshot.
pub struct OldDir<'r> {
    reader: &'r Reader,
    /// Tree, meta and number of entries of each stretch.
    stretches: Vec<(BlobId, BlobId, usize)>,
    /// By name tag; one that two entries share matches neither.
    places: HashMap<Tag, Option<Place>>,
    kept: Mutex<VecDeque<(u32, Arc<Vec<TreeEntry>>)>>,
}

impl<'r> OldDir<'r> {
    /// Loads it; one that cannot be read is as good as none: everything is read anew.
    pub fn load(reader: &'r Reader, id: &BlobId) -> Option<Self> {
        let ids = match reader.tree(id) {
            Ok(Tree::Stretch { .. }) => vec![*id],
            Ok(Tree::Split { stretches, .. }) => stretches,
            Ok(Tree::Part { .. }) => return None,
            Err(e) => {
                tracing::warn!("the previous state of a directory cannot be read, it is read anew: {e}");
                return None;
            }
        };
        let mut old = Self { reader, stretches: Vec::new(), places: HashMap::new(), kept: Mutex::default() };
        for id in ids {
            let (meta, entries) = read(reader, &id)?;
            old.add(id, meta, entries);
        }
        Some(old)
    }

    fn add(&mut self, id: BlobId, meta: BlobId, entries: Vec<TreeEntry>) {
        let stretch = self.stretches.len() as u32;
        for (n, entry) in entries.iter().enumerate() {
            self.places.entry(entry.tags.name).and_modify(|p| *p = None).or_insert(Some((stretch, n as u16)));
        }
        self.stretches.push((id, meta, entries.len()));
        self.keep(stretch, Arc::new(entries));
    }

    fn keep(&self, stretch: u32, entries: Arc<Vec<TreeEntry>>) {
        let mut kept = self.kept.lock().expect("no panic while held");
        if kept.len() >= STRETCHES_KEPT {
            kept.pop_front();
        }
        kept.push_back((stretch, entries));
    }

    /// The entry with this name tag, and where it stood.
    pub fn find(&self, name: Tag) -> Option<(Place, TreeEntry)> {
        let place = (*self.places.get(&name)?)?;
        let entries = self.stretch(place.0)?;
        Some((place, entries[usize::from(place.1)].clone()))
    }

    fn stretch(&self, n: u32) -> Option<Arc<Vec<TreeEntry>>> {
        let kept = self.kept.lock().expect("no panic while held").iter().find(|k| k.0 == n).map(|k| Arc::clone(&k.1));
        if kept.is_some() {
            return kept;
        }
        let (id, _, count) = self.stretches[n as usize];
        let entries = Arc::new(read(self.reader, &id)?.1);
        assert_eq!(entries.len(), count, "a blob has one content");
        self.keep(n, Arc::clone(&entries));
        Some(entries)
    }

    /// The meta of a stretch and how many entries it has.
    pub fn meta(&self, stretch: u32) -> (BlobId, usize) {
        let (_, meta, count) = self.stretches[stretch as usize];
        (meta, count)
    }
}

fn read(reader: &Reader, id: &BlobId) -> Option<(BlobId, Vec<TreeEntry>)> {
    match reader.tree(id) {
        Ok(Tree::Stretch { meta, entries }) => Some((meta, entries)),
        Ok(_) => None,
        Err(e) => {
            tracing::warn!("the previous state of a directory cannot be read, it is read anew: {e}");
            None
        }
    }
}

/// Whether an entry is as it was, as far as `old` tells; `compare` says which of ctime and inode count.
pub fn same(old: &Tags, new: &Tags, ctime: bool, inode: bool) -> bool {
    let equal = |a: Tag, b: Tag| a != 0 && a == b;
    equal(old.content, new.content)
        && (!ctime || equal(old.ctime, new.ctime))
        && (!inode || equal(old.inode, new.inode))
}
