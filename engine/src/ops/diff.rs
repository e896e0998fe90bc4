//! Diff: what one stored tree has and another has not. Equal trees are passed over unread.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::node::{Metadata, NodeKind};
use crate::id::BlobId;
use crate::repo::walk::{Descend, join};
use crate::repo::{Node, Reader};

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Other bytes.
    Modified,
    /// Another kind of thing.
    Type,
    /// The same bytes, other attributes.
    Metadata,
}

impl Change {
    /// restic's letter for it.
    pub fn letter(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Modified => 'M',
            Self::Type => 'T',
            Self::Metadata => 'U',
        }
    }
}

/// What is only on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Other entries.
    pub others: u64,
    /// Data blobs.
    pub data_blobs: u64,
    /// Blobs of trees, metas and maps.
    pub tree_blobs: u64,
    /// Plaintext of these blobs, in bytes.
    pub bytes: u64,
}

/// Counts of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files on both sides with other bytes.
    pub changed_files: u64,
    /// What the second has more.
    pub added: Side,
    /// What the first has more.
    pub removed: Side,
}

/// Compares the directories `a` and `b`, and calls `each` with the path of every difference (directories end in `/`) in
/// order. Differences of attributes alone are told, too; the caller leaves them out if they do not matter.
///
/// Blobs are compared only where trees differ. Memory: an id for each blob in trees that differ, 32 bytes or so.
pub fn diff(
    reader: &Reader,
    base: &[u8],
    a: &BlobId,
    b: &BlobId,
    each: &mut dyn FnMut(&[u8], Change) -> Result<()>,
) -> Result<Summary> {
    let mut walk = Walk { reader, each, summary: Summary::default(), blobs: Default::default(), depth: 0 };
    walk.dirs(base, a, b)?;
    walk.count_blobs();
    Ok(walk.summary)
}

struct Walk<'w> {
    reader: &'w Reader,
    each: &'w mut dyn FnMut(&[u8], Change) -> Result<()>,
    summary: Summary,
    /// Blobs of what differs, of either side.
    blobs: [HashSet<(BlobId, bool)>; 2],
    depth: usize,
}

/// Deeper than any path that a system call takes; a walk of differences recurses.
const DEPTH_MAX: usize = 2_048;

