//! The walks: one verb each, each reads from top to bottom in its own file.

pub mod backup;
pub mod check;
pub mod diff;
pub mod find;
pub mod forget;
pub mod restore;
pub mod stats;
pub mod vfs;

use crate::crypto::rng::{Rng, SeededRng, draw};
use crate::error::{Error, Result};
use crate::progress::Cancel;

/// Why an operation failed: once it was asked to end, whatever broke off is because of that.
fn reason(cancel: &Cancel, error: Error) -> Error {
    if cancel.is_canceled() { Error::Interrupted } else { error }
}

/// Sessions of one operation, if each is ended by others.
const ATTEMPTS: usize = 4;

/// Runs a session, and where others have ended it another, which uses what it stored; only one unless it can be done `again`.
fn persist<T>(again: bool, cancel: &Cancel, what: &str, mut session: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..if again { ATTEMPTS } else { 1 } {
        match session() {
            Err(Error::Fenced(how)) if !cancel.is_canceled() => tracing::warn!("{what} starts over: {how}"),
            done => return done.map_err(|e| reason(cancel, e)),
        }
    }
    session().map_err(|e| reason(cancel, e))
}

/// Stack of the threads that walk: a directory takes a few kilobytes, and they may be [`DEPTH_MAX`](crate::format::tree::DEPTH_MAX) deep. It is only
/// reserved; what is not used takes no memory.
const STACK_BYTES: usize = 256 << 20;

/// The threads of a walk.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(STACK_BYTES)
        .thread_name(|n| format!("copal-{n}"))
        .build()
        .map_err(|e| Error::Invalid(format!("cannot start {threads} threads: {e}")))
}

/// Another stream of random numbers, as good as what it is drawn from: the session's threads draw from it.
fn split(rng: &mut dyn Rng) -> SeededRng {
    SeededRng::new(draw::<32>(rng))
}
