//! P6 to P8: the base that records the generation, the deletions, and what is tidied up.
//!
//! # Expected flow
//! Read the newest base: done there = tidy up only. List snapshots, forgets, tombstones; rewrite segments under a pinned
//! session; look at its key; create the next base; list the bases: under a higher one that lacks the change once more.
//! End the session by a tombstone; delete packs, replaced segments, pins below the floor, the dead; the sweep; the condemn.
//!
//! # Simplifications
//! Deleting all packs of a sweep is one step, for each deletion only takes away. Operations without work are skipped.

use crate::config::{Config, HISTORY, Set, bit, has, own_packs, rewrite_sessions};
use crate::executor::Executor;
use crate::executor::Phase::{self, *};
use crate::executor::hold_below;
use crate::fence;
use crate::fold::{Change, Created, Replacement, apply, create};
use crate::mutants::Mutant;
use crate::parts;
use crate::state::{Base, Store};

/// Does the operation of the present phase and returns the next one.
pub fn next(config: &Config, store: &mut Store, executor: &mut Executor) -> Phase {
    match executor.phase {
        ReadHead => read_head(config, store, executor),
        ListSnapshots => {
            executor.snapshots = fence::counted(config, store, executor);
            executor.forgets = parts::forgotten(config, &executor.base, store, executor.snapshots);
            executor.tombstones = store.tombstones;
            if executor.session == 0 { CreateBase } else { LookAtOwnKey }
        }
        PinRewrite => {
            store.pins |= bit(executor.session);
            PutSegment
        }
        PutSegment => {
            let plain = next_base(config, store, executor);
            let output = executor.session;
            executor.replacement = Replacement { inputs: plain.segments, output };
            store.lists[output] = store.listed_by(plain.segments) & !plain.dropped & !executor.packs;
            store.segments |= bit(output);
            LookAtOwnKey
        }
        LookAtOwnKey => {
            if has(store.tombstones, executor.session) && !config.lacks(Mutant::OwnKey) {
                executor.replacement = Replacement::default();
            }
            CreateBase
        }
        CreateBase => create_base(config, store, executor),
        ListBases if store.base.number > executor.created => ReadHead,
        ListBases => executor.applied(),
        EndRewrite => {
            store.tombstones |= bit(std::mem::take(&mut executor.session));
            DeletePacks
        }
        _ => delete(config, store, executor),
    }
}

/// The newest base, read after the condemn and the sweep: is the generation done?
fn read_head(config: &Config, store: &Store, executor: &mut Executor) -> Phase {
    executor.base = store.base;
    if !has(store.base.done, executor.generation as usize) {
        return ListSnapshots;
    }
    if executor.created == 0 && !config.lacks(Mutant::DoneIsDone) {
        return DeleteSweep;
    }
    // Another executor's base: what this one listed was perhaps not listed before it.
    if !config.lacks(Mutant::DeadBeforeOwnBase) {
        executor.tombstones = 0;
    }
    if !config.lacks(Mutant::ObsoleteInHead) {
        executor.obsolete = executor.replacement.obsolete(&store.base);
    }
    executor.applied()
}

/// The session in which executor `e` may rewrite segments now.
pub fn rewrites(config: &Config, store: &Store, executor: &Executor, e: usize) -> Option<usize> {
    let free = rewrite_sessions(e).into_iter().find(|&session| !has(store.pins, session));
    free.filter(|_| config.rewrite && executor.session == 0 && executor.phase == ListSnapshots)
}

fn create_base(config: &Config, store: &mut Store, executor: &mut Executor) -> Phase {
    let next = next_base(config, store, executor);
    executor.created = executor.base.number + 1;
    match create(config, store, executor.base.number, next) {
        Created::Taken => ReadHead,
        Created::Yes => {
            executor.obsolete = executor.replacement.obsolete(&next);
            executor.base = Base { number: executor.created, ..next };
            ListBases
        }
    }
}

fn next_base(config: &Config, store: &Store, executor: &Executor) -> Base {
    let mut floors = executor.floors;
    if !config.lacks(Mutant::FloorBelowDrained) {
        hold_below(config, &mut floors, executor.open);
    }
    let Executor { packs: drop, dead, generation, replacement, .. } = *executor;
    apply(
        config,
        store,
        &executor.base,
        executor.snapshots,
        executor.forgets,
        &Change { drop, dead, floors, generation, replacement },
    )
}

impl Executor {
    /// The generation is done in the newest base. What is needed no more is forgotten.
    fn applied(&mut self) -> Phase {
        (self.open, self.snapshots, self.floors, self.created) = (0, 0, Default::default(), 0);
        (self.named, self.dead) = (0, 0);
        self.replacement = Replacement::default();
        if self.session == 0 { DeletePacks } else { EndRewrite }
    }
}

/// P7 and P8.
fn delete(config: &Config, store: &mut Store, executor: &mut Executor) -> Phase {
    let base = executor.base;
    let below = config.below(&base.floors);
    match executor.phase {
        DeletePacks => {
            store.packs &= !std::mem::take(&mut executor.packs);
            if executor.obsolete == 0 { DeletePins } else { DeleteSegments }
        }
        DeleteSegments => {
            store.segments &= !std::mem::take(&mut executor.obsolete);
            DeletePins
        }
        DeletePins => {
            store.pins &= if config.lacks(Mutant::PinsBelowFloor) { 0 } else { !below };
            DeleteDead
        }
        DeleteDead => {
            let dead = dead(executor, below);
            store.segments &= !(dead & !base.segments);
            if config.lacks(Mutant::UnlistedOnlyCondemned) {
                store.packs &= !(own_packs(dead) & !store.listed_by(base.segments));
            }
            let ended = if config.lacks(Mutant::TombstonesBelowFloor) { executor.tombstones } else { below };
            store.tombstones &= !ended;
            store.snapshots &= !(below & !base.known);
            let counted = if config.lacks(Mutant::RecordsCounted) { Set::MAX } else { base.counted };
            store.forgets &= !(executor.forgets & counted);
            store.older_bases &= !(bit(base.number as usize) - 1);
            DeleteSweep
        }
        DeleteSweep => {
            let generation = &mut store.generations[executor.generation as usize - 1];
            (generation.sweep, generation.dead) = (None, 0);
            *executor = Executor { generation: executor.generation, ..Executor::default() };
            if generation.fence == 0 { DeleteCondemn } else { DeleteFence }
        }
        DeleteFence => {
            store.generations[executor.generation as usize - 1].fence = 0;
            DeleteCondemn
        }
        _ => {
            store.generations[executor.generation as usize - 1].condemn = None;
            executor.restart()
        }
    }
}

/// Sessions whose unlisted segments nobody will ever list.
fn dead(executor: &Executor, below: Set) -> Set {
    let base = &executor.base;
    (executor.tombstones | below | base.dead) & !base.known & !base.gone & !bit(HISTORY)
}
