//! Stats: sizes and counts of snapshots, from trees and the index; no content is read.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::format::node::NodeKind;
use crate::id::{BlobId, PackId};
use crate::repo::index::{Found, Index};
use crate::repo::walk::Descend;
use crate::repo::{Node, Reader};

/// What a set of snapshots takes when it is restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreSize {
    /// Entries of all kinds.
    pub files: u64,
    /// Bytes of files; several names of a file count once in each snapshot.
    pub bytes: u64,
}

/// What blobs a set of snapshots refers to.
#[derive(Debug, Default)]
pub struct Blobs {
    seen: HashSet<BlobId>,
    frames: HashSet<(PackId, u32)>,
    /// Their plaintext, in bytes.
    pub raw_bytes: u64,
    /// The frames that hold them, in bytes. Frames that also hold other blobs count in full.
    pub stored_bytes: u64,
    /// Blobs that the index does not know.
    pub missing: u64,
}

impl Blobs {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Adds all blobs below `root`, one pass over trees that were not seen before.
    pub fn add(
        &mut self,
        reader: &Reader,
        root: &BlobId,
        damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        let index = reader.index();
        if self.seen.contains(root) {
            return Ok(());
        }
        reader.each_directory_blob(root, &mut |id, _| {
            self.take(&index, id);
            Ok(())
        })?;
        let mut visit = |_: &[u8], node: &Node| {
            if node.tree().is_some_and(|tree| self.seen.contains(&tree)) {
                return Ok(Descend::Over);
            }
            let done = reader.each_blob(node, &mut |id, _| {
                self.take(&index, id);
                Ok(())
            });
            match done {
                // Read again, and then reported, when the walk goes into it.
                Err(Error::Damaged { .. }) => Ok(Descend::Into),
                done => done.map(|()| Descend::Into),
            }
        };
        reader.walk(root, b"", &mut visit, damaged)
    }

    fn take(&mut self, index: &Index, id: BlobId) {
        if !self.seen.insert(id) {
            return;
        }
        let mut copies: Vec<Found> = Vec::new();
        index.lookup(&id, &mut copies);
        let Some(copy) = copies.first() else {
            self.missing += 1;
            return;
        };
        self.raw_bytes += u64::from(copy.entry.len);
        if self.frames.insert((copy.pack_id(), copy.entry.offset)) {
            self.stored_bytes += u64::from(copy.entry.stored);
        }
    }
}

/// Adds what restoring the snapshot with this root takes.
pub fn restore_size(
    reader: &Reader,
    root: &BlobId,
    size: &mut RestoreSize,
    damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
) -> Result<()> {
    let mut links = HashSet::new();
    let mut visit = |_: &[u8], node: &Node| {
        size.files += 1;
        if node.metadata.hardlink.is_none_or(|link| links.insert((link.dev, link.ino))) {
            size.bytes += node.size();
        }
        Ok(Descend::Into)
    };
    reader.walk(root, b"", &mut visit, damaged)
}

/// How many files there are below `root`, how many data blobs they have together, and their bytes.
pub fn blobs_per_file(
    reader: &Reader,
    root: &BlobId,
    damaged: &mut dyn FnMut(&[u8], Error) -> Result<()>,
) -> Result<[u64; 3]> {
    let mut counts = [0; 3];
    let mut visit = |_: &[u8], node: &Node| {
        if matches!(node.metadata.kind, NodeKind::File { .. }) {
            counts[0] += 1;
            counts[2] += node.size();
            reader.each_piece(node, &mut |piece| {
                counts[1] += u64::from(piece.data.is_some());
                Ok(())
            })?;
        }
        Ok(Descend::Into)
    };
    reader.walk(root, b"", &mut visit, damaged)?;
    Ok(counts)
}
