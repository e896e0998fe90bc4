//! P4 and P5: which of the condemned packs may go, and the sweep that says so.
//!
//! # Expected flow
//! Read the acks; gc; base; forgets and snapshots; base once more; the segments. Keep what is claimed and what holds the
//! last copy of a live blob. Create the sweep; where one stands already, its list holds.

use crate::config::{CHILD, Config, Set, TREE, WITH_TREE, bit, each};
use crate::executor::Phase::{self, *};
use crate::executor::{Executor, committed};
use crate::fence;
use crate::mutants::Mutant;
use crate::parts;
use crate::state::{Base, Generation, Store, newer};

/// The packs that `base` and the snapshots newer than it publish.
pub fn published(config: &Config, store: &Store, base: &Base, snapshots: Set) -> Set {
    let segments = base.segments | store.with_segment(newer(config, base, snapshots));
    store.listed_by(segments & store.segments) & !base.dropped
}

/// Does the operation of the present phase and returns the next one.
pub fn next(config: &Config, store: &mut Store, executor: &mut Executor) -> Phase {
    let g = executor.generation as usize - 1;
    let late_gc = config.lacks(Mutant::GcBeforeBase);
    match executor.phase {
        ReadClaims => {
            let claims = store.generations[g].claims;
            let counted = each(0b1_1111 & !store.tombstones).map(|s| claims[s]);
            executor.claimed = if config.lacks(Mutant::Claimed) { 0 } else { counted.fold(0, |set, c| set | c) };
            if late_gc { ReadBase } else { ReadGc }
        }
        ReadGc => {
            executor.others = store.condemned_by(store.active() & !bit(g + 1));
            if late_gc { Mark } else { ReadBase }
        }
        ReadBase => {
            executor.base = store.base;
            ListMarked
        }
        ListMarked => {
            executor.snapshots = fence::counted(config, store, executor);
            executor.forgets = parts::forgotten(config, &executor.base, store, executor.snapshots);
            ReadBaseAgain
        }
        ReadBaseAgain if store.base.number > executor.base.number && !config.lacks(Mutant::MarkBaseAgain) => ReadBase,
        ReadBaseAgain => {
            if late_gc {
                ReadGc
            } else {
                Mark
            }
        }
        Mark => mark(config, store, executor, false),
        _ => {
            let Generation { sweep, dead, .. } = &mut store.generations[g];
            match *sweep {
                Some(standing) if !config.lacks(Mutant::SweepCreateOnly) && !config.by_name => {
                    if !config.lacks(Mutant::StandingSweep) {
                        executor.packs = standing;
                    }
                }
                _ => (*sweep, *dead) = (Some(executor.packs), executor.dead),
            }
            if config.lacks(Mutant::FenceUntilBase) {
                store.generations[g].fence = 0;
            }
            ReadHead
        }
    }
}

/// The last reads of P4, of the segments, and the verdict.
pub fn mark(config: &Config, store: &Store, executor: &mut Executor, last: bool) -> Phase {
    let base = std::mem::take(&mut executor.base);
    let (snapshots, forgets) = (std::mem::take(&mut executor.snapshots), std::mem::take(&mut executor.forgets));
    let segments = base.segments | store.with_segment(newer(config, &base, snapshots));
    if segments & !store.segments != 0 {
        return if store.base.number > base.number { ReadGc } else { Failed };
    }
    let mut copies = published(config, store, &base, snapshots);
    if config.lacks(Mutant::PublishedCopies) {
        copies = store.listed_by(store.segments) & !base.dropped;
    }
    let others = std::mem::take(&mut executor.others);
    let others = if config.lacks(Mutant::OtherGenerations) { 0 } else { others };
    let is_live = committed(config, &base, snapshots) & WITH_TREE & !forgets != 0;
    executor.packs &= !std::mem::take(&mut executor.claimed);
    if is_live && !config.lacks(Mutant::LastCopy) {
        keep_last_copies(store, &mut executor.packs, copies, others, last);
    }
    CreateSweep
}

/// Takes from `sweep` what holds the last copy of a blob. Where all copies are condemned by others too, all stay.
fn keep_last_copies(store: &Store, sweep: &mut Set, copies: Set, others: Set, last: bool) {
    for blob in [CHILD, TREE] {
        let all = store.holding(copies, blob);
        if all & !others & !*sweep != 0 {
            continue;
        }
        let own = all & !others;
        let kept = if last { each(own).last() } else { each(own).next() };
        *sweep &= !kept.map_or(all, bit);
    }
}
