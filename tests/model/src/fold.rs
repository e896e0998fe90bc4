//! The base chain (P6), and the maintainer that folds: P6 with an empty condemn set.
//!
//! # Expected flow of one attempt
//! Read the highest base n; list snapshots and forgets; compute the next base; look at the own snapshot key; create
//! n+1; list the bases again: under a higher one the same change is applied once more to that. A change that alters
//! nothing is done. Older bases may be deleted at any time, so a slow executor can create a number that was in use
//! before, below the present head: that is why creating n+1 alone proves nothing.

use crate::config::{Config, FOLDER, Fold, Set, WRITERS_MAX, bit, each, has, own_packs};
use crate::mutants::Mutant;
use crate::state::{Base, State, Store, newer};

/// Segments `inputs` are replaced by `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replacement {
    /// Segments that go; empty: no replacement.
    pub inputs: Set,
    /// The segment that comes.
    pub output: usize,
}

impl Replacement {
    /// The segments that it takes out of `next`, if it applied there.
    pub fn obsolete(&self, next: &Base) -> Set {
        if has(next.segments, self.output) { self.inputs & !next.segments } else { 0 }
    }
}

/// What one executor changes in base, apart from taking in what was committed and forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// Packs that a sweep drops.
    pub drop: Set,
    /// Sessions that it declares dead.
    pub dead: Set,
    /// Floors proposed, already held below every session that was open.
    pub floors: [u8; WRITERS_MAX],
    /// The generation that is done by it; 0: none.
    pub generation: u8,
    /// A rewritten segment.
    pub replacement: Replacement,
}

/// The base after `base`, given what stood under snap/ and forget/ when they were listed.
///
/// Numbers are left as they are; the result equals `base` if there is nothing to change.
pub fn apply(config: &Config, store: &Store, base: &Base, snapshots: Set, forgets: Set, change: &Change) -> Base {
    let mut next = *base;
    let new = newer(config, base, snapshots);
    let folded = if config.lacks(Mutant::FoldForgotten) { new & !forgets } else { new };
    next.segments |= store.with_segment(folded);
    next.gone |= (base.known | new) & forgets;
    next.known = (base.known | new) & !forgets;
    next.counted |= (base.known | new) & forgets;
    let Replacement { inputs, output } = change.replacement;
    if inputs != 0 && (inputs & !next.segments == 0 || config.lacks(Mutant::InputsListed)) {
        next.segments = (next.segments & !inputs) | bit(output);
    }
    for (floor, proposed) in next.floors.iter_mut().zip(change.floors) {
        *floor = proposed.max(*floor);
    }
    next.dropped = (next.dropped | change.drop) & remembered(config, store, &next);
    next.dead = (next.dead | change.dead) & !config.below(&next.floors);
    if config.lacks(Mutant::DeadRemembered) {
        next.dead = 0;
    }
    next.gone &= !config.below(&next.floors);
    if config.lacks(Mutant::GoneUntilFloor) {
        next.gone = 0;
    }
    if change.generation != 0 {
        next.done |= bit(change.generation as usize);
    }
    next
}

/// The packs that `next` says are dropped if they are: listed ones, and unlisted ones that may yet be adopted.
fn remembered(config: &Config, store: &Store, next: &Base) -> Set {
    let adoptable = own_packs(config.writer_sessions() & !config.below(&next.floors));
    store.listed_by(next.segments) | if config.lacks(Mutant::UnlistedDropped) { 0 } else { adoptable }
}

/// How creating a base went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It stands, above or below the head.
    Yes,
    /// Its number was taken.
    Taken,
}

/// Creates `base/<n+1>` with the content of `next`, where n is the number of the base that was read.
pub fn create(config: &Config, store: &mut Store, read: u8, mut next: Base) -> Created {
    next.number = read + 1;
    let occupied = store.has_base(next.number);
    if occupied && !config.lacks(Mutant::BaseCreateOnly) && !config.by_name {
        return Created::Taken;
    }
    if next.number < store.base.number {
        store.older_bases |= bit(next.number as usize);
        return Created::Yes;
    }
    if next.number > store.base.number {
        store.older_bases |= bit(store.base.number as usize);
    }
    store.base = next;
    Created::Yes
}

/// The folder's next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each names the operation")]
pub enum Phase {
    Pin,
    ReadBase,
    ListSnapshots,
    PutSegment,
    LookAtOwnKey,
    Create,
    ListBases,
    DeleteObsolete,
    End,
    Stopped,
}

use Phase::*;

/// The maintainer that folds once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Folder {
    /// The next operation.
    pub phase: Phase,
    /// The base that was read.
    pub base: Base,
    /// Snapshots and forgets listed after it.
    pub snapshots: Set,
    /// See `snapshots`.
    pub forgets: Set,
    /// What it changes.
    pub change: Change,
    /// The number that it created or tried to.
    pub created: u8,
    /// Segments that its replacement has taken out.
    pub obsolete: Set,
}

