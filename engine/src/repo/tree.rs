//! Walking what is stored: directories as names with children, files as pieces.
//!
//! Tree and meta blobs of a directory are read together and must fit each other; whatever does not is damage, reported
//! with the directory's blob.

use crate::error::{Error, Result};
use crate::format::blob::RAW_BYTES_MAX;
use crate::format::meta::{Map, Meta, MetaEntry, Run};
use crate::format::node::{Metadata, NodeKind};
use crate::format::tree::{Tree, TreeEntry, TreeKind};
use crate::id::BlobId;

use super::reader::Reader;

/// An entry of a stored directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, valid by [`crate::format::node::name_is_valid`].
    pub name: Vec<u8>,
    /// Its attributes.
    pub metadata: Metadata,
    /// What its children are.
    pub kind: TreeKind,
    /// Ids as the kind says.
    pub children: Vec<BlobId>,
}

impl From<(MetaEntry, TreeEntry)> for Node {
    fn from((meta, entry): (MetaEntry, TreeEntry)) -> Self {
        Self { name: meta.name, metadata: meta.metadata, kind: entry.kind, children: entry.children }
    }
}

impl Node {
    /// The tree of a directory.
    pub fn tree(&self) -> Option<BlobId> {
        (self.kind == TreeKind::Dir).then(|| self.children[0])
    }

    /// Length of a file in bytes, 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.metadata.kind {
            NodeKind::File { size } => size,
            _ => 0,
        }
    }
}

/// A piece of a file, in order from its start without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, 1 or more.
    pub len: u64,
    /// Its data; `None`: a hole.
    pub data: Option<BlobId>,
}

/// A part of a file whose pieces are known together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    tree: Option<BlobId>,
}

fn unfit(id: &BlobId, how: &str) -> Error {
    Error::damaged(format!("directory {}", id.short()), how)
}

/// The entries of a stretch as they are stored, in order of names; of each the two kinds of halves fit each other.
pub type Stretch = Vec<(MetaEntry, TreeEntry)>;

impl Reader {
    /// Calls `each` with every stretch of the directory `tree`, in order of names; one is in memory at a time.
    pub fn each_stretch(&self, tree: &BlobId, each: &mut dyn FnMut(Stretch) -> Result<()>) -> Result<()> {
        match self.tree(tree)? {
            Tree::Stretch { meta, entries } => each(self.stretch(tree, &meta, entries)?),
            Tree::Split { meta, stretches } => {
                self.split_names(tree, &meta, stretches.len())?;
                let mut last: Option<Vec<u8>> = None;
                for id in &stretches {
                    let stretch = self.stored_stretch(id)?;
                    let ends = |entry: Option<&(MetaEntry, TreeEntry)>| entry.map(|(meta, _)| meta.name.clone());
                    if let (Some(last), Some(first)) = (&last, ends(stretch.first()))
                        && *last >= first
                    {
                        return Err(unfit(tree, "its stretches are not in order"));
                    }
                    last = ends(stretch.last()).or(last);
                    each(stretch)?;
                }
                Ok(())
            }
            Tree::Part { .. } => Err(unfit(tree, "it is a part of a file")),
        }
    }

    /// Calls `each` with every entry of the directory `tree`, in order of names; one stretch is in memory at a time.
    pub fn each_entry(&self, tree: &BlobId, each: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
        self.each_stretch(tree, &mut |stretch| stretch.into_iter().map(Node::from).try_for_each(&mut *each))
    }

    /// All entries of a directory at once: for small ones and tests.
    pub fn entries(&self, tree: &BlobId) -> Result<Vec<Node>> {
        let mut all = Vec::new();
        self.each_entry(tree, &mut |node| {
            all.push(node);
            Ok(())
        })?;
        Ok(all)
    }

    /// Ids of a directory's stretches and the first name of each: itself, and none, when it has only one.
    pub fn stretches(&self, tree: &BlobId) -> Result<Vec<(Option<Vec<u8>>, BlobId)>> {
        match self.tree(tree)? {
            Tree::Stretch { .. } => Ok(vec![(None, *tree)]),
            Tree::Split { meta, stretches } => {
                let names = self.split_names(tree, &meta, stretches.len())?;
                Ok(names.into_iter().map(Some).zip(stretches).collect())
            }
            Tree::Part { .. } => Err(unfit(tree, "it is a part of a file")),
        }
    }

    /// The entries of one stretch, in order of names.
    pub fn one_stretch(&self, id: &BlobId) -> Result<Vec<Node>> {
        Ok(self.stored_stretch(id)?.into_iter().map(Node::from).collect())
    }

    fn stored_stretch(&self, id: &BlobId) -> Result<Stretch> {
        match self.tree(id)? {
            Tree::Stretch { meta, entries } => self.stretch(id, &meta, entries),
            _ => Err(unfit(id, "it is no stretch of a directory")),
        }
    }

    fn split_names(&self, tree: &BlobId, meta: &BlobId, count: usize) -> Result<Vec<Vec<u8>>> {
        match self.meta(meta)? {
            Meta::Split(names) if names.len() == count => Ok(names),
            _ => Err(unfit(tree, "its names do not fit its stretches")),
        }
    }

