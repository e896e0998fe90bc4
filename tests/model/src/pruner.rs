//! The pruner: P1 to P8 by one executor. As much as the writer's rules need in order to be testable.
//!
//! # Expected flow
//! List packs, pins, snapshots; choose what to condemn; create `gc/<gen>`; list pins; wait until every open session
//! has ended, acknowledged, or been fenced; read claims, base, snapshots and mark again; create the sweep; create the
//! next base; delete packs and obsolete segments; tidy up below the floor; retire the generation.
//!
//! # Simplifications
//! A verdict covers every copy: any of several may be the one that goes. Waiting is nondeterministic: a fence may come
//! at once. Deleting all packs of a sweep is one step, for each deletion only takes away.

use crate::config::{CHILD, Config, HISTORY, Set, TREE, WRITER_SESSIONS, WRITERS_MAX, bit, each, has, own_packs};
use crate::fold::{Change, Created, Replacement, apply, create};
use crate::mutants::Mutant;
use crate::state::{Base, Condemn, State, Store, newer};

/// The pruner's next operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each names the operation")]
pub enum Phase {
    #[default]
    ListPacks,
    ListPins,
    Choose,
    CreateCondemn,
    ListOpen,
    Drain,
    ReadClaims,
    ReadBase,
    Mark,
    CreateSweep,
    ReadHead,
    ListSnapshots,
    PutSegment,
    CreateBase,
    ListBases,
    DeletePacks,
    DeleteSegments,
    DeletePins,
    DeleteDead,
    DeleteSweep,
    DeleteCondemn,
    /// All prunes of the run are done.
    Stopped,
    /// Met a 404 that no newer base explains.
    Failed,
}

use Phase::*;

/// The pruner and what its present run remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pruner {
    /// The next operation.
    pub phase: Phase,
    /// Generations created so far.
    pub generation: u8,
    /// Packs listed in P1.
    pub listed: Set,
    /// Pins listed in P1.
    pub pins: Set,
    /// Packs to condemn; from P4 on, packs to sweep.
    pub packs: Set,
    /// Floors to propose.
    pub floors: [u8; WRITERS_MAX],
    /// Sessions that were open in P3.
    pub open: Set,
    /// Packs claimed.
    pub claimed: Set,
    /// The base last read.
    pub base: Base,
    /// Snapshots and forgets listed after it.
    pub snapshots: Set,
    /// See `snapshots`.
    pub forgets: Set,
    /// Tombstones listed with them.
    pub tombstones: Set,
    /// The rewritten segment.
    pub replacement: Replacement,
    /// The number that it created or tried to.
    pub created: u8,
    /// Segments that its replacement has taken out.
    pub obsolete: Set,
}

/// One step of the pruner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next operation.
    Next,
    /// P1's LIST of pins is answered without any key.
    ShortList,
    /// P1: this is what will be condemned.
    Condemn(Set),
    /// P3: create a tombstone at this session's snapshot key.
    Fence(u8),
    /// Be gone and run again, knowing what the store holds.
    Crash,
}

/// Appends the steps that the pruner may take.
pub fn steps(config: &Config, state: &State, out: &mut Vec<Step>) {
    let pruner = &state.pruner;
    match pruner.phase {
        Stopped | Failed => return,
        ListPacks if pruner.generation == config.prunes => return,
        Choose => choices(config, state, out),
        Drain => {
            let waiting = waiting(&state.store, pruner);
            out.extend(each(waiting).map(|session| Step::Fence(session as u8)));
            if waiting == 0 {
                out.push(Step::Next);
            }
        }
        ListPins if state.short_lists > 0 => out.extend([Step::Next, Step::ShortList]),
        _ => out.push(Step::Next),
    }
    if config.prune_crash && pruner.phase > ListPacks {
        out.push(Step::Crash);
    }
}

/// Open sessions that have neither ended nor acknowledged.
fn waiting(store: &Store, pruner: &Pruner) -> Set {
    pruner.open & !store.snapshots & !store.tombstones & !store.acks
}

