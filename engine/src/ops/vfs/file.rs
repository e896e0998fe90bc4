//! Open files: bytes at an offset, holes and data, and the chunk that will be wanted next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::id::BlobId;
use crate::repo::{Node, Piece, Reader};

use super::chunks::Chunks;
use super::layout::{Content, Layout, Part, unfit};
use super::lru::Lru;

/// Reads whose start is so near to the end of the one before count as going on: the kernel's read-ahead overtakes itself.
const NEAR: u64 = 1 << 20;
/// Chunks that may wait to be read ahead; more are not asked for.
const AHEAD_QUEUE: usize = 8;
/// Threads that read ahead.
const AHEAD_THREADS: usize = 2;

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is in no hole.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: u64,
    node: Node,
    content: Content,
    /// Where the last read ended.
    read_to: AtomicU64,
}

impl OpenFile {
    /// Opens `node`; reads its map where it has one.
    pub(super) fn open(reader: &Reader, ino: u64, node: Node) -> Result<Self> {
        let content = Content::read(reader, &node)?;
        Ok(Self { ino, node, content, read_to: AtomicU64::new(0) })
    }

    /// Whether a read from `offset` to `end` goes on where the last one ended, and more of the file follows.
    fn goes_on(&self, offset: u64, end: u64) -> bool {
        let before = self.read_to.swap(end, Ordering::Relaxed);
        before > 0 && end < self.node.size() && offset.abs_diff(before) <= NEAR
    }
}

/// The caches that reads go through.
#[derive(Debug)]
pub(super) struct Contents {
    chunks: Chunks,
    /// Layouts of parts of very large files, by the part's tree.
    parts: Mutex<Lru<BlobId, Arc<Layout>>>,
}

/// A stretch of pieces, and where it starts in the file.
enum Stage<'f> {
    Own(&'f Layout),
    Part(Arc<Layout>, u64),
}

impl Stage<'_> {
    /// The piece at `offset` of the file and those behind it, with offsets in the file.
    fn pieces_from(&self, offset: u64) -> impl Iterator<Item = Piece> + '_ {
        let (layout, start) = match self {
            Self::Own(layout) => (*layout, 0),
            Self::Part(layout, start) => (&**layout, *start),
        };
        layout.pieces_from(offset - start).map(move |p| Piece { offset: p.offset + start, ..p })
    }
}

impl Contents {
    /// Keeps up to `chunk_bytes` of chunks, and `part_bytes` of layouts.
    pub(super) fn new(chunk_bytes: usize, part_bytes: usize) -> Self {
        Self { chunks: Chunks::new(chunk_bytes), parts: Mutex::new(Lru::new(part_bytes)) }
    }

    /// Up to `len` bytes at `offset`: fewer only at the end of the file.
    pub(super) fn read(&self, reader: &Reader, file: &OpenFile, offset: u64, len: u32) -> Result<Bytes> {
        let end = offset.saturating_add(u64::from(len)).min(file.node.size());
        let (mut at, mut out) = (offset, Vec::new());
        while at < end {
            let stage = self.stage(reader, file, at)?.ok_or_else(|| unfit(&file.node, "it ends too early"))?;
            for piece in stage.pieces_from(at).take_while(|p| p.offset < end) {
                let (from, to) = ((at - piece.offset) as usize, (end - piece.offset).min(piece.len) as usize);
                match piece.data {
                    None => out.resize(out.len() + to - from, 0),
                    Some(id) => {
                        let chunk = self.chunk(reader, &id, piece.len)?;
                        if out.is_empty() && piece.offset + to as u64 == end {
                            return Ok(chunk.slice(from..to));
                        }
                        out.extend_from_slice(&chunk[from..to]);
                    }
                }
                at = piece.offset + to as u64;
            }
        }
        Ok(out.into())
    }