    fn stretch(&self, tree: &BlobId, meta: &BlobId, entries: Vec<TreeEntry>) -> Result<Stretch> {
        let Meta::Stretch(metas) = self.meta(meta)? else {
            return Err(unfit(tree, "its names are those of a directory of stretches"));
        };
        if metas.len() != entries.len() {
            return Err(unfit(tree, "it has not as many names as entries"));
        }
        let stretch: Stretch = metas.into_iter().zip(entries).collect();
        match stretch.iter().all(|(meta, entry)| entry.kind.fits(&meta.metadata.kind)) {
            true => Ok(stretch),
            false => Err(unfit(tree, "an entry is one thing in its names and another in its tree")),
        }
    }

    /// The entry `name` of a directory.
    pub fn lookup(&self, tree: &BlobId, name: &[u8]) -> Result<Option<Node>> {
        let stretches = self.stretches(tree)?;
        let at = stretches.partition_point(|(first, _)| first.as_deref().is_none_or(|first| first <= name));
        let Some((_, stretch)) = at.checked_sub(1).map(|at| &stretches[at]) else { return Ok(None) };
        Ok(self.one_stretch(stretch)?.into_iter().find(|node| node.name == name))
    }

    /// The entry at `path` (components separated by `/`, leading ones ignored) below the root tree; `None` stands for the
    /// root itself, which is no entry of anything.
    pub fn find(&self, root: &BlobId, path: &[u8]) -> Result<Option<Node>> {
        let mut at: Option<Node> = None;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".") {
            let tree = match &at {
                None => Some(*root),
                Some(node) => node.tree(),
            };
            let missing = || Error::NotFound(format!("{} is not in the snapshot", String::from_utf8_lossy(path)));
            at = Some(self.lookup(&tree.ok_or_else(missing)?, name)?.ok_or_else(missing)?);
        }
        Ok(at)
    }

    /// Calls `each` with the pieces of a file, from its start to its end without a gap.
    pub fn each_piece(&self, file: &Node, each: &mut dyn FnMut(Piece) -> Result<()>) -> Result<()> {
        for part in self.parts(file)? {
            self.pieces(file, &part)?.into_iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }

    /// The parts of a file, from its start to its end without a gap: one, unless it is very large; none of what has no bytes.
    pub fn parts(&self, file: &Node) -> Result<Vec<Part>> {
        let size = file.size();
        match file.kind {
            TreeKind::File if file.children.is_empty() => match size {
                0 => Ok(Vec::new()),
                _ => Err(unfit_file(file, "it has a length and no content")),
            },
            TreeKind::File | TreeKind::MappedFile => Ok(vec![Part { offset: 0, len: size, tree: None }]),
            TreeKind::LargeFile => {
                let parts = self.map(&file.children[0])?;
                check_size(file, &parts, size)?;
                // A hole among its lengths would be a part that has none.
                if parts.runs.len() != file.children.len() - 1 || parts.data_runs() != parts.runs.len() {
                    return Err(unfit_file(file, "its map does not fit its parts"));
                }
                let mut offset = 0;
                let part = |(run, id): (&Run, &BlobId)| {
                    offset += run.len();
                    Part { offset: offset - run.len(), len: run.len(), tree: Some(*id) }
                };
                Ok(parts.runs.iter().zip(&file.children[1..]).map(part).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The pieces of one of a file's parts, without a gap.
    pub fn pieces(&self, file: &Node, part: &Part) -> Result<Vec<Piece>> {
        match (part.tree, file.kind) {
            (None, TreeKind::File) => Ok(vec![Piece { offset: 0, len: part.len, data: Some(file.children[0]) }]),
            (None, _) => self.mapped(file, part, &file.children[0], &file.children[1..]),
            (Some(id), _) => {
                let Tree::Part { map, data } = self.tree(&id)? else {
                    return Err(unfit_file(file, "a part of it is a directory"));
                };
                self.mapped(file, part, &map, &data)
            }
        }
    }

    fn mapped(&self, file: &Node, part: &Part, map: &BlobId, data: &[BlobId]) -> Result<Vec<Piece>> {
        let map = self.map(map)?;
        check_size(file, &map, part.len)?;
        if map.data_runs() != data.len() {
            return Err(unfit_file(file, "its map does not fit its chunks"));
        }
        let (mut offset, mut data) = (part.offset, data.iter());
        let piece = |run: &Run| {
            let id = match run {
                Run::Hole(_) => None,
                Run::Data(len) if *len <= u64::from(RAW_BYTES_MAX) => data.next().copied(),
                Run::Data(_) => return Err(unfit_file(file, "a chunk is longer than chunks can be")),
            };
            offset += run.len();
            Ok(Piece { offset: offset - run.len(), len: run.len(), data: id })
        };
        map.runs.iter().map(piece).collect()
    }
}

fn check_size(file: &Node, map: &Map, size: u64) -> Result<()> {
    if map.size() == size { Ok(()) } else { Err(unfit_file(file, "its map is not as long as the file")) }
}

fn unfit_file(file: &Node, how: &str) -> Error {
    Error::damaged(format!("file {}", String::from_utf8_lossy(&file.name)), how)
}
