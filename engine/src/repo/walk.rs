//! All entries below a stored directory, one after another, in the order of names.

use std::vec::IntoIter;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::tree::{DEPTH_MAX, Tree, TreeKind};
use crate::id::BlobId;

use super::reader::Reader;
use super::tree::Node;

/// Whether to look into the directory that was just seen; of no meaning for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Do.
    Into,
    /// Do not.
    Over,
}

/// A directory that is being walked: the stretches that are still to be read, and the rest of the current one.
struct Level {
    path: Vec<u8>,
    stretches: IntoIter<(Option<Vec<u8>>, BlobId)>,
    nodes: IntoIter<Node>,
}

impl Reader {
    /// Calls `visit` with the path and node of every entry below the directory `tree`, parents before children.
    ///
    /// `base` is the path of the directory itself (empty for a root); paths that `visit` gets begin with it. What cannot
    /// be read goes to `damaged` with the path of its directory, and the walk goes on unless that fails. One stretch of
    /// each directory on the way is in memory; a tree deeper than [`DEPTH_MAX`] is damage.
    pub fn walk(
        &self,
        tree: &BlobId,
        base: &[u8],
        visit: &mut dyn FnMut(&[u8], &Node) -> Result<Descend>,
        damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        let mut levels = Vec::new();
        self.enter(&mut levels, tree, base.to_vec(), damaged)?;
        while let Some(level) = levels.last_mut() {
            if let Some(node) = level.nodes.next() {
                let path = join(&level.path, &node.name);
                if visit(&path, &node)? == Descend::Into
                    && let Some(tree) = node.tree()
                {
                    self.enter(&mut levels, &tree, path, damaged)?;
                }
            } else if let Some((_, stretch)) = level.stretches.next() {
                match self.one_stretch(&stretch) {
                    Ok(nodes) => level.nodes = nodes.into_iter(),
                    Err(e) => tolerate(&level.path, e, damaged)?,
                }
            } else {
                levels.pop();
            }
        }
        Ok(())
    }

    fn enter(
        &self,
        levels: &mut Vec<Level>,
        tree: &BlobId,
        path: Vec<u8>,
        damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        if levels.len() > DEPTH_MAX {
            let how = format!("it is deeper than {DEPTH_MAX} directories");
            return damaged(&path, Error::damaged(format!("directory {}", tree.short()), how));
        }
        match self.stretches(tree) {
            Ok(stretches) => {
                levels.push(Level { path, stretches: stretches.into_iter(), nodes: Vec::new().into_iter() });
                Ok(())
            }
            Err(e) => tolerate(&path, e, damaged),
        }
    }
}

impl Reader {
    /// Calls `each` with every blob that an entry itself is made of: a file's maps, parts and data; a directory's own trees
    /// and metas, and nothing of what is below it.
    pub fn each_blob(&self, node: &Node, each: &mut dyn FnMut(BlobId, BlobKind) -> Result<()>) -> Result<()> {
        let Some((first, rest)) = node.children.split_first() else { return Ok(()) };
        match node.kind {
            TreeKind::Dir => self.each_directory_blob(first, each),
            TreeKind::File => each(*first, BlobKind::Data),
            TreeKind::MappedFile => {
                each(*first, BlobKind::Map)?;
                rest.iter().try_for_each(|id| each(*id, BlobKind::Data))
            }
            TreeKind::LargeFile => {
                each(*first, BlobKind::Map)?;
                for part in rest {
                    each(*part, BlobKind::Tree)?;
                    let Tree::Part { map, data } = self.tree(part)? else {
                        return Err(Error::damaged(format!("tree blob {}", part.short()), "it is no part of a file"));
                    };
                    each(map, BlobKind::Map)?;
                    data.iter().try_for_each(|id| each(*id, BlobKind::Data))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Calls `each` with every blob that the directory `tree` itself is made of.
    pub fn each_directory_blob(
        &self,
        tree: &BlobId,
        each: &mut dyn FnMut(BlobId, BlobKind) -> Result<()>,
    ) -> Result<()> {
        each(*tree, BlobKind::Tree)?;
        match self.tree(tree)? {
            Tree::Stretch { meta, .. } => each(meta, BlobKind::Meta),
            Tree::Split { meta, stretches } => {
                each(meta, BlobKind::Meta)?;
                for stretch in &stretches {
                    each(*stretch, BlobKind::Tree)?;
                    if let Tree::Stretch { meta, .. } = self.tree(stretch)? {
                        each(meta, BlobKind::Meta)?;
                    }
                }
                Ok(())
            }
            Tree::Part { .. } => Err(Error::damaged(format!("directory {}", tree.short()), "it is a part of a file")),
        }
    }
}

/// Damage is told and passed over; everything else ends the walk.
fn tolerate(path: &[u8], error: Error, damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>) -> Result<()> {
    match error {
        e @ Error::Damaged { .. } => damaged(path, e),
        e => Err(e),
    }
}

/// `base` and the components of `below`, each with one `/` before it.
pub fn join(base: &[u8], below: &[u8]) -> Vec<u8> {
    let mut path = base.to_vec();
    for name in below.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".") {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_with_one_slash() {
        assert_eq!(join(b"", b"//a/./b/"), b"/a/b");
        assert_eq!(join(b"/x", b"y"), b"/x/y");
        assert_eq!(join(b"", b"/"), b"");
    }
}
