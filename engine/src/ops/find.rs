//! Find: entries by name, age or what they are made of. Reads trees, no content.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::node::Timestamp;
use crate::id::BlobId;
use crate::repo::walk::Descend;
use crate::repo::{Node, Reader};
use crate::source::pattern::{Case, ListError, PatternList};

/// What is looked for.
#[derive(Debug, Default)]
pub struct Query {
    /// Of one component: compared with names.
    names: Vec<PatternList>,
    /// Of several: compared with paths.
    paths: Vec<PatternList>,
    /// Only what changed at this time or later.
    pub newer: Option<Timestamp>,
    /// Only what changed at this time or earlier.
    pub older: Option<Timestamp>,
}

impl Query {
    /// Any of `patterns`: one without `/` is compared with the names of entries, one with `/` with their paths. Both mean
    /// what they mean when something is excluded ([`crate::source::pattern`]), but what is below a match is none.
    pub fn new(patterns: &[Vec<u8>], case: Case) -> Result<Self, ListError> {
        let mut query = Self::default();
        for pattern in patterns {
            let list = PatternList::parse([pattern], case)?;
            if pattern.contains(&b'/') { query.paths.push(list) } else { query.names.push(list) }
        }
        Ok(query)
    }

    /// Whether an entry is one of those that are looked for.
    pub fn takes(&self, path: &[u8], node: &Node) -> bool {
        let mtime = node.metadata.mtime;
        if self.newer.is_some_and(|newer| mtime < newer) || self.older.is_some_and(|older| mtime > older) {
            return false;
        }
        let parent = &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)];
        let is_path = |list: &PatternList| list.matches(path).matched && !list.matches(parent).matched;
        self.names.iter().any(|list| list.matches(&node.name).matched) || self.paths.iter().any(is_path)
    }
}

/// Calls `each` with all entries below `root` that the query takes; damage goes to `damaged` with its directory.
pub fn find(
    reader: &Reader,
    root: &BlobId,
    query: &Query,
    each: &mut dyn FnMut(&[u8], &Node) -> Result<()>,
    damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
) -> Result<()> {
    let mut visit = |path: &[u8], node: &Node| {
        if query.takes(path, node) {
            each(path, node)?;
        }
        Ok(Descend::Into)
    };
    reader.walk(root, b"", &mut visit, damaged)
}

/// Is told the path of an entry, and one of the blobs that it is made of.
pub type EachBlob<'e> = &'e mut dyn FnMut(&[u8], BlobId, BlobKind) -> Result<()>;

/// Calls `each` with the path of every entry that is itself made of one of the `wanted` blobs, and the blob; the path of the
/// root is empty. Directories whose trees are in `seen` are passed over, and the others are added to it.
pub fn find_blobs(
    reader: &Reader,
    root: &BlobId,
    wanted: &HashSet<BlobId>,
    seen: &mut HashSet<BlobId>,
    each: EachBlob<'_>,
    damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
) -> Result<()> {
    let mut check = |path: &[u8], id: BlobId, kind: BlobKind| match wanted.contains(&id) {
        true => each(path, id, kind),
        false => Ok(()),
    };
    if !seen.insert(*root) {
        return Ok(());
    }
    reader.each_directory_blob(root, &mut |id, kind| check(b"", id, kind))?;
    let mut visit = |path: &[u8], node: &Node| {
        if node.tree().is_some_and(|tree| !seen.insert(tree)) {
            return Ok(Descend::Over);
        }
        match reader.each_blob(node, &mut |id, kind| check(path, id, kind)) {
            // Read again, and then reported, when the walk goes into it.
            Err(Error::Damaged { .. }) => Ok(Descend::Into),
            done => done.map(|()| Descend::Into),
        }
    };
    reader.walk(root, b"", &mut visit, damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::{Metadata, NodeKind};
    use crate::format::tree::TreeKind;

    fn node(name: &str, secs: i64) -> Node {
        let (mtime, zero) = (Timestamp { secs, nanos: 0 }, Timestamp::default());
        let metadata = Metadata {
            kind: NodeKind::File { size: 0 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime,
            atime: zero,
            ctime: zero,
            btime: None,
            inode: None,
            hardlink: None,
            xattrs: Vec::new(),
            flags: 0,
            project: 0,
        };
        Node { name: name.into(), metadata, kind: TreeKind::File, children: Vec::new() }
    }

    fn takes(pattern: &str, case: Case, path: &str) -> bool {
        let query = Query::new(&[pattern.into()], case).unwrap();
        query.takes(path.as_bytes(), &node(path.rsplit('/').next().unwrap(), 0))
    }

    #[test]
    fn names_and_paths() {
        for (pattern, path, expected) in [
            ("*.c", "/a/x.c", true),
            ("*.c", "/a/x.C", false),
            ("*.c", "/x.c/y", false),
            ("x.c/*.c", "/x.c/y.c", true),
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/c", false),
            ("/a/b", "/x/a/b", false),
            ("a/b", "/x/a/b", true),
        ] {
            assert_eq!(takes(pattern, Case::Exact, path), expected, "{pattern} {path}");
        }
        assert!(takes("*.c", Case::Ignore, "/a/X.C"));
    }

    #[test]
    fn times_bound_both_ends() {
        let mut query = Query::new(&[b"*".to_vec()], Case::Exact).unwrap();
        (query.newer, query.older) = (Some(Timestamp { secs: 5, nanos: 0 }), Some(Timestamp { secs: 7, nanos: 0 }));
        let taken: Vec<i64> = (4..9).filter(|&secs| query.takes(b"/x", &node("x", secs))).collect();
        assert_eq!(taken, [5, 6, 7]);
    }
}