impl Walk<'_> {
    fn dirs(&mut self, path: &[u8], a: &BlobId, b: &BlobId) -> Result<()> {
        if a == b {
            return Ok(());
        }
        if self.depth >= DEPTH_MAX {
            return Err(Error::Invalid(format!("these trees are deeper than {DEPTH_MAX} directories")));
        }
        self.depth += 1;
        for (side, tree) in [a, b].into_iter().enumerate() {
            let blobs = &mut self.blobs[side];
            self.reader.each_directory_blob(tree, &mut |id, kind| {
                blobs.insert((id, kind == BlobKind::Data));
                Ok(())
            })?;
        }
        let (mut left, mut right) = (Entries::of(self.reader, a)?, Entries::of(self.reader, b)?);
        loop {
            match (left.peek()?, right.peek()?) {
                (None, None) => break,
                (Some(x), Some(y)) if x.name == y.name => {
                    let (x, y) = (left.take(), right.take());
                    self.both(&join(path, &x.name), &x, &y)?;
                }
                (Some(x), y) if y.is_none_or(|y| x.name < y.name) => {
                    let x = left.take();
                    self.one_side(&join(path, &x.name), &x, 0)?;
                }
                _ => {
                    let y = right.take();
                    self.one_side(&join(path, &y.name), &y, 1)?;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn both(&mut self, path: &[u8], a: &Node, b: &Node) -> Result<()> {
        if std::mem::discriminant(&a.metadata.kind) != std::mem::discriminant(&b.metadata.kind) {
            (self.each)(path, Change::Type)?;
            self.count_below(path, a, 0)?;
            return self.count_below(path, b, 1);
        }
        if let (Some(x), Some(y)) = (a.tree(), b.tree()) {
            if attributes_differ(&a.metadata, &b.metadata) {
                (self.each)(&as_dir(path), Change::Metadata)?;
            }
            return self.dirs(path, &x, &y);
        }
        let modified = a.children != b.children || a.metadata.kind != b.metadata.kind;
        if modified {
            (self.each)(path, Change::Modified)?;
            self.summary.changed_files += u64::from(matches!(a.metadata.kind, NodeKind::File { .. }));
            self.take_blobs(a, 0)?;
            self.take_blobs(b, 1)?;
        } else if attributes_differ(&a.metadata, &b.metadata) {
            (self.each)(path, Change::Metadata)?;
        }
        Ok(())
    }

    /// An entry that only `side` has, with all below it.
    fn one_side(&mut self, path: &[u8], node: &Node, side: usize) -> Result<()> {
        let change = [Change::Removed, Change::Added][side];
        let shown = |path: &[u8], node: &Node| if node.tree().is_some() { as_dir(path) } else { path.to_vec() };
        (self.each)(&shown(path, node), change)?;
        self.count(node, side)?;
        let Some(tree) = node.tree() else { return Ok(()) };
        let reader = self.reader;
        let mut visit = |at: &[u8], below: &Node| {
            (self.each)(&shown(at, below), change)?;
            self.count(below, side).map(|()| Descend::Into)
        };
        reader.walk(&tree, path, &mut visit, &mut |_, e| Err(e))
    }

    /// Counts an entry and all below it, and tells of none.
    fn count_below(&mut self, path: &[u8], node: &Node, side: usize) -> Result<()> {
        self.count(node, side)?;
        let Some(tree) = node.tree() else { return Ok(()) };
        let reader = self.reader;
        let mut visit = |_: &[u8], below: &Node| self.count(below, side).map(|()| Descend::Into);
        reader.walk(&tree, path, &mut visit, &mut |_, e| Err(e))
    }

    fn count(&mut self, node: &Node, side: usize) -> Result<()> {
        let counts = if side == 0 { &mut self.summary.removed } else { &mut self.summary.added };
        match node.metadata.kind {
            NodeKind::File { .. } => counts.files += 1,
            NodeKind::Dir => counts.dirs += 1,
            _ => counts.others += 1,
        }
        self.take_blobs(node, side)
    }

    fn take_blobs(&mut self, node: &Node, side: usize) -> Result<()> {
        let blobs = &mut self.blobs[side];
        self.reader.each_blob(node, &mut |id, kind| {
            blobs.insert((id, kind == BlobKind::Data));
            Ok(())
        })
    }

    fn count_blobs(&mut self) {
        let [old, new] = &self.blobs;
        let (index, mut copies) = (self.reader.index(), Vec::new());
        for (side, own, others) in [(0, old, new), (1, new, old)] {
            let counts = if side == 0 { &mut self.summary.removed } else { &mut self.summary.added };
            for (id, is_data) in own.difference(others) {
                if *is_data {
                    counts.data_blobs += 1
                } else {
                    counts.tree_blobs += 1
                }
                index.lookup(id, &mut copies);
                counts.bytes += copies.first().map_or(0, |copy| u64::from(copy.entry.len));
            }
        }
    }
}

fn as_dir(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

/// Whether anything but bytes and what the act of reading changes (access time) differs.
fn attributes_differ(a: &Metadata, b: &Metadata) -> bool {
    let essence = |m: &Metadata| Metadata { atime: Default::default(), ..m.clone() };
    essence(a) != essence(b)
}

/// The entries of a directory in order, one stretch in memory at a time.
struct Entries<'r> {
    reader: &'r Reader,
    stretches: std::vec::IntoIter<(Option<Vec<u8>>, BlobId)>,
    nodes: std::iter::Peekable<std::vec::IntoIter<Node>>,
}

impl<'r> Entries<'r> {
    fn of(reader: &'r Reader, tree: &BlobId) -> Result<Self> {
        let stretches = reader.stretches(tree)?.into_iter();
        Ok(Self { reader, stretches, nodes: Vec::new().into_iter().peekable() })
    }

    fn peek(&mut self) -> Result<Option<&Node>> {
        while self.nodes.peek().is_none() {
            let Some((_, stretch)) = self.stretches.next() else { return Ok(None) };
            self.nodes = self.reader.one_stretch(&stretch)?.into_iter().peekable();
        }
        Ok(self.nodes.peek())
    }

    /// The entry that was peeked at.
    fn take(&mut self) -> Node {
        self.nodes.next().expect("peeked at before")
    }
}
