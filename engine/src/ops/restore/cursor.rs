//! Entries of one stored directory one after another, with one stretch of it in memory, or none.

use std::vec;

use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::repo::{Node, Reader};

/// Where the walk is in a directory.
pub(super) struct Cursor {
    tree: Option<BlobId>,
    loaded: Option<Loaded>,
    /// Name of the last entry given out.
    last: Option<Vec<u8>>,
    failed: bool,
}

struct Loaded {
    stretches: vec::IntoIter<BlobId>,
    nodes: vec::IntoIter<Node>,
}

impl Cursor {
    /// At the beginning of the directory `tree`.
    pub(super) fn new(tree: BlobId) -> Self {
        Self { tree: Some(tree), loaded: None, last: None, failed: false }
    }

    /// Gives only this entry.
    pub(super) fn single(node: Node) -> Self {
        let loaded = Loaded { stretches: Vec::new().into_iter(), nodes: vec![node].into_iter() };
        Self { tree: None, loaded: Some(loaded), last: None, failed: false }
    }

    /// The next entry, in order of names. After an error it goes on behind what could not be read.
    pub(super) fn next(&mut self, reader: &Reader) -> Result<Option<Node>> {
        loop {
            if self.loaded.is_none() {
                self.load(reader)?;
            }
            let loaded = self.loaded.as_mut().expect("loaded a line before");
            if let Some(node) = loaded.nodes.next() {
                self.last = Some(node.name.clone());
                return Ok(Some(node));
            }
            let Some(stretch) = loaded.stretches.next() else { return Ok(None) };
            let nodes = reader.one_stretch(&stretch).and_then(|nodes| self.in_order(&stretch, nodes));
            self.failed |= nodes.is_err();
            self.loaded.as_mut().expect("loaded above").nodes = nodes?.into_iter();
        }
    }

    /// Finds the stretches; behind the one in which the last entry stood there are only later ones.
    fn load(&mut self, reader: &Reader) -> Result<()> {
        self.loaded = Some(Loaded { stretches: Vec::new().into_iter(), nodes: Vec::new().into_iter() });
        let Some(tree) = self.tree else { return Ok(()) };
        let stretches = reader.stretches(&tree).inspect_err(|_| self.failed = true)?;
        let last = self.last.as_deref();
        let behind = stretches.partition_point(|(first, _)| first.as_deref() <= last);
        let mut ids: vec::IntoIter<BlobId> =
            stretches.into_iter().skip(behind.saturating_sub(1)).map(|(_, id)| id).collect::<Vec<_>>().into_iter();
        let mut nodes = Vec::new();
        if let (Some(last), Some(stretch)) = (last, ids.as_slice().first().copied()) {
            ids.next();
            nodes = reader.one_stretch(&stretch).inspect_err(|_| self.failed = true)?;
            nodes.retain(|node| node.name.as_slice() > last);
        }
        self.loaded = Some(Loaded { stretches: ids, nodes: nodes.into_iter() });
        Ok(())
    }

    fn in_order(&self, stretch: &BlobId, nodes: Vec<Node>) -> Result<Vec<Node>> {
        match (&self.last, nodes.first()) {
            (Some(last), Some(first)) if *last >= first.name => {
                Err(Error::damaged(format!("directory {}", stretch.short()), "its stretches are not in order"))
            }
            _ => Ok(nodes),
        }
    }

    /// Entries that are in memory.
    pub(super) fn held(&self) -> usize {
        self.loaded.as_ref().map_or(0, |loaded| loaded.nodes.len())
    }

    /// Gives up the memory; the stretch is read again when it is needed. Not where that failed once: it would be told again.
    pub(super) fn unload(&mut self) {
        if self.tree.is_some() && !self.failed {
            self.loaded = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chunker::Params;
    use crate::crypto::rng::{SeededRng, SystemRng};
    use crate::ops::backup::{self, Parent, backup};
    use crate::progress::{Cancel, Silent};
    use crate::repo::{self, Bridge};

    use crate::store::memory::Memory;

    /// A reader, and the tree of a stored directory of `count` files.
    fn directory(count: usize) -> (tempfile::TempDir, Reader, BlobId) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        (0..count).for_each(|n| std::fs::write(source.join(format!("{n:05}")), b"").unwrap());
        let options = repo::Options::new(dir.path().join("local"));
        let (bridge, mut rng) = (Bridge::start().unwrap(), SeededRng::new("cursor"));
        let store = Arc::new(Memory::new());
        let (mut repo, _) = repo::init(store, bridge, Params::DEFAULT, options, &mut rng).unwrap();
        let who = repo.identity(&mut rng).unwrap();
        let repo = Arc::new(repo);
        let options = backup::Options {
            as_path: Some("/d".into()),
            parent: Parent::None,
            level: 1,
            ..backup::Options::new(vec![source])
        };
        backup(&repo, &who, Box::new(SystemRng), &options, &Silent, &Cancel::default()).unwrap();
        let view = repo.view().unwrap();
        let root = view.snapshots[0].graph.root.unwrap();
        let reader = Reader::new(repo, view.index, 8 << 20);
        let tree = reader.find(&root, b"d").unwrap().unwrap().tree().unwrap();
        (dir, reader, tree)
    }

    #[test]
    fn it_goes_on_where_it_was_after_it_gave_up_its_memory() {
        for count in [0, 1, 5000] {
            let (_dir, reader, tree) = directory(count);
            let (mut cursor, mut names) = (Cursor::new(tree), Vec::new());
            while let Some(node) = cursor.next(&reader).unwrap() {
                names.push(String::from_utf8(node.name).unwrap());
                if names.len() % 97 == 0 {
                    cursor.unload();
                    assert_eq!(cursor.held(), 0);
                }
            }
            assert_eq!(names, Vec::from_iter((0..count).map(|n| format!("{n:05}"))));
            cursor.unload();
            assert_eq!(cursor.next(&reader).unwrap(), None);
            assert!(count < 5000 || reader.stretches(&tree).unwrap().len() > 1);
        }
    }

    #[test]
    fn a_single_entry_comes_once() {
        let (_dir, reader, tree) = directory(1);
        let node = reader.entries(&tree).unwrap().remove(0);
        let mut cursor = Cursor::single(node.clone());
        cursor.unload();
        assert_eq!(cursor.next(&reader).unwrap(), Some(node));
        assert_eq!(cursor.next(&reader).unwrap(), None);
    }
}
