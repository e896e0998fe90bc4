//! What must hold in every reachable state, and what must be reachable.

use stateright::Property;

use crate::config::{CHILD, Config, TREE, has};
use crate::pruner;
use crate::run::Protocol;
use crate::state::State;
use crate::writer::Phase;

/// Every live snapshot's blobs are readable.
pub const RESTORABLE: &str = "every committed snapshot that is not forgotten can be restored";
/// Nothing that was reported as committed vanishes.
pub const KEPT: &str = "no snapshot reported as committed is lost from base and snap/";
/// What was given up stays given up.
pub const GIVEN_UP: &str = "no session that was given up is committed";
/// 404s are always explained.
pub const EXPLAINED: &str = "a 404 in a view is explained by a newer base";
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
    let mut properties = vec![
        Property::always(RESTORABLE, |model: &Protocol, state: &State| restorable(&model.config, state)),
        Property::always(KEPT, |model: &Protocol, state: &State| kept(&model.config, state)),
        Property::always(GIVEN_UP, |model: &Protocol, state: &State| state.abandoned & state.live(&model.config) == 0),
        Property::always(EXPLAINED, |_: &Protocol, state: &State| explained(state)),
        Property::sometimes(COMMITS, |model: &Protocol, state: &State| committed(&model.config, state)),
    ];
    if config.prunes > 0 {
        properties.push(Property::sometimes(CLEAN, |model: &Protocol, state: &State| clean(&model.config, state)));
    }
    if config.prunes > 0 && config.writers > 0 {
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
    state.reported & !state.forgotten & !state.live(config) == 0
}

fn explained(state: &State) -> bool {
    state.pruner.phase != pruner::Phase::Failed && state.writers.iter().all(|writer| writer.phase != Phase::Failed)
}

fn committed(config: &Config, state: &State) -> bool {
    state.writers[..config.writers].iter().all(|writer| writer.phase == Phase::Done)
}

/// All prunes are done, nothing of theirs stands, and every pack is needed: one pack a blob, or none without snapshots.
fn clean(config: &Config, state: &State) -> bool {
    let store = &state.store;
    let retired = state.pruner.generation == config.prunes && store.gc.is_none() && state.writers_rest(config);
    let packs = if state.live(config) == 0 { 0 } else { 2 };
    retired && store.packs.count_ones() <= packs
}

/// The pruner is past P3 while a session that it found open, old or new, is neither ended nor fenced.
fn beside(config: &Config, state: &State, at_open: bool) -> bool {
    let pruner = &state.pruner;
    (pruner::Phase::ReadClaims..=pruner::Phase::ListBases).contains(&pruner.phase)
        && state.writers[..config.writers].iter().enumerate().any(|(p, writer)| {
            let session = config.session(p, writer.attempt);
            writer.phase < Phase::Done
                && writer.known_at_open == at_open
                && has(pruner.open & !state.store.snapshots & !state.store.tombstones, session)
        })
}

impl State {
    fn writers_rest(&self, config: &Config) -> bool {
        self.writers[..config.writers].iter().all(|writer| writer.phase >= Phase::Done)
    }
}
