//! An executor of prunes: P1 to P3, and what it takes on. P4 and P5 are in [`crate::mark`], P6 to P8 in
//! [`crate::tidy`], repacking in [`crate::repack`].
//!
//! # Expected flow
//! List gc. If a generation stands, take it on: read base; done there = tidy up only; else go on with its sweep, or from
//! P3. If none stands: read base for the new number; list packs, pins, snapshots; choose what to condemn; repack; create
//! `gc/<gen>`; list pins; wait until every open session has ended, acknowledged, or been fenced; then P4.
//!
//! # Simplifications
//! A verdict covers every copy: any of several may be the one that goes. Waiting is nondeterministic: a fence may come
//! at once.

use crate::config::{
    CHILD, Config, EXECUTORS_MAX, GENERATIONS, Set, TREE, WRITER_SESSIONS, WRITERS_MAX, bit, each, has, own_packs,
    repack_session, repacked,
};
use crate::fold::Replacement;
use crate::mutants::Mutant;
use crate::state::{Base, Condemn, State, Store, newer};
use crate::{fence, mark, repack, tidy};

/// An executor's next operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each names the operation")]
pub enum Phase {
    #[default]
    ListGc,
    ReadDone,
    ChooseNumber,
    ListPacks,
    ListPins,
    Choose,
    PinRepack,
    PutPack,
    PutRepackSegment,
    CommitRepack,
    CreateCondemn,
    ListOpen,
    Drain,
    AskFenced,
    ReadClaims,
    ReadGc,
    ReadBase,
    ListMarked,
    ReadBaseAgain,
    Mark,
    CreateSweep,
    ListOpenAgain,
    ReadHead,
    ListSnapshots,
    PinRewrite,
    PutSegment,
    LookAtOwnKey,
    CreateBase,
    ListBases,
    EndRewrite,
    DeletePacks,
    DeleteSegments,
    DeletePins,
    DeleteDead,
    DeleteSweep,
    DeleteFence,
    DeleteCondemn,
    /// Met a 404 that no newer base explains.
    Failed,
}

use Phase::*;

/// An executor and what its present run remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Executor {
    /// The next operation.
    pub phase: Phase,
    /// The generation that it works on; before its number is chosen, the highest in gc/.
    pub generation: u8,
    /// The sweep stood when the generation was taken on.
    pub swept: bool,
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
    /// Sessions that its fence names. What one names that it takes on is decided anew.
    pub named: Set,
    /// Those of them whose snapshot was not there after that.
    pub dead: Set,
    /// The session that was named last.
    pub asking: u8,
    /// Packs claimed.
    pub claimed: Set,
    /// Packs that other active generations condemn.
    pub others: Set,
    /// The base last read.
    pub base: Base,
    /// Snapshots and forgets listed after it.
    pub snapshots: Set,
    /// See `snapshots`.
    pub forgets: Set,
    /// Tombstones listed with them, before the base that it creates.
    pub tombstones: Set,
    /// Its session for rewritten segments; 0: none.
    pub session: usize,
    /// The rewritten segment.
    pub replacement: Replacement,
    /// The number that it created or tried to; 0: not yet.
    pub created: u8,
    /// Segments that its replacement has taken out.
    pub obsolete: Set,
}

/// One step of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next operation.
    Next,
    /// gc is listed, and this generation's objects are read.
    TakeOn(u8),
    /// P1's LIST of pins is answered without any key.
    ShortList,
    /// P1: this is what will be condemned.
    Condemn(Set),
    /// P1: the same, after its live blobs have been copied.
    Repack(Set),
    /// P4: where one of several copies must stay, it is the last one.
    KeepLast,
    /// P6: list snapshots, and rewrite segments for the next base.
    Rewrite,
    /// P3: create a tombstone at this session's snapshot key; N1: name it in the fence.
    Fence(u8),
    /// Be gone and run again, knowing what the store holds.
    Crash,
}

