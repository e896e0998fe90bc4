//! The store's content, the ghosts that properties need, and what can be derived from them.

use crate::config::{
    CHILD, Config, EXECUTORS_MAX, First, GENERATIONS, PACKS, SESSIONS, Set, TREE, WRITERS_MAX, bit, each, has,
};
use crate::executor::Executor;
use crate::fold::Folder;
use crate::mutants::Mutant;
use crate::writer::Writer;

/// `base/<n>`: the folded state. Only the highest one is held in full, for nobody reads another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base {
    /// n, from 0.
    pub number: u8,
    /// Segments listed.
    pub segments: Set,
    /// Packs that a listed segment mentions and that a prune has dropped.
    pub dropped: Set,
    /// Sessions whose snapshots are known and not forgotten.
    pub known: Set,
    /// Sessions whose snapshots were folded and forgotten, until the floor passes them.
    pub gone: Set,
    /// Per writer: sessions with a lower number that are not known are dead for ever.
    pub floors: [u8; WRITERS_MAX],
    /// Sessions that a sweep has declared dead, until the floor passes them.
    pub dead: Set,
    /// Generations that are done.
    pub done: Set,
    /// Sessions whose forget records are done.
    pub counted: Set,
}

/// `gc/<gen>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Condemn {
    /// Packs proposed for deletion.
    pub packs: Set,
    /// Floors proposed.
    pub floors: [u8; WRITERS_MAX],
}

/// Everything that stands for one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// `gc/<gen>`.
    pub condemn: Option<Condemn>,
    /// `gc/<gen>.sweep`: the final list.
    pub sweep: Option<Set>,
    /// The other list of the sweep: sessions that were fenced by name and had no snapshot.
    pub dead: Set,
    /// Sessions that `gc/<gen>.fence` names; 0: there is none.
    pub fence: Set,
    /// Sessions with an ack.
    pub acks: Set,
    /// Packs that acks of sessions 0..=4 claim.
    pub claims: [Set; 5],
}

impl Generation {
    /// Whether anything of it stands under gc/.
    pub fn is_active(&self) -> bool {
        self.condemn.is_some() || self.sweep.is_some() || self.fence != 0
    }

    /// What "condemned" means now: the sweep's list once there is one.
    pub fn condemned(&self) -> Set {
        self.sweep.or(self.condemn.map(|condemn| condemn.packs)).unwrap_or(0)
    }

    /// The floors that it proposes.
    pub fn floors(&self) -> [u8; WRITERS_MAX] {
        self.condemn.unwrap_or_default().floors
    }
}

/// Every object that stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Packs present.
    pub packs: Set,
    /// Blobs of each pack. Fixed by the pack's name, so they stay when it is deleted: an index entry still tells them.
    pub blobs: [Set; PACKS],
    /// Segments present.
    pub segments: Set,
    /// Packs that each segment lists (fixed by its hash). 0: the session has no segment.
    pub lists: [Set; SESSIONS],
    /// Sessions with a pin.
    pub pins: Set,
    /// Sessions with a snapshot at `snap/<writer>/<session>`.
    pub snapshots: Set,
    /// Sessions with a tombstone there.
    pub tombstones: Set,
    /// Sessions that a `forget/<n>` names.
    pub forgets: Set,
    /// Generations 1, 2, 3.
    pub generations: [Generation; GENERATIONS],
    /// The highest base.
    pub base: Base,
    /// Lower base numbers that are still occupied.
    pub older_bases: Set,
}

/// One state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The store.
    pub store: Store,
    /// The writer processes.
    pub writers: [Writer; WRITERS_MAX],
    /// The processes that prune.
    pub executors: [Executor; EXECUTORS_MAX],
    /// The maintainer that folds.
    pub folder: Folder,
    /// Ghost: condemns created so far.
    pub created: u8,
    /// Ghost: sessions whose snapshot has been sent at least once, so that it may still arrive.
    pub sent: Set,
    /// Ghost: sessions that ever had a snapshot or a tombstone.
    pub ended: Set,
    /// Ghost: sessions reported as committed.
    pub reported: Set,
    /// Ghost: sessions that their process gave up.
    pub abandoned: Set,
    /// Ghost: sessions that were ever forgotten.
    pub forgotten: Set,
    /// Ghost: sessions that a fence ever named.
    pub named: Set,
    /// Packs that may still be lost.
    pub losses: u8,
    /// LISTs that may still be short.
    pub short_lists: u8,
}

