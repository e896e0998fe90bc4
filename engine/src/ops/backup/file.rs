//! One file: extents, chunks, blobs, and the map that says how they lie.

use std::io::{self, Read};

use rayon::prelude::*;

use crate::chunker::Cuts;
use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::meta::{ChunkerKind, Map, Run};
use crate::format::tree::{FILE_CHUNKS_MAX, Tree, TreeKind};
use crate::id::BlobId;
use crate::source::{File, Stat};

use super::Walk;

/// A data extent of at least this many bytes is shared out to all threads.
const SHARED_FROM: u64 = 32 << 20;

/// What a file became.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) kind: TreeKind,
    pub(super) children: Vec<BlobId>,
    /// How many bytes it really had, holes included.
    pub(super) size: u64,
}

/// Why a file's content is not stored.
pub(super) enum Failed {
    /// The source failed: this file is left out.
    Source(io::Error),
    /// The backup failed.
    Backup(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Backup(e)
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Source(e)
    }
}

impl Walk<'_> {
    /// Stores the bytes of a file. What it holds beyond the size that `stat` tells is left for the next backup.
    pub(super) fn save_content(&self, file: &File, stat: &Stat) -> Result<Content, Failed> {
        if stat.size >= 1 << 20 {
            file.advise_sequential(stat.size);
        }
        let mut content = Builder::default();
        let mut end = 0;
        if stat.size <= u64::from(self.chunker.params().min()) && stat.blocks.saturating_mul(512) >= stat.size {
            self.save_small(file, stat.size, &mut content)?;
            return Ok(content.finish(self)?);
        }
        for extent in file.extents(stat.size) {
            let extent = extent?;
            content.hole(extent.start - end);
            let read = self.save_extent(file, extent.start, extent.len, &mut content)?;
            end = extent.start + read;
            if read < extent.len {
                // It became shorter while it was read.
                return Ok(content.finish(self)?);
            }
        }
        if end < stat.size {
            // A hole up to the end, or it became shorter: then nothing may be made up for what is gone.
            content.hole(file.stat()?.size.clamp(end, stat.size) - end);
        }
        Ok(content.finish(self)?)
    }

    fn save_small(&self, file: &File, size: u64, content: &mut Builder) -> Result<(), Failed> {
        let mut buffer = self.small_buffer();
        buffer.resize(size as usize, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(filled as u64, &mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled > 0 {
            self.check_cancel()?;
            content.data(self, filled as u64, self.store(BlobKind::Data, &buffer[..filled])?)?;
            self.progress.advance(0, filled as u64);
        }
        Ok(())
    }

    /// Stores one data extent; how many bytes it really had.
    fn save_extent(&self, file: &File, start: u64, len: u64, content: &mut Builder) -> Result<u64, Failed> {
        let reader = ExtentReader { file, at: start, end: start + len };
        if len >= SHARED_FROM
            && self.threads > 1
            && let Ok(_alone) = self.shared_file.try_lock()
        {
            return self.save_shared(reader, content);
        }
        self.save_stream(reader, content)
    }

    /// Stores what `reader` gives, chunk by chunk on this thread; how many bytes that was.
    pub(super) fn save_stream(&self, reader: impl Read, content: &mut Builder) -> Result<u64, Failed> {
        let mut total = 0;
        let mut cuts = Cuts::with_buffer(&self.chunker, reader, self.take_buffer());
        while let Some(chunk) = cuts.next_chunk()? {
            self.check_cancel()?;
            let len = chunk.len() as u64;
            content.data(self, len, self.store(BlobKind::Data, chunk)?)?;
            self.progress.advance(0, len);
            total += len;
        }
        self.give_buffer(cuts.into_buffer());
        Ok(total)
    }

    /// The same with the same cuts, but all threads hash, compress and seal: while they store one batch of chunks, the
    /// next is read and cut. One file at a time, because two batches are in memory.
    fn save_shared(&self, mut reader: impl Read + Send, content: &mut Builder) -> Result<u64, Failed> {
        let (mut total, mut spare) = (0, Vec::new());
        let mut batch = self.read_batch(&mut reader, &[], Vec::new())?;
        loop {
            let rest = &batch.bytes[batch.cut..];
            let at_end = batch.at_end;
            let (ids, next) = rayon::join(
                || self.store_batch(&batch),
                || if at_end { Ok(Batch::default()) } else { self.read_batch(&mut reader, rest, spare) },
            );
            for (len, id) in ids? {
                content.data(self, len, id)?;
                total += len;
            }
            if at_end {
                return Ok(total);
            }
            spare = std::mem::replace(&mut batch, next?).bytes;
        }
    }

    /// Fills `bytes`, which may be memory that was used before, with `rest` and what follows it.
    fn read_batch(&self, reader: &mut impl Read, rest: &[u8], mut bytes: Vec<u8>) -> io::Result<Batch> {
        let max = self.chunker.params().max() as usize;
        let capacity = self.batch_bytes.max(2 * max);
        bytes.clear();
        bytes.reserve_exact(capacity);
        bytes.extend_from_slice(rest);
        let mut batch = Batch { bytes, ..Batch::default() };
        let want = capacity - rest.len();
        let read = reader.take(want as u64).read_to_end(&mut batch.bytes)?;
        batch.at_end = read < want;
        while batch.cut < batch.bytes.len() && (batch.at_end || batch.bytes.len() - batch.cut >= max) {
            let len = self.chunker.cut(&batch.bytes[batch.cut..]);
            batch.chunks.push((batch.cut, len));
            batch.cut += len;
        }
        Ok(batch)
    }

    fn store_batch(&self, batch: &Batch) -> Result<Vec<(u64, BlobId)>> {
        batch
            .chunks
            .par_iter()
            .with_max_len(1)
            .map(|&(at, len)| {
                self.check_cancel()?;
                let id = self.store(BlobKind::Data, &batch.bytes[at..at + len])?;
                self.progress.advance(0, len as u64);
                Ok((len as u64, id))
            })
            .collect()
    }
}

/// Bytes of a large file, and where its chunks lie in them.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Start and length.
    chunks: Vec<(usize, usize)>,
    /// Where the first byte lies that no chunk holds yet.
    cut: usize,
    at_end: bool,
}

