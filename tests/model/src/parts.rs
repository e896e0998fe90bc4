//! Parts and wholes: a snapshot that several sessions share (docs/protocol.md S1 to S3).
//!
//! # Expected flow
//! A run opens its session. Another session, which knows the run, backs up as any other does and commits a part that names it.
//! Once that is reported the run commits the whole, whose tree has the part's root in it: it looks nothing up, uploads
//! nothing, and claims nothing. Nobody lists a part. It lives as long as a whole may come of its run, and then with its whole.
//!
//! # Simplifications
//! One part a run. The k-th session of process 1 names the k-th session of process 0.

use crate::config::{Config, Set, bit, each, has};
use crate::mutants::Mutant;
use crate::state::{Base, State, Store, newer};

/// What counts as forgotten, by what a LIST of snap/ and forget/ shows beside `base`, which was read before: what a record names, and parts whose run
/// has ended without a whole, or whose whole is forgotten.
pub fn forgotten(config: &Config, base: &Base, store: &Store, snapshots: Set) -> Set {
    let parts = config.part_sessions();
    if config.lacks(Mutant::PartsCount) {
        return store.forgets | parts;
    }
    let ended = store.tombstones | base.dead | config.below(&base.floors);
    let over = (ended & !base.known & !newer(config, base, snapshots)) | base.gone | store.forgets;
    each(parts).filter(|&part| has(over, config.run_of(part))).fold(store.forgets, |set, part| set | bit(part))
}

/// Whether the run of `session` can commit its whole.
pub fn is_ready(config: &Config, state: &State, session: usize) -> bool {
    let own = session + config.attempts;
    if config.lacks(Mutant::PartsReported) {
        return has(state.store.segments | state.reported, own);
    }
    if config.lacks(Mutant::OwnParts) {
        return state.reported & config.part_sessions() != 0;
    }
    has(state.reported, own)
}
