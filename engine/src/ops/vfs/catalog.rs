//! The top directories: which snapshot stands under which paths. Built anew for each view, never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::node::Timestamp;
use crate::id::{BlobId, SnapshotId};
use crate::repo::Snapshot;

use super::names::{Template, numbered};

/// Name of the link to the newest snapshot of a directory.
pub(super) const LATEST: &[u8] = b"latest";

/// The root of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) id: SnapshotId,
    pub(super) tree: BlobId,
    pub(super) time: Timestamp,
}

/// What stands in a top directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Dir(Top),
    Snapshot(Arc<Root>),
    /// A symlink to an entry beside it.
    Latest(Vec<u8>),
}

/// A top directory: entries in order of names, and the time of its newest snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) items: BTreeMap<Vec<u8>, Item>,
    pub(super) newest: Timestamp,
}

impl Top {
    /// All top directories for `snapshots`, which come in order of time.
    pub(super) fn build<'a>(
        snapshots: impl Iterator<Item = &'a Snapshot>,
        templates: &[Template],
        time: &dyn Fn(Timestamp) -> String,
    ) -> Self {
        let mut top = Self::default();
        for template in templates {
            top.add_fixed(template);
        }
        for snapshot in snapshots {
            let Some(tree) = snapshot.graph.root else { continue };
            let root = Arc::new(Root { id: snapshot.id(), tree, time: snapshot.graph.time });
            for template in templates {
                for path in template.paths(snapshot, time) {
                    top.add(&path, &root, template.ends_in_time());
                }
            }
        }
        top
    }

    /// A template's first directory is there even while no snapshot stands in it.
    fn add_fixed(&mut self, template: &Template) {
        if let Some(name) = template.first_dir() {
            self.items.entry(name).or_insert_with(|| Item::Dir(Self::default()));
        }
    }

    fn add(&mut self, path: &[Vec<u8>], root: &Arc<Root>, link: bool) {
        self.newest = self.newest.max(root.time);
        let (name, rest) = path.split_first().expect("a template has a component");
        if rest.is_empty() {
            return self.add_here(name, root, link);
        }
        for n in 0.. {
            let item = self.items.entry(numbered(name, n)).or_insert_with(|| Item::Dir(Self::default()));
            // A snapshot that another template put there keeps its name.
            if let Item::Dir(below) = item {
                return below.add(rest, root, link);
            }
        }
    }

    fn add_here(&mut self, name: &[u8], root: &Arc<Root>, link: bool) {
        for n in 0.. {
            let name = numbered(name, n);
            match self.items.get(&name) {
                // One snapshot with two tags that make one name.
                Some(Item::Snapshot(there)) if there.id == root.id => return,
                Some(_) => {}
                None if link && name == LATEST => {}
                None => {
                    self.items.insert(name.clone(), Item::Snapshot(Arc::clone(root)));
                    if link && !matches!(self.items.get(LATEST), Some(Item::Dir(_) | Item::Snapshot(_))) {
                        self.items.insert(LATEST.to_vec(), Item::Latest(name));
                    }
                    return;
                }
            }
        }
    }

    /// The directory at `path`.
    pub(super) fn dir(&self, path: &[Vec<u8>]) -> Option<&Self> {
        path.iter().try_fold(self, |top, name| match top.items.get(name)? {
            Item::Dir(below) => Some(below),
            _ => None,
        })
    }
}