impl Folder {
    /// Before its first operation. Only one that writes a segment needs a session, and so a pin.
    pub fn start(fold: Fold) -> Folder {
        let phase = match fold {
            Fold::None => Stopped,
            Fold::Plain => ReadBase,
            Fold::Merge => Pin,
        };
        Folder {
            phase,
            base: Base::default(),
            snapshots: 0,
            forgets: 0,
            change: Change::default(),
            created: 0,
            obsolete: 0,
        }
    }
}

/// One step of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next operation.
    Next,
    /// Its session's ack of the active generation; it reuses nothing, so it claims nothing.
    Ack,
}

/// Appends the steps that the folder may take.
pub fn steps(config: &Config, state: &State, out: &mut Vec<Step>) {
    let folder = &state.folder;
    if folder.phase == Stopped {
        return;
    }
    out.push(Step::Next);
    let open = config.fold == Fold::Merge && folder.phase > Pin;
    if open && unanswered(&state.store) != 0 {
        out.push(Step::Ack);
    }
}

/// Active generations that the folder's session has not acknowledged.
fn unanswered(store: &Store) -> Set {
    each(store.active()).filter(|g| !has(store.generations[g - 1].acks, FOLDER)).fold(0, |set, g| set | bit(g))
}

/// Takes one step of the folder.
pub fn take(config: &Config, state: &mut State, step: Step) {
    match step {
        Step::Ack => {
            for g in each(unanswered(&state.store)) {
                state.store.generations[g - 1].acks |= bit(FOLDER);
            }
        }
        Step::Next => state.folder.phase = next(config, state),
    }
}

/// Does the operation of the present phase and returns the next one.
fn next(config: &Config, state: &mut State) -> Phase {
    let State { store, folder, .. } = state;
    match folder.phase {
        Pin => {
            store.pins |= bit(FOLDER);
            ReadBase
        }
        ReadBase => {
            folder.base = store.base;
            ListSnapshots
        }
        ListSnapshots => {
            (folder.snapshots, folder.forgets) = (store.snapshots, store.forgets);
            if config.lacks(Mutant::FoldNoFloor) {
                raise_floors(config, store, &mut folder.change);
            }
            let merges = config.fold == Fold::Merge && store.lists[FOLDER] == 0;
            if merges { PutSegment } else { LookAtOwnKey }
        }
        PutSegment => {
            let plain = apply(config, store, &folder.base, folder.snapshots, folder.forgets, &Change::default());
            folder.change.replacement = Replacement { inputs: plain.segments, output: FOLDER };
            store.lists[FOLDER] = store.listed_by(plain.segments) & !plain.dropped;
            store.segments |= bit(FOLDER);
            LookAtOwnKey
        }
        LookAtOwnKey => {
            if has(store.tombstones, FOLDER) && !config.lacks(Mutant::OwnKey) {
                folder.stop()
            } else {
                Create
            }
        }
        Create => {
            let read = std::mem::take(&mut folder.base);
            let next = apply(config, store, &read, folder.snapshots, folder.forgets, &folder.change);
            (folder.snapshots, folder.forgets) = (0, 0);
            folder.created = read.number + 1;
            folder.obsolete = folder.change.replacement.obsolete(&next);
            if next == read {
                return folder.applied(config);
            }
            match create(config, store, read.number, next) {
                Created::Yes => ListBases,
                Created::Taken => ReadBase,
            }
        }
        ListBases if store.base.number > folder.created && !config.lacks(Mutant::ApplyOnceMore) => ReadBase,
        ListBases => folder.applied(config),
        DeleteObsolete => {
            store.segments &= !folder.obsolete;
            End
        }
        End => {
            store.tombstones |= bit(FOLDER);
            folder.stop()
        }
        Stopped => Stopped,
    }
}

impl Folder {
    /// The change stands in the head of the chain.
    fn applied(&mut self, config: &Config) -> Phase {
        (self.change, self.created) = (Change::default(), 0);
        if config.fold == Fold::Merge { DeleteObsolete } else { self.stop() }
    }

    fn stop(&mut self) -> Phase {
        *self = Folder::start(Fold::None);
        Stopped
    }
}

/// (Mutant) what a fold would propose: above every session that has ended or is open.
fn raise_floors(config: &Config, store: &Store, change: &mut Change) {
    for session in each((store.pins | store.snapshots) & config.writer_sessions()) {
        let floor = &mut change.floors[config.writer_of(session)];
        *floor = (*floor).max(config.number_of(session) + 1);
    }
}
