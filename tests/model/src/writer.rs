//! A process that backs up: sessions one after another, each W1 to W6.
//!
//! # Expected flow
//! pin; list gc (twice where LISTs may be short); ack what is active; base; snapshots; fences; base again; segments: the view. Then the
//! child and the tree, each reused from the view, adopted, or uploaded; pack, segment, a look at the own packs,
//! snapshot, fences and base once more. Beside all this, at any time: list gc again, ack what is new, see a fence.
//!
//! # Simplifications
//! A session writes one pack and one segment. It chooses where several copies are visible: all choices are explored.
//! Its number in the name is fixed beforehand ([`Config::number_of`]), so a pin may come long after it was chosen.

use crate::config::{CHILD, Config, Set, TREE, bit, each, has, own_pack, own_packs};
use crate::mutants::Mutant;
use crate::parts;
use crate::state::{Base, Generation, State, newer};

/// Where a session stands: the operation that it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each names the operation")]
pub enum Phase {
    Pin,
    ListGc,
    ListGcAgain,
    AckOpen,
    ReadBase,
    ListSnapshots,
    LookAtFences,
    LookAtFencesAgain,
    ReadBaseAgain,
    ReadSegments,
    ListAdoptable,
    ChooseChild,
    ChooseTree,
    PutPack,
    PutSegment,
    ListOwn,
    AwaitPart,
    Commit,
    LookOnce,
    LookTwice,
    Confirm,
    /// Reported as committed.
    Done,
    /// Met a 404 that no newer base explains.
    Failed,
    /// Has no attempt left, or takes no part.
    Stopped,
}

use Phase::*;

#[rustfmt::skip]
const ORDER: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, ReadBase, ListSnapshots, LookAtFences, LookAtFencesAgain, ReadBaseAgain, ReadSegments,
    ListAdoptable, ChooseChild, ChooseTree, PutPack, PutSegment, ListOwn, AwaitPart, Commit, LookOnce, LookTwice, Confirm,
];
#[rustfmt::skip]
const FENCES_FIRST: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, LookAtFences, LookAtFencesAgain, ReadBase, ListSnapshots, ReadBaseAgain, ReadSegments,
    ListAdoptable, ChooseChild, ChooseTree, PutPack, PutSegment, ListOwn, AwaitPart, Commit, LookOnce, LookTwice, Confirm,
];
#[rustfmt::skip]
const FENCES_LAST: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, ReadBase, ListSnapshots, ReadBaseAgain, LookAtFences, LookAtFencesAgain, ReadSegments,
    ListAdoptable, ChooseChild, ChooseTree, PutPack, PutSegment, ListOwn, AwaitPart, Commit, LookOnce, LookTwice, Confirm,
];
#[rustfmt::skip]
const BASE_BEFORE_LOOK: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, ReadBase, ListSnapshots, LookAtFences, LookAtFencesAgain, ReadBaseAgain, ReadSegments,
    ListAdoptable, ChooseChild, ChooseTree, PutPack, PutSegment, ListOwn, AwaitPart, Commit, Confirm, LookOnce, LookTwice,
];
#[rustfmt::skip]
const VIEW_FIRST: &[Phase] = &[
    Pin, ReadBase, ListSnapshots, ReadBaseAgain, ReadSegments, ListGc, ListGcAgain, AckOpen, ListAdoptable,
    ChooseChild, ChooseTree, PutPack, PutSegment, ListOwn, AwaitPart, Commit, Confirm,
];
#[rustfmt::skip]
const SNAPSHOT_BEFORE_PACK: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, ReadBase, ListSnapshots, ReadBaseAgain, ReadSegments, ListAdoptable,
    ChooseChild, ChooseTree, PutSegment, Commit, PutPack, Confirm,
];
#[rustfmt::skip]
const SNAPSHOT_BEFORE_SEGMENT: &[Phase] = &[
    Pin, ListGc, ListGcAgain, AckOpen, ReadBase, ListSnapshots, ReadBaseAgain, ReadSegments, ListAdoptable,
    ChooseChild, ChooseTree, PutPack, Commit, PutSegment, Confirm,
];

