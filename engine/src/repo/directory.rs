//! A directory as it is stored: stretches of meta and tree blobs (docs/format.md "Directories").

use crate::error::Result;
use crate::format::blob::{BlobKind, RAW_BYTES_MAX};
use crate::format::meta::{Meta, MetaEntry};
use crate::format::node::{Metadata, NodeKind};
use crate::format::tree::{STRETCH_ENTRIES_MAX, Tree, TreeEntry, ends_stretch};
use crate::id::BlobId;

use super::save::Saver;

/// Attributes of a stretch, in bytes, from which on it is stored as several: a blob cannot hold any number.
pub const META_BYTES: usize = RAW_BYTES_MAX as usize / 2;

/// How many bytes an entry takes in a meta blob, generously: without its extended attributes, and those.
pub fn meta_bytes(name: &[u8], metadata: &Metadata) -> (usize, usize) {
    let target = match &metadata.kind {
        NodeKind::Symlink { target } => target.len(),
        _ => 0,
    };
    let plain = 300 + name.len() + target + metadata.user.len() + metadata.group.len();
    (plain, metadata.xattrs.iter().map(|x| 16 + x.name.len() + x.value.len()).sum())
}

/// Gathers the entries of one directory in the order of their names, and stores each stretch when it ends.
pub struct Builder<'b, 's> {
    saver: &'b Saver<'s>,
    named: Vec<MetaEntry>,
    entries: Vec<TreeEntry>,
    bytes: usize,
    /// First name and tree.
    finished: Vec<(Vec<u8>, BlobId)>,
}

impl<'b, 's> Builder<'b, 's> {
    /// An empty directory.
    pub fn new(saver: &'b Saver<'s>) -> Self {
        Self { saver, named: Vec::new(), entries: Vec::new(), bytes: 0, finished: Vec::new() }
    }

    /// The next entry; what it refers to is stored. Ends a stretch behind it where its name tag says.
    pub fn push(&mut self, named: MetaEntry, entry: TreeEntry) -> Result<()> {
        let (plain, xattrs) = meta_bytes(&named.name, &named.metadata);
        if self.bytes + plain + xattrs > META_BYTES {
            self.end_stretch()?;
        }
        self.bytes += plain + xattrs;
        let ends = ends_stretch(entry.tags.name);
        self.named.push(named);
        self.entries.push(entry);
        if ends || self.entries.len() == STRETCH_ENTRIES_MAX { self.end_stretch() } else { Ok(()) }
    }

    /// Ends the stretch that is open, if one is.
    pub fn end_stretch(&mut self) -> Result<()> {
        self.bytes = 0;
        let Some(first) = self.named.first() else { return Ok(()) };
        let first = first.name.clone();
        let meta = self.saver.store(BlobKind::Meta, &Meta::Stretch(std::mem::take(&mut self.named)).encode())?;
        let entries = std::mem::take(&mut self.entries);
        self.keep(first, meta, entries)
    }

    /// A whole stretch, one entry or more, whose names and attributes are stored as `meta`. No stretch is open.
    pub fn keep(&mut self, first: Vec<u8>, meta: BlobId, entries: Vec<TreeEntry>) -> Result<()> {
        let tree = Tree::Stretch { meta, entries };
        self.finished.push((first, self.saver.store(BlobKind::Tree, &tree.encode())?));
        Ok(())
    }

    /// The directory's tree.
    pub fn finish(mut self) -> Result<BlobId> {
        self.end_stretch()?;
        let (names, stretches): (Vec<_>, Vec<_>) = self.finished.into_iter().unzip();
        match stretches[..] {
            [] => {
                let meta = self.saver.store(BlobKind::Meta, &Meta::Stretch(Vec::new()).encode())?;
                self.saver.store(BlobKind::Tree, &Tree::Stretch { meta, entries: Vec::new() }.encode())
            }
            [tree] => Ok(tree),
            _ => {
                let meta = self.saver.store(BlobKind::Meta, &Meta::Split(names).encode())?;
                self.saver.store(BlobKind::Tree, &Tree::Split { meta, stretches }.encode())
            }
        }
    }
}