/// P1: what may be condemned, so that every live blob keeps a published copy.
fn choices(config: &Config, state: &State, out: &mut Vec<Step>) {
    let (store, pruner) = (&state.store, &state.pruner);
    let open = store.open(config, &store.base, pruner.pins);
    let candidates = pruner.listed & !own_packs(open);
    let published = published(config, store, &store.base, store.snapshots) & pruner.listed;
    let live = state.live(config);
    let spared = |condemned: Set| live == 0 || store.blobs_of(published & !condemned) == CHILD | TREE;
    let allowed: Vec<Set> = (0..=Set::MAX).filter(|&set| set & !candidates == 0 && spared(set)).collect();
    let largest = |set: Set| !allowed.iter().any(|&other| other != set && other & set == set);
    let chosen = |set: Set| config.all_subsets || set.count_ones() == 1 || largest(set);
    out.extend(allowed.iter().filter(|&&set| chosen(set)).map(|&set| Step::Condemn(set)));
}

/// The packs that `base` and the snapshots newer than it publish.
fn published(config: &Config, store: &Store, base: &Base, snapshots: Set) -> Set {
    let segments = base.segments | store.with_segment(newer(config, base, snapshots));
    store.listed_by(segments & store.segments) & !base.dropped
}

/// Takes one step of the pruner.
pub fn take(config: &Config, state: &mut State, step: Step) {
    match step {
        Step::Next => state.pruner.phase = next(config, state),
        Step::ShortList => {
            state.short_lists -= 1;
            state.pruner.phase = Choose;
        }
        Step::Condemn(packs) => {
            let pruner = &mut state.pruner;
            pruner.packs = packs;
            pruner.floors = propose(config, &state.store, pruner.pins);
            (pruner.listed, pruner.pins) = (0, 0);
            pruner.phase = CreateCondemn;
        }
        Step::Fence(session) => state.store.tombstones |= bit(session as usize),
        Step::Crash => recover(state),
    }
}

/// One above the highest session that has ended, but never above one that is open.
fn propose(config: &Config, store: &Store, pins: Set) -> [u8; WRITERS_MAX] {
    let mut floors = store.base.floors;
    for session in each((store.snapshots | store.tombstones) & config.writer_sessions()) {
        let floor = &mut floors[config.writer_of(session)];
        *floor = (*floor).max(config.number_of(session) + 1);
    }
    hold_below(config, &mut floors, store.open(config, &store.base, pins));
    floors
}

fn hold_below(config: &Config, floors: &mut [u8; WRITERS_MAX], open: Set) {
    for session in each(open & WRITER_SESSIONS) {
        let floor = &mut floors[config.writer_of(session)];
        *floor = (*floor).min(config.number_of(session));
    }
}

/// "First finish every generation that is not retired."
fn recover(state: &mut State) {
    let generation = state.pruner.generation;
    let (phase, packs) = match state.store.gc {
        None => (ListPacks, 0),
        Some(gc) if has(state.store.base.done, gc.generation as usize) => (DeleteSweep, 0),
        Some(Condemn { sweep: Some(packs), .. }) => (ReadHead, packs),
        Some(gc) => (ListOpen, gc.packs),
    };
    state.pruner = Pruner { phase, generation, packs, ..Pruner::default() };
}

/// Does the operation of the present phase and returns the next one.
fn next(config: &Config, state: &mut State) -> Phase {
    let State { store, pruner, .. } = state;
    match pruner.phase {
        ListPacks => {
            pruner.listed = store.packs;
            ListPins
        }
        ListPins => {
            pruner.pins = store.pins;
            Choose
        }
        CreateCondemn => {
            pruner.generation += 1;
            let Pruner { generation, packs, floors, .. } = *pruner;
            store.gc = Some(Condemn { generation, packs, floors, sweep: None });
            (store.acks, store.claims) = (0, Default::default());
            pruner.floors = Default::default();
            ListOpen
        }
        ListOpen => {
            pruner.open = store.open(config, &store.base, store.pins);
            Drain
        }
        Drain => ReadClaims,
        ReadClaims => {
            pruner.claimed = each(!store.tombstones & 0b11_1111).fold(0, |claimed, s| claimed | store.claims[s]);
            ReadBase
        }
        ReadBase => {
            pruner.base = store.base;
            Mark
        }
        Mark => mark(config, store, pruner),
        CreateSweep => {
            store.gc = store.gc.map(|gc| Condemn { sweep: Some(pruner.packs), ..gc });
            ReadHead
        }
        _ => execute(config, store, pruner),
    }
}