    /// The first byte at or after `offset` that is what `seek` looks for; `None`: there is none.
    pub(super) fn seek(&self, reader: &Reader, file: &OpenFile, offset: u64, seek: Seek) -> Result<Option<u64>> {
        let size = file.node.size();
        let mut at = offset;
        while at < size {
            let stage = self.stage(reader, file, at)?.ok_or_else(|| unfit(&file.node, "it ends too early"))?;
            for piece in stage.pieces_from(at) {
                if piece.data.is_some() == (seek == Seek::Data) {
                    return Ok(Some(piece.offset.max(offset)));
                }
                at = piece.offset + piece.len;
            }
        }
        Ok((offset < size && seek == Seek::Hole).then_some(size))
    }

    fn stage<'f>(&self, reader: &Reader, file: &'f OpenFile, offset: u64) -> Result<Option<Stage<'f>>> {
        let (ends, trees) = match &file.content {
            Content::Whole(layout) => return Ok(Some(Stage::Own(layout))),
            Content::Parts { ends, trees } => (ends, trees),
        };
        let Some(part) = Part::at(ends, trees, offset) else { return Ok(None) };
        let held = self.parts.lock().expect("no panic while held").get(&part.tree);
        let layout = match held {
            Some(layout) if layout.size() == part.end - part.start => layout,
            _ => {
                let layout = Arc::new(part.layout(reader)?);
                let weight = layout.weight();
                self.parts.lock().expect("no panic while held").put(part.tree, Arc::clone(&layout), weight);
                layout
            }
        };
        Ok(Some(Stage::Part(layout, part.start)))
    }

    fn chunk(&self, reader: &Reader, id: &BlobId, len: u64) -> Result<Bytes> {
        let chunk = self.chunks.get(id, |id| reader.blob(id, BlobKind::Data))?;
        if chunk.len() as u64 != len {
            return Err(Error::damaged(
                format!("data blob {}", id.short()),
                "it is not as long as the file's map says",
            ));
        }
        Ok(chunk)
    }

    /// Fetches the first chunk behind `offset` that is not in memory, looking one chunk further than the one at `offset`.
    fn fetch_ahead(&self, reader: &Reader, file: &OpenFile, offset: u64) -> Result<()> {
        let Some(stage) = self.stage(reader, file, offset)? else { return Ok(()) };
        let next = stage.pieces_from(offset).filter_map(|p| Some((p.data?, p.len))).take(2);
        match next.into_iter().find(|(id, _)| self.chunks.lacks(id)) {
            Some((id, len)) => self.chunk(reader, &id, len).map(drop),
            None => Ok(()),
        }
    }
}

/// Reads the next chunk of a file before it is asked for. Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct ReadAhead(SyncSender<(Arc<OpenFile>, u64)>);

impl ReadAhead {
    /// Starts its threads; `reader` gives the one of the moment.
    pub(super) fn start(
        contents: &Arc<Contents>,
        reader: impl Fn() -> Arc<Reader> + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(AHEAD_QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..AHEAD_THREADS {
            let (contents, reader, receiver) = (Arc::clone(contents), reader.clone(), Arc::clone(&receiver));
            std::thread::Builder::new().name("read-ahead".into()).spawn(move || {
                while let Some((file, offset)) = next(&receiver) {
                    // Whoever reads the chunk meets the same error and tells it.
                    let _ = contents.fetch_ahead(&reader(), &file, offset);
                }
            })?;
        }
        Ok(Self(sender))
    }

    /// After a read of `file` from `offset` to `end`.
    pub(super) fn after(&self, file: &Arc<OpenFile>, offset: u64, end: u64) {
        if file.goes_on(offset, end) {
            let _ = self.0.try_send((Arc::clone(file), end));
        }
    }
}

fn next(receiver: &Mutex<Receiver<(Arc<OpenFile>, u64)>>) -> Option<(Arc<OpenFile>, u64)> {
    receiver.lock().ok()?.recv().ok()
}