impl State {
    /// The repository with one snapshot, folded into base 0, and all processes at their start.
    pub fn initial(config: &Config) -> State {
        let mut blobs = [0; PACKS];
        (blobs[0], blobs[1]) = if config.split { (TREE, CHILD) } else { (TREE | CHILD, TREE | CHILD) };
        let mut lists = [0; SESSIONS];
        lists[0] = 0b11;
        let base = if config.unfolded { Base::default() } else { Base { segments: 1, known: 1, ..Base::default() } };
        let store = Store {
            packs: 0b11,
            blobs,
            segments: 1,
            lists,
            pins: 0,
            snapshots: 1,
            tombstones: 0,
            forgets: 0,
            generations: Default::default(),
            base,
            older_bases: 0,
        };
        let mut state = State {
            store,
            writers: std::array::from_fn(|p| start(config, p)),
            executors: Default::default(),
            folder: Folder::start(config.fold),
            created: 0,
            sent: 0,
            ended: 0,
            reported: 0,
            abandoned: 0,
            forgotten: 0,
            named: 0,
            losses: config.losses,
            short_lists: config.short_lists,
        };
        if config.first != First::Begins {
            state.crash_first();
        }
        if config.first == First::Fenced {
            state.store.tombstones |= bit(1);
            (state.ended, state.abandoned) = (bit(1), bit(1));
        }
        state
    }

    /// Session 1 is gone after it had sent its snapshot.
    fn crash_first(&mut self) {
        let store = &mut self.store;
        store.packs |= bit(2);
        store.blobs[2] = TREE | CHILD;
        store.segments |= bit(1);
        store.lists[1] = bit(2);
        store.pins |= bit(1);
        self.sent = bit(1);
    }

    /// Snapshots that a reader of the current store takes as existing and not forgotten.
    pub fn live(&self, config: &Config) -> Set {
        let base = &self.store.base;
        (base.known | newer(config, base, self.store.undoubted())) & config.wholes() & !self.store.forgets
    }

    /// Blobs that a reader finds: in a pack that is present and that base or a committed snapshot publishes.
    pub fn readable(&self, config: &Config) -> Set {
        let store = &self.store;
        let segments = store.base.segments | newer(config, &store.base, store.undoubted());
        let published = store.listed_by(segments & store.segments) & !store.base.dropped;
        store.blobs_of(published & store.packs)
    }
}

/// Process `p` at its start. Where session 1 is gone, its process has begun the next one.
fn start(config: &Config, p: usize) -> Writer {
    let attempt = u8::from(p == 0 && config.first != First::Begins);
    Writer { attempt, ..Writer::start(p < config.writers && (attempt as usize) < config.attempts) }
}

/// Committed snapshots among `snapshots` that `base` has not taken in: neither known, nor folded and forgotten, nor
/// dead.
pub fn newer(config: &Config, base: &Base, snapshots: Set) -> Set {
    let dead = if config.lacks(Mutant::DeadBelowFloor) { 0 } else { config.below(&base.floors) };
    snapshots & !base.known & !base.gone & !base.dead & !dead
}

impl Store {
    /// Packs that any of `segments` lists.
    pub fn listed_by(&self, segments: Set) -> Set {
        each(segments).fold(0, |packs, segment| packs | self.lists[segment])
    }

    /// Blobs that any of `packs` holds.
    pub fn blobs_of(&self, packs: Set) -> Set {
        each(packs).fold(0, |blobs, pack| blobs | self.blobs[pack])
    }

    /// Those of `packs` that hold `blob`.
    pub fn holding(&self, packs: Set, blob: Set) -> Set {
        each(packs).filter(|&p| self.blobs[p] & blob != 0).fold(0, |set, p| set | bit(p))
    }

    /// Those of `sessions` that have a segment.
    pub fn with_segment(&self, sessions: Set) -> Set {
        each(sessions).filter(|&s| self.lists[s] != 0).fold(0, |set, s| set | bit(s))
    }

    /// The numbers of the generations of which anything stands under gc/.
    pub fn active(&self) -> Set {
        let active = |g: &usize| self.generations[g - 1].is_active();
        (1..=GENERATIONS).filter(active).fold(0, |set, g| set | bit(g))
    }

    /// Packs that the generations of `numbers` condemn.
    pub fn condemned_by(&self, numbers: Set) -> Set {
        each(numbers).fold(0, |packs, g| packs | self.generations[g - 1].condemned())
    }

    /// Whether a base of this number stands.
    pub fn has_base(&self, number: u8) -> bool {
        number == self.base.number || has(self.older_bases, number as usize)
    }

    /// Snapshots that stand, but for those whose sessions a standing sweep has declared dead.
    fn undoubted(&self) -> Set {
        self.snapshots & !self.generations.iter().fold(0, |dead, generation| dead | generation.dead)
    }

    /// Sessions that a fence names.
    pub fn fenced(&self) -> Set {
        self.generations.iter().fold(0, |named, generation| named | generation.fence)
    }

    /// Sessions that are open in the eyes of `base`: a pin, no snapshot, no tombstone, not dead.
    pub fn open(&self, config: &Config, base: &Base, pins: Set) -> Set {
        pins & !self.snapshots & !self.tombstones & !base.dead & !config.below(&base.floors)
    }
}
