//! Chunks in memory, verified once: a file is read in pieces much smaller than its chunks.
//!
//! A chunk that several readers want is fetched by one of them; the others wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;

use crate::error::Result;
use crate::id::BlobId;

use super::lru::Lru;

/// Blobs up to this length share frames with others: a slice of one would keep the whole frame in memory.
const COPIED_UP_TO: usize = 64 << 10;

/// Chunks by id, and the fetches under way.
#[derive(Debug)]
pub(super) struct Chunks(Mutex<State>);

#[derive(Debug)]
struct State {
    held: Lru<BlobId, Bytes>,
    flights: HashMap<BlobId, Arc<Flight>>,
}

/// A fetch that others can wait for.
#[derive(Debug, Default)]
struct Flight {
    /// `Some(None)`: it failed.
    landed: Mutex<Option<Option<Bytes>>>,
    changed: Condvar,
}

impl Flight {
    fn land(&self, bytes: Option<Bytes>) {
        *self.landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        self.changed.notify_all();
    }

    fn wait(&self) -> Option<Bytes> {
        let landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        let landed = self.changed.wait_while(landed, |l| l.is_none()).unwrap_or_else(PoisonError::into_inner);
        landed.clone().flatten()
    }
}

/// Lands a flight as failed unless it was landed before: also where its fetch panics.
struct Landing<'c> {
    chunks: &'c Chunks,
    id: BlobId,
    flight: Arc<Flight>,
    bytes: Option<Bytes>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut state = self.chunks.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.flights.remove(&self.id);
        if let Some(bytes) = &self.bytes {
            state.held.put(self.id, bytes.clone(), bytes.len());
        }
        drop(state);
        self.flight.land(self.bytes.take());
    }
}

enum Found {
    Held(Bytes),
    Flying(Arc<Flight>),
    Missing(Arc<Flight>),
}

impl Chunks {
    /// Holds up to `cap` bytes.
    pub(super) fn new(cap: usize) -> Self {
        Self(Mutex::new(State { held: Lru::new(cap), flights: HashMap::new() }))
    }

    /// The chunk `id`, from memory or by `fetch`. Whoever waited for a fetch that failed fetches again and so has an
    /// error of its own to tell.
    pub(super) fn get(&self, id: &BlobId, fetch: impl Fn(&BlobId) -> Result<Bytes>) -> Result<Bytes> {
        match self.find(id) {
            Found::Held(bytes) => Ok(bytes),
            Found::Flying(flight) => flight.wait().map_or_else(|| fetch(id).map(own), Ok),
            Found::Missing(flight) => {
                let mut landing = Landing { chunks: self, id: *id, flight, bytes: None };
                let bytes = own(fetch(id)?);
                landing.bytes = Some(bytes.clone());
                Ok(bytes)
            }
        }
    }

    /// Whether nobody has it, and nobody fetches it.
    pub(super) fn lacks(&self, id: &BlobId) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !state.flights.contains_key(id) && state.held.get(id).is_none()
    }

    fn find(&self, id: &BlobId) -> Found {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = state.held.get(id) {
            return Found::Held(bytes);
        }
        if let Some(flight) = state.flights.get(id) {
            return Found::Flying(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::default());
        state.flights.insert(*id, Arc::clone(&flight));
        Found::Missing(flight)
    }
}

fn own(bytes: Bytes) -> Bytes {
    if bytes.len() <= COPIED_UP_TO { Bytes::copy_from_slice(&bytes) } else { bytes }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    const ID: BlobId = BlobId::from_bytes([1; 32]);

    #[test]
    fn one_fetches_for_all_who_wait() {
        let (chunks, fetched) = (Chunks::new(1 << 20), AtomicU32::new(0));
        let fetch = |_: &BlobId| {
            fetched.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            Ok(Bytes::from_static(b"chunk"))
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(chunks.get(&ID, fetch).unwrap(), "chunk"));
            }
        });
        assert_eq!(fetched.into_inner(), 1);
        assert!(!chunks.lacks(&ID));
    }

    #[test]
    fn a_failed_fetch_fails_everybody_and_is_not_remembered() {
        let chunks = Chunks::new(1 << 20);
        let fail = |_: &BlobId| {
            std::thread::sleep(Duration::from_millis(50));
            Err(Error::damaged("pack", "broken"))
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(matches!(chunks.get(&ID, fail), Err(Error::Damaged { .. }))));
            }
        });
        assert!(chunks.lacks(&ID));
        assert_eq!(chunks.get(&ID, |_| Ok(Bytes::from_static(b"x"))).unwrap(), "x");
    }

    #[test]
    fn a_fetch_that_panics_leaves_nobody_waiting() {
        let chunks = Chunks::new(1 << 20);
        let panics = std::panic::AssertUnwindSafe(|| chunks.get(&ID, |_| panic!("in the test")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(chunks.get(&ID, |_| Ok(Bytes::from_static(b"x"))).unwrap(), "x");
    }
}
