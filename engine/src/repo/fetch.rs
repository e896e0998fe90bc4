//! Reading many frames with few requests: near ones together, several requests at once, in bounded memory.
//!
//! **Expected flow**: [`spans`] plans which ranges of packs to read; [`Fetcher::start`] begins; any number of threads call
//! [`Fetcher::next`] until there is nothing left. Every span comes exactly once, also one that could not be read, in no
//! particular order.
//!
//! **Memory**: what is being read, what was read and waits, and what a thread holds as [`Fetched`], together never exceed the
//! bytes given to [`Fetcher::start`], or one span where that alone is larger.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::format::objects;
use crate::store::{Key, Store, StoreError};

use super::index::Found;
use super::open::{Repository, key};
use super::reader::READ_STEP;

/// Bytes that nobody wants are read too where they lie between wanted ones and are no more than this: about what a store
/// moves in the time that another request would take to begin.
pub const GAP_MAX: u64 = 256 << 10;
/// A span ends once it is so long; one frame may be longer.
pub const SPAN_BYTES_MAX: u64 = 4 << 20;

/// A frame that is wanted, with what for.
#[derive(Debug)]
pub struct Wanted<T> {
    /// Where it lies: that of any blob in it.
    pub copy: Found,
    /// What the caller wants it for.
    pub what: T,
}

/// A range of one pack that is read at once.
#[derive(Debug)]
pub struct Span<T> {
    object: Key,
    range: Range<u64>,
    /// The frames in it, in the order in which they lie.
    pub frames: Vec<Wanted<T>>,
}

/// Plans the fewest ranges that are not wasteful. Frames in any order; ranges start at multiples of [`READ_STEP`].
pub fn spans<T>(mut frames: Vec<Wanted<T>>) -> Vec<Span<T>> {
    frames.sort_by_cached_key(|w| (w.copy.pack_id(), w.copy.entry.offset));
    let mut spans: Vec<Span<T>> = Vec::new();
    let mut open: Option<(crate::id::PackId, u64)> = None;
    for wanted in frames {
        let id = wanted.copy.pack_id();
        let (start, end) = extent(&wanted.copy);
        match (&mut open, spans.last_mut()) {
            (Some((pack, size)), Some(span)) if *pack == id && joins(&span.range, start, end) => {
                span.range.end = span.range.end.max(end.next_multiple_of(READ_STEP).min(*size));
                span.frames.push(wanted);
            }
            _ => {
                let pack = wanted.copy.pack();
                let object = key(objects::pack(pack.writer, pack.session, pack.seq, pack.id));
                // The index is not trusted with offsets: what lies behind the pack's end is not asked for.
                let to = end.next_multiple_of(READ_STEP).min(pack.size);
                let range = (start / READ_STEP * READ_STEP).min(to)..to;
                open = Some((id, pack.size));
                spans.push(Span { object, range, frames: vec![wanted] });
            }
        }
    }
    spans
}

fn extent(copy: &Found) -> (u64, u64) {
    let start = u64::from(copy.entry.offset);
    (start, start + u64::from(copy.entry.stored))
}

fn joins(range: &Range<u64>, start: u64, end: u64) -> bool {
    start <= range.end + GAP_MAX && end.next_multiple_of(READ_STEP) - range.start <= SPAN_BYTES_MAX || end <= range.end
}

impl<T> Span<T> {
    /// How many bytes it takes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A span that was read, or could not be. Its memory counts until it is dropped.
#[derive(Debug)]
pub struct Fetched<T> {
    /// What was asked for.
    pub span: Span<T>,
    bytes: Result<Bytes, StoreError>,
    _room: OwnedSemaphorePermit,
}

impl<T> Fetched<T> {
    /// The `n`th of the span's frames, sealed. [`Error::Damaged`] if its pack is gone, or shorter than the index says.
    pub fn frame(&self, n: usize) -> Result<&[u8]> {
        let bytes = match &self.bytes {
            Ok(bytes) => bytes,
            Err(e) => return Err(Error::damaged(self.span.object.as_str(), e)),
        };
        let (start, end) = extent(&self.span.frames[n].copy);
        let inside = |at: u64| at.checked_sub(self.span.range.start).and_then(|at| usize::try_from(at).ok());
        inside(start)
            .zip(inside(end))
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(|| Error::damaged(self.span.object.as_str(), "it is shorter than the index says"))
    }

    /// Fails where the store failed, rather than the pack is damaged or missing.
    pub fn check(&mut self) -> Result<()> {
        match &self.bytes {
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => Ok(()),
            Err(_) => match std::mem::replace(&mut self.bytes, Ok(Bytes::new())) {
                Err(e) => Err(e.into()),
                Ok(_) => unreachable!("it was an error a line before"),
            },
        }
    }
}

/// Reads spans ahead of the threads that use them.
#[derive(Debug)]
pub struct Fetcher<T> {
    fetched: Mutex<mpsc::Receiver<Fetched<T>>>,
    driver: JoinHandle<()>,
}

impl<T> Drop for Fetcher<T> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<T: Send + 'static> Fetcher<T> {
    /// Begins to read `spans`, about in their order, with as many requests at once as the repository was opened for and
    /// at most `memory` bytes.
    pub fn start(repo: &Repository, spans: Vec<Span<T>>, memory: u64) -> Self {
        let connections = repo.options.connections.max(1);
        let (sender, receiver) = mpsc::channel(connections);
        let driver = drive(Arc::clone(&repo.store), spans, connections, units(memory), sender);
        Self { fetched: Mutex::new(receiver), driver: repo.bridge.spawn(driver) }
    }

    /// The next span that is there; waits for it. `None` when all came. Must not be called from a task of a runtime.
    pub fn next(&self) -> Option<Fetched<T>> {
        self.fetched.lock().expect("no panic while held").blocking_recv()
    }
}

/// Memory is counted in steps of [`READ_STEP`], at least one.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(READ_STEP)).unwrap_or(u32::MAX).clamp(1, 1 << 28)
}

async fn drive<T: Send + 'static>(
    store: Arc<dyn Store>,
    spans: Vec<Span<T>>,
    connections: usize,
    memory: u32,
    sender: mpsc::Sender<Fetched<T>>,
) {
    let room = Arc::new(Semaphore::new(memory as usize));
    let mut running = JoinSet::new();
    for span in spans {
        while running.len() >= connections {
            joined(running.join_next().await);
        }
        let wanted = units(span.bytes()).min(memory);
        let room = Arc::clone(&room).acquire_many_owned(wanted).await.expect("it is never closed");
        let (store, sender) = (Arc::clone(&store), sender.clone());
        running.spawn(async move {
            let bytes = match span.range.is_empty() {
                true => Ok(Bytes::new()),
                false => store.get_range(&span.object, span.range.clone()).await,
            };
            // Nobody listens any more: the fetcher was dropped.
            let _ = sender.send(Fetched { span, bytes, _room: room }).await;
        });
    }
    while !running.is_empty() {
        joined(running.join_next().await);
    }
}

fn joined(ended: Option<Result<(), tokio::task::JoinError>>) {
    ended.expect("not empty").expect("a call of the store does not panic");
}