/// A writer process and what its present session remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its present session, from 0.
    pub attempt: u8,
    /// The next operation.
    pub phase: Phase,
    /// Generations seen.
    pub known: Set,
    /// Those that were there when the session opened.
    pub known_at_open: Set,
    /// Those that are not yet acknowledged.
    pub ack_due: Set,
    /// Packs not to be reused, because condemned.
    pub excluded: Set,
    /// The base that was read, until the view is complete.
    pub base: Base,
    /// Sessions committed since that base, until the view is complete.
    pub newer: Set,
    /// Sessions that fences name, until the view is complete.
    pub fenced: Set,
    /// Packs dropped by the base of the view.
    pub dropped: Set,
    /// Packs that the view lists.
    pub view: Set,
    /// Unlisted packs of own earlier sessions.
    pub adoptable: Set,
    /// Packs that the session reuses.
    pub reused: Set,
    /// Packs that it adopts.
    pub adopted: Set,
    /// Blobs that it must write.
    pub upload: Set,
}

/// One step of a writer. Every one is at most one operation on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next operation in the order of phases.
    Next,
    /// The same, but the store answers the LIST without any key.
    ShortList,
    /// The chosen blob is taken from this pack of the view.
    Reuse(u8),
    /// The chosen blob is taken from this own, unlisted pack.
    Adopt(u8),
    /// The chosen blob will be written.
    Upload,
    /// (Mutant) the child is taken for present because its tree is.
    Assume,
    /// The pack's put is acknowledged and lost.
    LosePack,
    /// The snapshot's put lands; the answer does not arrive.
    CommitUnknown,
    /// (Mutant) the snapshot's put is lost and taken for success.
    CommitLost,
    /// W4: list gc again.
    Poll,
    /// W4: ack, with claims.
    Ack,
    /// W4: find the own tombstone.
    SeeFence,
    /// Be gone between two operations; another process continues with the next session.
    Crash,
}

impl Writer {
    /// A process before its first session, or one that takes no part.
    pub fn start(takes_part: bool) -> Writer {
        Writer {
            attempt: 0,
            phase: if takes_part { Pin } else { Stopped },
            known: 0,
            known_at_open: 0,
            ack_due: 0,
            excluded: 0,
            base: Base::default(),
            newer: 0,
            fenced: 0,
            dropped: 0,
            view: 0,
            adoptable: 0,
            reused: 0,
            adopted: 0,
            upload: 0,
        }
    }

    fn at(attempt: u8, phase: Phase) -> Writer {
        Writer { attempt, phase, ..Writer::start(false) }
    }

    /// Whether a session is open: W4 runs.
    fn watches(&self) -> bool {
        (ReadBase..=Commit).contains(&self.phase)
    }
}

/// Appends the steps that process `p` may take.
pub fn steps(config: &Config, state: &State, p: usize, out: &mut Vec<Step>) {
    let writer = &state.writers[p];
    if writer.phase >= Done {
        return;
    }
    let session = config.session(p, writer.attempt);
    match writer.phase {
        ChooseChild if config.lacks(Mutant::Descendants) && visible(state, writer, TREE) != 0 => {
            out.push(Step::Assume);
        }
        ChooseChild => choices(config, state, writer, CHILD, out),
        ChooseTree => choices(config, state, writer, TREE, out),
        AwaitPart if !parts::is_ready(config, state, session) => {}
        // Who makes a part was told of its run, which has a pin by then.
        Pin if has(config.part_sessions(), session) && !has(state.store.pins, config.run_of(session)) => {}
        _ => out.push(Step::Next),
    }
    match writer.phase {
        ListGc | LookAtFences | LookOnce if state.short_lists > 0 => out.push(Step::ShortList),
        PutPack if state.losses > 0 => out.push(Step::LosePack),
        Commit if config.unknown && !has(state.store.snapshots | state.store.tombstones, session) => {
            out.push(if config.lacks(Mutant::UnknownIsNotSuccess) { Step::CommitLost } else { Step::CommitUnknown });
        }
        _ => {}
    }
    if writer.watches() {
        if state.store.active() & !writer.known != 0 && !config.lacks(Mutant::Poll) {
            out.push(Step::Poll);
        }
        if writer.ack_due != 0 {
            out.push(Step::Ack);
        }
        if has(state.store.tombstones | state.store.fenced(), session) && writer.phase != Commit {
            out.push(Step::SeeFence);
        }
    }
    let matters = (writer.attempt as usize) + 1 < config.attempts || (config.late && writer.phase == Commit);
    if config.crash && matters && writer.phase > Pin {
        out.push(Step::Crash);
    }
}

