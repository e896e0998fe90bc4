//! What all threads of one operation store with: a worker each, the chunker, and buffers that are used again.
//!
//! Each thread runs a file from reading to sealing while its bytes are in the cache. Only a very large extent is shared out.

use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard};

use rayon::prelude::*;

use crate::chunker::{Chunker, Cuts, Params, Table};
use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::id::BlobId;
use crate::progress::{Cancel, Progress};

use super::content::Builder;
use super::session::{Session, Worker};

/// An extent of at least this many bytes is shared out to all threads.
const SHARED_FROM: u64 = 32 << 20;

/// Why a file's content is not stored.
#[derive(Debug)]
pub enum Failed {
    /// Where it comes from failed.
    Source(io::Error),
    /// Storing it failed.
    Store(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Source(e)
    }
}

/// Stores blobs and cuts files, for the threads of one rayon pool.
pub struct Saver<'s> {
    session: &'s Session,
    chunker: Chunker,
    /// One for each thread of the pool.
    workers: Vec<Mutex<Worker<'s>>>,
    small: Vec<Mutex<Vec<u8>>>,
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Held by the one large extent that is shared out.
    shared: Mutex<()>,
    batch_bytes: usize,
    progress: &'s dyn Progress,
    cancel: &'s Cancel,
}

impl<'s> Saver<'s> {
    /// For a pool of `threads`; all of its other calls come from that pool's threads.
    pub fn new(session: &'s Session, threads: usize, progress: &'s dyn Progress, cancel: &'s Cancel) -> Result<Self> {
        let repo = session.repository();
        let params = repo.config().chunker;
        let params = Params::new(params.min, params.avg, params.max, params.normalization)
            .map_err(|e| Error::damaged("config", e))?;
        let d_chunk = repo.bundle().domain.d_chunk.as_ref().expect("owners and writers hold D_chunk");
        Ok(Self {
            session,
            chunker: Chunker::new(params, Table::derive(d_chunk)),
            workers: (0..threads).map(|_| Mutex::new(session.worker())).collect(),
            small: (0..threads).map(|_| Mutex::default()).collect(),
            buffers: Mutex::default(),
            shared: Mutex::default(),
            batch_bytes: (repo.options().memory as usize / 16).min(16 << 20),
            progress,
            cancel,
        })
    }

    /// The session that it stores into.
    pub fn session(&self) -> &'s Session {
        self.session
    }

    /// Whom to tell.
    pub fn progress(&self) -> &'s dyn Progress {
        self.progress
    }

    /// Fails once the operation was asked to end.
    pub fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_canceled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn thread(&self) -> usize {
        rayon::current_thread_index().expect("the walk runs in its pool")
    }

    /// Stores a blob with this thread's worker.
    pub fn store(&self, kind: BlobKind, raw: &[u8]) -> Result<BlobId> {
        self.workers[self.thread()].lock().expect("no panic while held").store(kind, raw)
    }

    /// Seals what waits in groups. Before the session commits.
    pub fn flush(&self) -> Result<()> {
        self.workers.iter().try_for_each(|w| w.lock().expect("no panic while held").flush())
    }

    /// Up to so many bytes are one chunk, whatever they are.
    pub fn min_chunk(&self) -> u64 {
        u64::from(self.chunker.params().min())
    }

    /// This thread's buffer for something small. Not to be held while anything else is stored in parallel.
    pub fn small_buffer(&self) -> MutexGuard<'_, Vec<u8>> {
        self.small[self.thread()].lock().expect("no panic while held")
    }

    /// Stores one extent of about `len` bytes; how many it really had.
    pub fn save_extent(&self, reader: impl Read + Send, len: u64, content: &mut Builder) -> Result<u64, Failed> {
        if len >= SHARED_FROM
            && self.workers.len() > 1
            && let Ok(_alone) = self.shared.try_lock()
        {
            return self.save_shared(reader, content);
        }
        self.save_stream(reader, content)
    }

    /// Stores what `reader` gives, chunk by chunk on this thread; how many bytes that was.
    pub fn save_stream(&self, reader: impl Read, content: &mut Builder) -> Result<u64, Failed> {
        let mut total = 0;
        let buffer = self.buffers.lock().expect("no panic while held").pop().unwrap_or_default();
        let mut cuts = Cuts::with_buffer(&self.chunker, reader, buffer);
        while let Some(chunk) = cuts.next_chunk()? {
            self.check_cancel()?;
            let len = chunk.len() as u64;
            content.data(self, len, self.store(BlobKind::Data, chunk)?)?;
            self.progress.advance(0, len);
            total += len;
        }
        self.buffers.lock().expect("no panic while held").push(cuts.into_buffer());
        Ok(total)
    }

    /// The same with the same cuts, but all threads hash, compress and seal: while they store one batch of chunks, the
    /// next is read and cut. One extent at a time, because two batches are in memory.
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
