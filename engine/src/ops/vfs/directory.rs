//! Stored directories, decoded and kept in a bounded cache, a stretch at a time.

use std::sync::{Arc, Mutex, OnceLock};

use crate::error::{Error, Result};
use crate::format::node::NodeKind;
use crate::format::tree::TreeKind;
use crate::id::BlobId;
use crate::repo::{Node, Reader};

use super::layout::{Content, Part};
use super::lru::Lru;

/// The stretches of a directory: first name (none where there is only one), and tree.
pub(super) type Listing = Vec<(Option<Vec<u8>>, BlobId)>;

/// The entries of one stretch.
#[derive(Debug)]
pub(super) struct Stretch {
    entries: Vec<(Node, OnceLock<u64>)>,
}

impl Stretch {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn node(&self, at: usize) -> Option<&Node> {
        self.entries.get(at).map(|(node, _)| node)
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|(node, _)| node.name.as_slice().cmp(name)).ok()
    }

    /// Bytes of the file at `at` that are in no hole; read once from its maps, and remembered as long as the stretch is.
    pub(super) fn data_bytes(&self, reader: &Reader, at: usize) -> Result<u64> {
        let (node, known) = &self.entries[at];
        match node.kind {
            TreeKind::MappedFile | TreeKind::LargeFile => {}
            _ => return Ok(node.size()),
        }
        if let Some(&known) = known.get() {
            return Ok(known);
        }
        let sum = match Content::read(reader, node)? {
            Content::Whole(layout) => layout.data_bytes(),
            Content::Parts { ends, trees } => parts_data_bytes(reader, &ends, &trees)?,
        };
        Ok(*known.get_or_init(|| sum))
    }

    /// Heap that it takes, about, in bytes.
    fn weight(&self) -> usize {
        self.entries.iter().map(|(node, _)| weight(node)).sum::<usize>() + size_of::<Self>()
    }
}

fn parts_data_bytes(reader: &Reader, ends: &[u64], trees: &[BlobId]) -> Result<u64> {
    let (mut sum, mut offset) = (0, 0);
    while let Some(part) = Part::at(ends, trees, offset) {
        sum += part.layout(reader)?.data_bytes();
        offset = part.end;
    }
    Ok(sum)
}

fn weight(node: &Node) -> usize {
    let m = &node.metadata;
    let link = if let NodeKind::Symlink { target } = &m.kind { target.len() } else { 0 };
    let xattrs: usize = m.xattrs.iter().map(|x| size_of_val(x) + x.name.len() + x.value.len()).sum();
    let ids = node.children.len() * BlobId::LEN;
    size_of::<(Node, OnceLock<u64>)>() + node.name.len() + m.user.len() + m.group.len() + link + xattrs + ids
}

/// Directories and stretches by their tree.
#[derive(Debug)]
pub(super) struct Directories {
    listings: Mutex<Lru<BlobId, Arc<Listing>>>,
    stretches: Mutex<Lru<BlobId, Arc<Stretch>>>,
}

impl Directories {
    /// Keeps up to `cap` bytes, a quarter of them for lists of stretches.
    pub(super) fn new(cap: usize) -> Self {
        Self { listings: Mutex::new(Lru::new(cap / 4)), stretches: Mutex::new(Lru::new(cap - cap / 4)) }
    }

    /// The stretches of the directory `tree`.
    pub(super) fn listing(&self, reader: &Reader, tree: &BlobId) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.lock().expect("no panic while held").get(tree) {
            return Ok(listing);
        }
        let listing = Arc::new(reader.stretches(tree)?);
        let names: usize = listing.iter().map(|(first, _)| first.as_ref().map_or(0, Vec::len)).sum();
        let weight = names + listing.len() * size_of::<(Option<Vec<u8>>, BlobId)>();
        self.listings.lock().expect("no panic while held").put(*tree, Arc::clone(&listing), weight);
        Ok(listing)
    }

    /// The entries of one stretch.
    pub(super) fn stretch(&self, reader: &Reader, id: &BlobId) -> Result<Arc<Stretch>> {
        if let Some(stretch) = self.held(id) {
            return Ok(stretch);
        }
        let nodes = reader.one_stretch(id)?;
        let stretch = Arc::new(Stretch { entries: nodes.into_iter().map(|node| (node, OnceLock::new())).collect() });
        let weight = stretch.weight();
        self.stretches.lock().expect("no panic while held").put(*id, Arc::clone(&stretch), weight);
        Ok(stretch)
    }

    /// As [`Directories::stretch`], where it is in memory.
    pub(super) fn held(&self, id: &BlobId) -> Option<Arc<Stretch>> {
        self.stretches.lock().expect("no panic while held").get(id)
    }

    /// Number `n` of a directory's stretches, which must begin with the name that the directory gives it.
    pub(super) fn nth(&self, reader: &Reader, listing: &Listing, n: usize) -> Result<(BlobId, Arc<Stretch>)> {
        let (first, id) = &listing[n];
        let stretch = self.stretch(reader, id)?;
        if first.is_some() && first.as_ref() != stretch.node(0).map(|node| &node.name) {
            return Err(Error::damaged(
                format!("directory {}", id.short()),
                "it begins with another name than it should",
            ));
        }
        Ok((*id, stretch))
    }

    /// The entry `name` of the directory `tree`: its stretch, and its position there.
    pub(super) fn find(
        &self,
        reader: &Reader,
        tree: &BlobId,
        name: &[u8],
    ) -> Result<Option<(BlobId, Arc<Stretch>, usize)>> {
        let listing = self.listing(reader, tree)?;
        let after = listing.partition_point(|(first, _)| first.as_deref().is_none_or(|first| first <= name));
        let Some(n) = after.checked_sub(1) else { return Ok(None) };
        let (id, stretch) = self.nth(reader, &listing, n)?;
        Ok(stretch.position(name).map(|at| (id, stretch, at)))
    }
}
