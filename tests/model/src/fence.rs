//! The fence for stores that ignore create-only: there a tombstone might overwrite a snapshot, so open sessions are ended by
//! naming them (docs/protocol.md N1 to N12).
//!
//! # Expected flow
//! Put `gc/<gen>.fence` with one name more; then read the snapshot key of that session: absent = dead. The sweep lists the
//! dead, base takes them over. A session that finds itself named starts over; one that finds others named builds upon nothing of theirs.
//!
//! # Simplifications
//! Sessions are named one by one. The engine names several at once; what is decided of each depends on its own key alone.

use crate::config::{Config, Set, bit, has};
use crate::executor::Executor;
use crate::executor::Phase::{self, *};
use crate::mutants::Mutant;
use crate::state::Store;

/// N1: names `session`, to ask for its snapshot next.
pub fn name(config: &Config, store: &mut Store, executor: &mut Executor, session: u8) -> Phase {
    executor.asking = session;
    if config.lacks(Mutant::FenceBeforeKey) {
        look(store, executor);
    } else if !config.lacks(Mutant::NoTombstones) {
        put(config, store, executor);
    }
    AskFenced
}

/// N2: the snapshot key of the session that was named last.
pub fn ask(config: &Config, store: &mut Store, executor: &mut Executor) -> Phase {
    if config.lacks(Mutant::NoTombstones) {
        store.snapshots &= !bit(executor.asking as usize);
        store.tombstones |= bit(executor.asking as usize);
    } else if config.lacks(Mutant::FenceBeforeKey) {
        put(config, store, executor);
    } else {
        look(store, executor);
    }
    executor.asking = 0;
    Drain
}

fn put(config: &Config, store: &mut Store, executor: &mut Executor) {
    let one = bit(executor.asking as usize);
    executor.named = if config.lacks(Mutant::FenceGrows) { one } else { executor.named | one };
    store.generations[executor.generation as usize - 1].fence = executor.named;
}

fn look(store: &Store, executor: &mut Executor) {
    if !has(store.snapshots, executor.asking as usize) {
        executor.dead |= bit(executor.asking as usize);
    }
}

/// N3: the snapshots that an executor takes for committed: whatever arrives of those that it knows to be dead.
pub fn counted(config: &Config, store: &Store, executor: &Executor) -> Set {
    if config.lacks(Mutant::DeadLeftOut) { store.snapshots } else { store.snapshots & !executor.dead }
}