/// Packs of the view, not condemned, that hold `blob`.
fn visible(state: &State, writer: &Writer, blob: Set) -> Set {
    state.store.holding(writer.view & !writer.excluded, blob)
}

/// W3: reuse what the view has, else adopt, else upload.
fn choices(config: &Config, state: &State, writer: &Writer, blob: Set, out: &mut Vec<Step>) {
    let visible = visible(state, writer, blob);
    if visible != 0 {
        return out.extend(each(visible).map(|pack| Step::Reuse(pack as u8)));
    }
    let condemned = if config.lacks(Mutant::AdoptNoCondemned) { 0 } else { writer.excluded };
    let adoptable = state.store.holding(writer.adoptable & !condemned & !writer.dropped, blob);
    if adoptable != 0 {
        return out.extend(each(adoptable).map(|pack| Step::Adopt(pack as u8)));
    }
    out.push(Step::Upload);
}

/// Takes one step of process `p`.
pub fn take(config: &Config, state: &mut State, p: usize, step: Step) {
    let session = config.session(p, state.writers[p].attempt);
    match step {
        Step::Next => next(config, state, p, session),
        Step::ShortList => {
            state.short_lists -= 1;
            advance(config, state, p);
        }
        Step::Reuse(pack) => {
            state.writers[p].reused |= bit(pack as usize);
            advance(config, state, p);
        }
        Step::Adopt(pack) => {
            state.writers[p].adopted |= bit(pack as usize);
            advance(config, state, p);
        }
        Step::Upload => {
            let writer = &mut state.writers[p];
            writer.upload |= if writer.phase == ChooseChild { CHILD } else { TREE };
            advance(config, state, p);
        }
        Step::Assume => advance(config, state, p),
        Step::LosePack => {
            state.losses -= 1;
            state.store.blobs[own_pack(session)] = state.writers[p].upload;
            advance(config, state, p);
        }
        Step::CommitUnknown => {
            state.store.snapshots |= bit(session);
            state.sent |= if config.late { bit(session) } else { 0 };
        }
        Step::CommitLost => advance(config, state, p),
        Step::Poll => see_gc(config, state, p, false),
        Step::Ack => ack(config, state, p, session),
        Step::SeeFence => give_up(config, state, p, session),
        Step::Crash => {
            if config.late && state.writers[p].phase == Commit {
                state.sent |= bit(session);
            }
            next_session(config, state, p);
        }
    }
}

/// The operation of the present phase, as it goes when the store behaves.
fn next(config: &Config, state: &mut State, p: usize, session: usize) {
    match state.writers[p].phase {
        Pin if !config.lacks(Mutant::PinFirst) => state.store.pins |= bit(session),
        ListGc | ListGcAgain => {
            let gives_way = |gc: &Generation| has(config.below(&gc.floors()), session);
            if state.store.generations.iter().any(gives_way) && !config.lacks(Mutant::ProposedFloor) {
                return give_up(config, state, p, session);
            }
            see_gc(config, state, p, true);
        }
        AckOpen => ack(config, state, p, session),
        ReadBase => {
            let base = state.store.base;
            if has(config.below(&base.floors), session) {
                return give_up(config, state, p, session);
            }
            state.writers[p].base = base;
        }
        ListSnapshots => state.writers[p].newer = newer(config, &state.writers[p].base, state.store.snapshots),
        LookAtFences | LookAtFencesAgain => state.writers[p].fenced |= state.store.fenced(),
        ReadBaseAgain if state.store.base.number > state.writers[p].base.number => {
            return read_again(&mut state.writers[p]);
        }
        ReadSegments => return read_segments(config, state, p),
        ListAdoptable => {
            let earlier = config.same_writer(session) & !bit(session);
            state.writers[p].adoptable = own_packs(earlier) & state.store.packs;
        }
        PutPack => {
            state.store.blobs[own_pack(session)] |= state.writers[p].upload;
            state.store.packs |= bit(own_pack(session));
        }
        PutSegment => {
            state.store.lists[session] = to_list(&state.writers[p], session);
            state.store.segments |= bit(session);
        }
        ListOwn if state.writers[p].upload != 0 && !has(state.store.packs, own_pack(session)) => {
            state.writers[p].phase = PutPack;
            return;
        }
        Commit => return commit(config, state, p, session),
        LookOnce | LookTwice if has(state.store.fenced(), session) => return give_up(config, state, p, session),
        Confirm => return confirm(config, state, p, session),
        _ => {}
    }
    advance(config, state, p);
}

