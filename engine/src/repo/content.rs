//! What a file becomes: its chunks and holes in order, then the map that says how they lie (docs/format.md "Tree blobs").

use crate::error::Result;
use crate::format::blob::BlobKind;
use crate::format::meta::{ChunkerKind, Map, Run};
use crate::format::tree::{FILE_CHUNKS_MAX, Tree, TreeKind};
use crate::id::BlobId;

use super::save::Saver;

/// What a file became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// One of the three kinds of files.
    pub kind: TreeKind,
    /// As the kind says.
    pub children: Vec<BlobId>,
    /// How many bytes it really had, holes included.
    pub size: u64,
}

/// Gathers a file's pieces in order.
#[derive(Debug, Default)]
pub struct Builder {
    runs: Vec<Run>,
    data: Vec<BlobId>,
    parts: Vec<(BlobId, u64)>,
    size: u64,
}

impl Builder {
    /// So many bytes of nothing follow.
    pub fn hole(&mut self, len: u64) {
        if len > 0 {
            match self.runs.last_mut() {
                Some(Run::Hole(before)) => *before += len,
                _ => self.runs.push(Run::Hole(len)),
            }
            self.size += len;
        }
    }

    /// A chunk of `len` bytes follows, which is stored.
    pub fn data(&mut self, saver: &Saver<'_>, len: u64, id: BlobId) -> Result<()> {
        if self.data.len() == FILE_CHUNKS_MAX {
            self.end_part(saver)?;
        }
        self.runs.push(Run::Data(len));
        self.data.push(id);
        self.size += len;
        Ok(())
    }

    fn end_part(&mut self, saver: &Saver<'_>) -> Result<()> {
        let len = self.runs.iter().map(|r| r.len()).sum();
        let map = store_map(saver, std::mem::take(&mut self.runs))?;
        let part = Tree::Part { map, data: std::mem::take(&mut self.data) };
        self.parts.push((saver.store(BlobKind::Tree, &part.encode())?, len));
        Ok(())
    }

    /// Stores its maps and parts.
    pub fn finish(mut self, saver: &Saver<'_>) -> Result<Content> {
        let size = self.size;
        if !self.parts.is_empty() {
            if !self.runs.is_empty() {
                self.end_part(saver)?;
            }
            let map = store_map(saver, self.parts.iter().map(|(_, len)| Run::Data(*len)).collect())?;
            let children = std::iter::once(map).chain(self.parts.into_iter().map(|(id, _)| id)).collect();
            return Ok(Content { kind: TreeKind::LargeFile, children, size });
        }
        match self.runs[..] {
            [] | [Run::Data(_)] => Ok(Content { kind: TreeKind::File, children: self.data, size }),
            _ => {
                let map = store_map(saver, self.runs)?;
                let children = std::iter::once(map).chain(self.data).collect();
                Ok(Content { kind: TreeKind::MappedFile, children, size })
            }
        }
    }
}

fn store_map(saver: &Saver<'_>, runs: Vec<Run>) -> Result<BlobId> {
    saver.store(BlobKind::Map, &Map { chunker: ChunkerKind::FastCdc, runs }.encode())
}