struct ExtentReader<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = (buf.len() as u64).min(self.end - self.at) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(self.at, &mut buf[..want])?;
        self.file.advise_dontneed(self.at, n as u64);
        self.at += n as u64;
        Ok(n)
    }
}

/// Gathers a file's pieces in order.
#[derive(Default)]
pub(super) struct Builder {
    runs: Vec<Run>,
    data: Vec<BlobId>,
    parts: Vec<(BlobId, u64)>,
    size: u64,
}

impl Builder {
    fn hole(&mut self, len: u64) {
        if len > 0 {
            match self.runs.last_mut() {
                Some(Run::Hole(before)) => *before += len,
                _ => self.runs.push(Run::Hole(len)),
            }
            self.size += len;
        }
    }

    fn data(&mut self, walk: &Walk<'_>, len: u64, id: BlobId) -> Result<()> {
        if self.data.len() == FILE_CHUNKS_MAX {
            self.end_part(walk)?;
        }
        self.runs.push(Run::Data(len));
        self.data.push(id);
        self.size += len;
        Ok(())
    }

    fn end_part(&mut self, walk: &Walk<'_>) -> Result<()> {
        let len = self.runs.iter().map(|r| r.len()).sum();
        let map = store_map(walk, std::mem::take(&mut self.runs))?;
        let part = Tree::Part { map, data: std::mem::take(&mut self.data) };
        self.parts.push((walk.store(BlobKind::Tree, &part.encode())?, len));
        Ok(())
    }

    pub(super) fn finish(mut self, walk: &Walk<'_>) -> Result<Content> {
        let size = self.size;
        if !self.parts.is_empty() {
            if !self.runs.is_empty() {
                self.end_part(walk)?;
            }
            let map = store_map(walk, self.parts.iter().map(|(_, len)| Run::Data(*len)).collect())?;
            let children = std::iter::once(map).chain(self.parts.into_iter().map(|(id, _)| id)).collect();
            return Ok(Content { kind: TreeKind::LargeFile, children, size });
        }
        match self.runs[..] {
            [] | [Run::Data(_)] => Ok(Content { kind: TreeKind::File, children: self.data, size }),
            _ => {
                let map = store_map(walk, self.runs)?;
                let children = std::iter::once(map).chain(self.data).collect();
                Ok(Content { kind: TreeKind::MappedFile, children, size })
            }
        }
    }
}

fn store_map(walk: &Walk<'_>, runs: Vec<Run>) -> Result<BlobId> {
    walk.store(BlobKind::Map, &Map { chunker: ChunkerKind::FastCdc, runs }.encode())
}