/// The packs that the session's segment lists: what it wrote and what it adopted.
fn to_list(writer: &Writer, session: usize) -> Set {
    writer.adopted | if writer.upload != 0 { bit(own_pack(session)) } else { 0 }
}

/// The last of the view's reads; a 404 goes back to its first.
fn read_segments(config: &Config, state: &mut State, p: usize) {
    let store = &state.store;
    let writer = &mut state.writers[p];
    let left_out = if config.lacks(Mutant::FencedLeftOut) { 0 } else { writer.fenced };
    let mut segments = writer.base.segments | store.with_segment(writer.newer & !left_out);
    if config.lacks(Mutant::Published) {
        segments |= store.segments;
    }
    if segments & !store.segments != 0 {
        let explained = store.base.number > writer.base.number && !config.lacks(Mutant::ReadAgain);
        if explained {
            read_again(writer);
        } else {
            *writer = Writer::at(writer.attempt, Failed);
        }
        return;
    }
    let dropped = if config.lacks(Mutant::Dropped) { 0 } else { writer.base.dropped };
    writer.view = store.listed_by(segments) & !dropped;
    writer.dropped = if config.adopt { not_adoptable(config, &writer.base) } else { 0 };
    (writer.base, writer.newer, writer.fenced) = (Base::default(), 0, 0);
    advance(config, state, p);
}

/// What `base` says must not be adopted: dropped packs, and those of sessions below their writer's floor.
fn not_adoptable(config: &Config, base: &Base) -> Set {
    let dropped = if config.lacks(Mutant::AdoptNoDropped) { 0 } else { base.dropped };
    let below = if config.lacks(Mutant::AdoptAboveFloor) { 0 } else { config.below(&base.floors) };
    dropped | own_packs(below)
}

/// Reads the view again from its first read.
fn read_again(writer: &mut Writer) {
    *writer = Writer { phase: ReadBase, base: Base::default(), newer: 0, ..writer.clone() };
}

/// W2 and W4: what gc says about packs.
fn see_gc(config: &Config, state: &mut State, p: usize, at_open: bool) {
    let active = state.store.active();
    let writer = &mut state.writers[p];
    let new = active & !writer.known;
    writer.known |= new;
    writer.known_at_open |= if at_open { new } else { 0 };
    writer.ack_due |= if at_open { 0 } else { new };
    let ignores = config.lacks(if at_open { Mutant::Condemned } else { Mutant::StopReusing });
    if writer.phase <= ChooseTree && !ignores {
        writer.excluded |= state.store.condemned_by(new);
    }
}

/// Puts the acks. One for a generation that has been retired meanwhile is read by nobody.
fn ack(config: &Config, state: &mut State, p: usize, session: usize) {
    let writer = &mut state.writers[p];
    let at_open = writer.phase == AckOpen;
    let generations = if at_open { writer.known } else { std::mem::take(&mut writer.ack_due) };
    let mut claims = 0;
    if !config.lacks(Mutant::ClaimReused) {
        claims |= writer.reused;
    }
    if !config.lacks(Mutant::ClaimAdopted) {
        claims |= writer.adopted;
    }
    if !config.lacks(Mutant::ClaimWritten) && writer.upload != 0 {
        claims |= bit(own_pack(session));
    }
    for g in each(generations & state.store.active()) {
        let generation = &mut state.store.generations[g - 1];
        generation.acks |= bit(session);
        generation.claims[session] |= claims & generation.condemn.map_or(0, |condemn| condemn.packs);
    }
}

