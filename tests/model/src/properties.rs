//! What must hold in every reachable state, and what must be reachable.

use stateright::Property;

use crate::config::{CHILD, Config, First, TREE, has};
use crate::executor;
use crate::run::Protocol;
use crate::state::State;
use crate::writer::Phase;

/// Every live snapshot's blobs are readable.
pub const RESTORABLE: &str = "every committed snapshot that is not forgotten can be restored";
/// Nothing that was reported as committed vanishes.
pub const KEPT: &str = "no snapshot reported as committed is lost from base and snap/";
/// What was given up stays given up, unless its prune had seen it committed when it was named.
pub const GIVEN_UP: &str = "no session that was given up is committed, but for one that a fence named";
/// 404s are always explained.
pub const EXPLAINED: &str = "a 404 in a view is explained by a newer base";
/// Floors keep off open sessions.
pub const OUTLIVES: &str = "no floor passes a session that is open and not fenced";
/// Garbage can go, and the protocol's own objects with it.
pub const CLEAN: &str = "a prune ends without garbage";
/// Sessions commit.
pub const COMMITS: &str = "every writer commits";
/// A prune need not fence sessions that open during it.
pub const BESIDE_NEW: &str = "a prune passes a session that opened after its condemn";
/// A prune need not fence sessions that it found open.
pub const BESIDE_OLD: &str = "a prune passes a session that was open before its condemn";

/// The properties that the configuration can show.
pub fn properties(config: &Config) -> Vec<Property<Protocol>> {
    let writes = config.first == First::Begins || config.attempts > 1;
    let mut properties = vec![
        Property::always(RESTORABLE, |model: &Protocol, state: &State| restorable(&model.config, state)),
        Property::always(KEPT, |model: &Protocol, state: &State| kept(&model.config, state)),
        Property::always(GIVEN_UP, |model: &Protocol, state: &State| {
            state.abandoned & !state.named & state.live(&model.config) == 0
        }),
        Property::always(EXPLAINED, |_: &Protocol, state: &State| explained(state)),
        Property::always(OUTLIVES, |model: &Protocol, state: &State| outlives(&model.config, state)),
    ];
    if writes {
        let commits = |model: &Protocol, state: &State| committed(&model.config, state);
        properties.push(Property::sometimes(COMMITS, commits));
    }
    if config.prunes > 0 {
        properties.push(Property::sometimes(CLEAN, |model: &Protocol, state: &State| clean(&model.config, state)));
    }
    if config.prunes > 0 && config.writers > 0 && writes {
        properties.extend([
            Property::sometimes(BESIDE_NEW, |model: &Protocol, state: &State| beside(&model.config, state, true)),
            Property::sometimes(BESIDE_OLD, |model: &Protocol, state: &State| beside(&model.config, state, false)),
        ]);
    }
    properties
}

fn restorable(config: &Config, state: &State) -> bool {
    state.live(config) == 0 || state.readable(config) == CHILD | TREE
}

fn kept(config: &Config, state: &State) -> bool {
    state.reported & config.wholes() & !state.forgotten & !state.live(config) == 0
}

fn explained(state: &State) -> bool {
    state.executors.iter().all(|executor| executor.phase != executor::Phase::Failed)
        && state.writers.iter().all(|writer| writer.phase != Phase::Failed)
}

/// A session past its opening that is below its floor was fenced, or has committed.
fn outlives(config: &Config, state: &State) -> bool {
    let passed = config.below(&state.store.base.floors) & !state.ended;
    state.writers[..config.writers].iter().enumerate().all(|(p, writer)| {
        let open = (Phase::ListSnapshots..=Phase::Commit).contains(&writer.phase);
        !(open && has(passed, config.session(p, writer.attempt)))
    })
}

fn committed(config: &Config, state: &State) -> bool {
    state.writers[..config.writers].iter().all(|writer| writer.phase == Phase::Done)
}

/// All prunes are done, nothing of theirs stands, and every pack is needed: one pack a blob, or none without snapshots.
fn clean(config: &Config, state: &State) -> bool {
    let store = &state.store;
    let done = store.base.done.count_ones() == u32::from(config.prunes);
    let packs = if state.live(config) == 0 { 0 } else { 2 };
    done && store.active() == 0 && state.writers_rest(config) && store.packs.count_ones() <= packs
}

/// An executor is past P3 while a session that it found open, old or new, is neither ended nor fenced.
fn beside(config: &Config, state: &State, at_open: bool) -> bool {
    let open = !state.store.snapshots & !state.store.tombstones;
    state.executors.iter().any(|executor| {
        (executor::Phase::ReadClaims..=executor::Phase::ListBases).contains(&executor.phase)
            && state.writers[..config.writers].iter().enumerate().any(|(p, writer)| {
                let session = config.session(p, writer.attempt);
                writer.phase < Phase::Done
                    && has(writer.known_at_open, executor.generation as usize) == at_open
                    && has(executor.open & open, session)
            })
    })
}

impl State {
    fn writers_rest(&self, config: &Config) -> bool {
        self.writers[..config.writers].iter().all(|writer| writer.phase >= Phase::Done)
    }
}