/// Appends the steps that executor `e` may take.
pub fn steps(config: &Config, state: &State, e: usize, out: &mut Vec<Step>) {
    let executor = &state.executors[e];
    match executor.phase {
        Failed => return,
        ListGc => return runs(config, state, out),
        Choose => choices(config, state, e, out),
        Drain => {
            let waiting = waiting(config, &state.store, executor);
            out.extend(each(waiting).map(|session| Step::Fence(session as u8)));
            if waiting == 0 {
                out.push(Step::Next);
            }
        }
        ListSnapshots if tidy::rewrites(config, &state.store, executor, e).is_some() => {
            out.extend([Step::Next, Step::Rewrite]);
        }
        Mark if config.all_subsets => out.extend([Step::Next, Step::KeepLast]),
        ListPins if state.short_lists > 0 => out.extend([Step::Next, Step::ShortList]),
        _ => out.push(Step::Next),
    }
    if config.prune_crash {
        out.push(Step::Crash);
    }
}

/// "First finish every generation that is not retired."
fn runs(config: &Config, state: &State, out: &mut Vec<Step>) {
    let active = state.store.active();
    out.extend(each(active).map(|g| Step::TakeOn(g as u8)));
    if (active == 0 || config.leaves) && state.created < config.prunes {
        out.push(Step::Next);
    }
}

/// Open sessions that have neither ended nor acknowledged.
fn waiting(config: &Config, store: &Store, executor: &Executor) -> Set {
    if config.lacks(Mutant::Drain) {
        return 0;
    }
    let acks = store.generations[executor.generation as usize - 1].acks;
    executor.open & !store.snapshots & !store.tombstones & !executor.dead & !acks
}

/// P1: what may be condemned, so that every live blob keeps a published copy or gets one.
fn choices(config: &Config, state: &State, e: usize, out: &mut Vec<Step>) {
    let (store, executor) = (&state.store, &state.executors[e]);
    let open = store.open(config, &store.base, executor.pins);
    let others = (0..EXECUTORS_MAX).filter(|&e| has(open, repack_session(e)));
    let running = own_packs(open) | others.fold(0, |set, e| set | bit(repacked(e)));
    let candidates = executor.listed & !running;
    let published = mark::published(config, store, &store.base, store.snapshots) & executor.listed;
    let live = state.live(config);
    let spared =
        |condemned: Set| live == 0 || config.all_subsets || store.blobs_of(published & !condemned) == CHILD | TREE;
    let subsets = || (0..=Set::from(u8::MAX)).filter(|&set| set & !candidates == 0);
    let allowed: Vec<Set> = subsets().filter(|&set| spared(set)).collect();
    let largest = |set: Set| !allowed.iter().any(|&other| other != set && other & set == set);
    let chosen = |set: Set| config.all_subsets || set.count_ones() == 1 || largest(set);
    out.extend(allowed.iter().filter(|&&set| chosen(set)).map(|&set| Step::Condemn(set)));
    if config.repack && repack::possible(store, e) {
        let useful = |set: &Set| set & published != 0 && (config.all_subsets || !spared(*set));
        out.extend(subsets().filter(useful).map(Step::Repack));
    }
}

/// Takes one step of executor `e`.
pub fn take(config: &Config, state: &mut State, e: usize, step: Step) {
    let executor = &mut state.executors[e];
    match step {
        Step::Next => {
            let phase = next(config, state, e);
            state.executors[e].phase = phase;
        }
        Step::KeepLast => executor.phase = mark::mark(config, &state.store, executor, true),
        Step::Rewrite => {
            let session = tidy::rewrites(config, &state.store, executor, e);
            next(config, state, e);
            let executor = &mut state.executors[e];
            (executor.session, executor.phase) = (session.expect("one was free"), PinRewrite);
        }
        Step::TakeOn(g) => {
            let generation = &state.store.generations[g as usize - 1];
            executor.generation = g;
            executor.packs = generation.condemned();
            executor.floors = generation.floors();
            executor.swept = generation.sweep.is_some() && !config.lacks(Mutant::StandingSweep);
            executor.dead = if config.lacks(Mutant::SweepTells) { 0 } else { generation.dead };
            executor.phase = ReadDone;
        }
        Step::ShortList => {
            state.short_lists -= 1;
            executor.phase = Choose;
        }
        Step::Condemn(packs) | Step::Repack(packs) => {
            executor.packs = packs;
            executor.floors = propose(config, &state.store, executor.pins);
            let kept = if config.lacks(Mutant::PinsAfterCondemn) { executor.pins } else { 0 };
            (executor.listed, executor.pins) = (0, kept);
            executor.phase = if matches!(step, Step::Repack(_)) { PinRepack } else { CreateCondemn };
        }
        Step::Fence(session) if config.by_name => {
            executor.phase = fence::name(config, &mut state.store, executor, session)
        }
        Step::Fence(session) => {
            if config.lacks(Mutant::FenceByTombstone) {
                executor.open &= !bit(session as usize);
            } else {
                state.store.tombstones |= bit(session as usize);
            }
        }
        Step::Crash => *executor = Executor::default(),
    }
}