/// W6: create the snapshot.
fn commit(config: &Config, state: &mut State, p: usize, session: usize) {
    state.sent |= if config.late { bit(session) } else { 0 };
    let stands = has(state.store.snapshots, session);
    if stands && config.lacks(Mutant::EqualBytes) {
        return give_up(config, state, p, session);
    }
    if has(state.store.tombstones, session) {
        if !config.lacks(Mutant::CreateOnly) {
            return give_up(config, state, p, session);
        }
        state.store.tombstones &= !bit(session);
    }
    state.store.snapshots |= bit(session);
    let writer = &mut state.writers[p];
    state.store.lists[session] = to_list(writer, session);
    writer.ack_due = 0;
    advance(config, state, p);
}

/// W6: base once more, then report.
fn confirm(config: &Config, state: &mut State, p: usize, session: usize) {
    let base = &state.store.base;
    let dead = has((config.below(&base.floors) | base.dead) & !base.known, session);
    if dead && !config.lacks(Mutant::SecondLook) {
        return give_up(config, state, p, session);
    }
    if config.lacks(Mutant::LookBeforeBase) {
        return advance(config, state, p);
    }
    report(state, p, session);
}

fn report(state: &mut State, p: usize, session: usize) {
    state.reported |= bit(session);
    state.writers[p] = Writer::at(state.writers[p].attempt, Done);
}

fn give_up(config: &Config, state: &mut State, p: usize, session: usize) {
    state.abandoned |= bit(session);
    next_session(config, state, p);
}

fn next_session(config: &Config, state: &mut State, p: usize) {
    let attempt = state.writers[p].attempt + 1;
    state.writers[p] = Writer::at(attempt, if (attempt as usize) < config.attempts { Pin } else { Stopped });
}

/// Moves on to the next phase that has something to do, forgetting what no later phase needs.
fn advance(config: &Config, state: &mut State, p: usize) {
    let order = order(config);
    let writer = &mut state.writers[p];
    let here = order.iter().position(|&phase| phase == writer.phase).expect("every phase before Done is in the order");
    let Some(&next) = order[here + 1..].iter().find(|&&phase| has_work(config, writer, phase, config.parts && p == 0))
    else {
        let session = config.session(p, writer.attempt);
        return report(state, p, session);
    };
    writer.phase = next;
    if writer.phase > ChooseTree {
        (writer.view, writer.excluded, writer.adoptable, writer.dropped) = (0, 0, 0, 0);
        writer.base = Base::default();
    }
    if writer.phase > Commit {
        *writer = Writer::at(writer.attempt, writer.phase);
    }
}

fn has_work(config: &Config, writer: &Writer, phase: Phase, is_run: bool) -> bool {
    match phase {
        AwaitPart => is_run,
        // A run looks nothing up and stores nothing but its whole.
        phase if is_run && (ListSnapshots..=ListOwn).contains(&phase) => false,
        ListGcAgain => config.short_lists > 0 && !config.lacks(Mutant::GcTwice),
        AckOpen => writer.known != 0 && !config.lacks(Mutant::AckAtOpen),
        ReadBaseAgain => !config.lacks(Mutant::BaseAgain),
        LookAtFences => config.by_name,
        LookAtFencesAgain => config.by_name && config.short_lists > 0 && !config.lacks(Mutant::FencesTwice),
        LookOnce => config.by_name && !config.lacks(Mutant::LookAgain),
        LookTwice => config.by_name && config.short_lists > 0 && !config.lacks(Mutant::LookAgainTwice),
        ListAdoptable => config.adopt,
        PutPack => writer.upload != 0,
        PutSegment => writer.upload != 0 || writer.adopted != 0,
        ListOwn => config.losses > 0 && !config.lacks(Mutant::ListOwn),
        _ => true,
    }
}

fn order(config: &Config) -> &'static [Phase] {
    match config.mutant {
        Some(Mutant::GcBeforeView) => VIEW_FIRST,
        Some(Mutant::FencesAfterSnapshots) => FENCES_FIRST,
        Some(Mutant::FencesBeforeBase) => FENCES_LAST,
        Some(Mutant::LookBeforeBase) => BASE_BEFORE_LOOK,
        Some(Mutant::PacksBeforeSnapshot) => SNAPSHOT_BEFORE_PACK,
        Some(Mutant::SegmentsBeforeSnapshot) => SNAPSHOT_BEFORE_SEGMENT,
        _ => ORDER,
    }
}