/// P4, its last reads: which of the condemned packs may go.
fn mark(config: &Config, store: &Store, pruner: &mut Pruner) -> Phase {
    let base = std::mem::take(&mut pruner.base);
    let new = newer(config, &base, store.snapshots);
    let segments = base.segments | store.with_segment(new);
    if segments & !store.segments != 0 {
        return if store.base.number > base.number { ReadBase } else { Failed };
    }
    let published = published(config, store, &base, store.snapshots);
    let mut sweep = pruner.packs & !std::mem::take(&mut pruner.claimed);
    if (base.known | new) & !store.forgets != 0 {
        for blob in [CHILD, TREE] {
            if store.holding(published & !sweep, blob) == 0 {
                let copies = store.holding(published & sweep, blob);
                sweep &= !(copies & copies.wrapping_neg());
            }
        }
    }
    pruner.packs = sweep;
    CreateSweep
}

/// P6 to P8.
fn execute(config: &Config, store: &mut Store, pruner: &mut Pruner) -> Phase {
    match pruner.phase {
        ReadHead => {
            pruner.base = store.base;
            if has(store.base.done, pruner.generation as usize) { DeletePacks } else { ListSnapshots }
        }
        ListSnapshots => {
            pruner.snapshots = store.snapshots;
            pruner.forgets = store.forgets;
            pruner.tombstones = store.tombstones;
            if config.rewrite { PutSegment } else { CreateBase }
        }
        PutSegment => {
            pruner.replacement = Replacement::default();
            let plain = next_base(config, store, pruner);
            let output = 5 + pruner.generation as usize;
            pruner.replacement = Replacement { inputs: plain.segments & !bit(output), output };
            store.lists[output] = store.listed_by(plain.segments) & !plain.dropped & !pruner.packs;
            store.segments |= bit(output);
            CreateBase
        }
        CreateBase => {
            let next = next_base(config, store, pruner);
            pruner.created = pruner.base.number + 1;
            match create(config, store, pruner.base.number, next) {
                Created::Taken => ReadHead,
                Created::Yes => {
                    pruner.obsolete = pruner.replacement.obsolete(&next);
                    pruner.base = Base { number: pruner.created, ..next };
                    ListBases
                }
            }
        }
        ListBases if store.base.number > pruner.created => ReadHead,
        ListBases => DeletePacks,
        DeletePacks => {
            store.packs &= !pruner.packs;
            DeleteSegments
        }
        DeleteSegments => {
            store.segments &= !std::mem::take(&mut pruner.obsolete);
            pruner.replacement = Replacement::default();
            DeletePins
        }
        _ => tidy(config, store, pruner),
    }
}

fn next_base(config: &Config, store: &Store, pruner: &Pruner) -> Base {
    let mut floors = store.gc.map_or([0; WRITERS_MAX], |gc| gc.floors);
    hold_below(config, &mut floors, pruner.open);
    let change = Change { drop: pruner.packs, floors, generation: pruner.generation, replacement: pruner.replacement };
    apply(config, store, &pruner.base, pruner.snapshots, pruner.forgets, &change)
}

/// P8.
fn tidy(config: &Config, store: &mut Store, pruner: &mut Pruner) -> Phase {
    let base = pruner.base;
    let below = config.below(&base.floors);
    match pruner.phase {
        DeletePins => {
            store.pins &= !below;
            DeleteDead
        }
        DeleteDead => {
            let dead = (pruner.tombstones | below) & !base.known & !base.gone & !bit(HISTORY);
            store.segments &= !(dead & !base.segments);
            if config.lacks(Mutant::UnlistedOnlyCondemned) {
                store.packs &= !(own_packs(dead) & !store.listed_by(base.segments));
            }
            store.tombstones &= !below;
            store.snapshots &= !(below & !base.known);
            store.forgets &= !pruner.forgets;
            store.older_bases = 0;
            DeleteSweep
        }
        DeleteSweep => {
            store.gc = store.gc.map(|gc| Condemn { sweep: None, ..gc });
            *pruner = Pruner { phase: DeleteSweep, generation: pruner.generation, ..Pruner::default() };
            DeleteCondemn
        }
        _ => {
            store.gc = None;
            (store.acks, store.claims) = (0, Default::default());
            ListPacks
        }
    }
}