/// One above the highest session that has ended, but never above one that is open.
fn propose(config: &Config, store: &Store, pins: Set) -> [u8; WRITERS_MAX] {
    let mut floors = store.base.floors;
    let ended = store.snapshots | store.tombstones | store.base.dead;
    for session in each(ended & config.writer_sessions()) {
        let floor = &mut floors[config.writer_of(session)];
        *floor = (*floor).max(config.number_of(session) + 1);
    }
    hold_below(config, &mut floors, store.open(config, &store.base, pins));
    floors
}

/// Lowers `floors` to the sessions in `open`.
pub fn hold_below(config: &Config, floors: &mut [u8; WRITERS_MAX], open: Set) {
    for session in each(open & WRITER_SESSIONS) {
        let floor = &mut floors[config.writer_of(session)];
        *floor = (*floor).min(config.number_of(session));
    }
}

/// Does the operation of the present phase and returns the next one.
fn next(config: &Config, state: &mut State, e: usize) -> Phase {
    let State { store, executors, created, .. } = state;
    let executor = &mut executors[e];
    match executor.phase {
        ListGc => {
            executor.generation = each(store.active()).last().unwrap_or(0) as u8;
            ChooseNumber
        }
        ReadDone => match (has(store.base.done, executor.generation as usize), executor.swept) {
            (true, _) if !config.lacks(Mutant::DoneIsDone) => DeleteSweep,
            (_, true) => ListOpenAgain,
            _ => ListOpen,
        },
        ChooseNumber => {
            let done = if config.lacks(Mutant::NumberAboveDone) { 0 } else { store.base.done };
            executor.generation = 1 + executor.generation.max(each(done).last().unwrap_or(0) as u8);
            if executor.generation as usize > GENERATIONS { executor.restart() } else { ListPacks }
        }
        ListPacks => {
            executor.listed = store.packs;
            ListPins
        }
        ListPins => {
            executor.pins = store.pins;
            Choose
        }
        CreateCondemn => {
            let Executor { generation, packs, floors, .. } = *executor;
            let condemn = &mut store.generations[generation as usize - 1].condemn;
            if condemn.is_some() && !config.lacks(Mutant::CondemnCreateOnly) && !config.by_name {
                return executor.restart();
            }
            *condemn = Some(Condemn { packs, floors });
            *created += 1;
            ReadDone
        }
        ListOpen | ListOpenAgain => {
            let pins = if config.lacks(Mutant::PinsAfterCondemn) { executor.pins } else { store.pins };
            let resumed = executor.phase == ListOpenAgain;
            let open = store.open(config, &store.base, pins);
            executor.open = if resumed && config.lacks(Mutant::OpenAgain) { 0 } else { open };
            executor.pins = 0;
            if resumed { ReadHead } else { Drain }
        }
        Drain => ReadClaims,
        AskFenced => fence::ask(config, store, executor),
        PinRepack | PutPack | PutRepackSegment | CommitRepack => repack::next(config, store, executor, e),
        ReadClaims | ReadGc | ReadBase | ListMarked | ReadBaseAgain | Mark | CreateSweep => {
            mark::next(config, store, executor)
        }
        _ => tidy::next(config, store, executor),
    }
}

impl Executor {
    /// Ends the run.
    pub fn restart(&mut self) -> Phase {
        *self = Executor::default();
        ListGc
    }
}

/// Sessions whose snapshots `base` and `snapshots` say are committed.
pub fn committed(config: &Config, base: &Base, snapshots: Set) -> Set {
    base.known | newer(config, base, snapshots)
}
