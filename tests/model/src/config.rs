//! What one run of the model contains: who takes part, how often, and which faults the store has.
//!
//! Sessions, packs and segments are numbered, so that every set of them is one word ([`Set`]):
//!
//! | number | session and its segment | pack |
//! |---|---|---|
//! | 0 | history: the snapshot that stands at the start | initial |
//! | 1 | first session of a writer (1..=4 in all) | initial |
//! | 2..=4 | further sessions of writers | pack of session 1..=3 |
//! | 5 | the folding maintainer | pack of session 4 |
//! | 6..=9 | in which executors 0, 1, 0, 1 rewrite segments | 6, 7: of sessions 10, 11 |
//! | 10, 11 | in which executors 0, 1 repack | - |

use crate::mutants::Mutant;

/// A set of small numbers (sessions, packs, segments, generations), one bit each.
pub type Set = u16;

/// Most writer processes a model can hold.
pub const WRITERS_MAX: usize = 3;
/// Most processes that prune.
pub const EXECUTORS_MAX: usize = 2;
/// Generations are 1..=3.
pub const GENERATIONS: usize = 3;
/// Sessions, and their segments, are 0..12.
pub const SESSIONS: usize = 12;
/// Packs are 0..8.
pub const PACKS: usize = 8;
/// The session that committed the snapshot the repository starts with.
pub const HISTORY: usize = 0;
/// The session of the maintainer that folds.
pub const FOLDER: usize = 5;
/// Every session of a writer.
pub const WRITER_SESSIONS: Set = 0b0001_1110;
/// Sessions whose snapshots have a tree: history and those of writers.
pub const WITH_TREE: Set = WRITER_SESSIONS | bit(HISTORY);

/// The data blob.
pub const CHILD: Set = 1;
/// The tree blob; it names [`CHILD`], and every snapshot's root is this tree.
pub const TREE: Set = 2;

/// The set that holds only `i`.
pub const fn bit(i: usize) -> Set {
    1 << i
}

/// Whether `set` holds `i`.
pub const fn has(set: Set, i: usize) -> bool {
    set & bit(i) != 0
}

/// The members of `set`, rising.
pub fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |&i| has(set, i))
}

/// The maintainer that folds beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Nobody folds.
    None,
    /// The base takes in the new snapshots; their segments stay as they are.
    Plain,
    /// Also replaces all listed segments by one merged segment.
    Merge,
}

/// What became of session 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It begins as the others do.
    Begins,
    /// It crashed before the start: pack and segment stand, the snapshot's put may be under way.
    Crashed,
    /// The same, and it has been fenced.
    Fenced,
}

/// One configuration: all its interleavings are explored.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name on the command line.
    pub name: &'static str,
    /// Writer processes, 0..=3.
    pub writers: usize,
    /// Sessions each may open one after another; `writers * attempts <= 4`.
    pub attempts: usize,
    /// All processes use one writer key, as the nodes of a tenant do (else one key each).
    pub shared_writer: bool,
    /// The two initial packs hold one blob each (else each holds both: a duplicate).
    pub split: bool,
    /// Base 0 is empty and the initial snapshot stands beside it (else base 0 has taken it in).
    pub unfolded: bool,
    /// Condemns that are created in all, 0..=3.
    pub prunes: u8,
    /// Processes that prune: each takes on what another has begun, or creates a condemn.
    pub executors: usize,
    /// An executor may also begin a generation while another one is active.
    pub leaves: bool,
    /// A prune may first copy what is alive in the packs that it will condemn.
    pub repack: bool,
    /// What became of session 1.
    pub first: First,
    /// A prune may condemn every subset that leaves a copy, not only single packs and the largest sets.
    pub all_subsets: bool,
    /// Prunes also replace the listed segments by one without the dropped packs.
    pub rewrite: bool,
    /// Who folds.
    pub fold: Fold,
    /// How many snapshots may be forgotten.
    pub forgets: u32,
    /// A writer may crash between any two operations; its next session is a new attempt.
    pub crash: bool,
    /// An executor may crash between any two operations and is run again.
    pub prune_crash: bool,
    /// A later session adopts the unlisted packs of earlier ones of its writer.
    pub adopt: bool,
    /// Puts may arrive late or once more.
    pub late: bool,
    /// A snapshot's put may land while its writer learns nothing.
    pub unknown: bool,
    /// Packs that the store may acknowledge and lose.
    pub losses: u8,
    /// LISTs that the store may answer without any key.
    pub short_lists: u8,
    /// The store ignores create-only: every put overwrites, and open sessions are ended by a fence that names them.
    pub by_name: bool,
    /// Process 0 is a run that commits a whole, process 1 the one that makes its part ([`crate::parts`]).
    pub parts: bool,
    /// The rule that is taken away.
    pub mutant: Option<Mutant>,
}

impl Config {
    /// One writer with one session, one prune, one forget, no fault.
    pub const SMALL: Config = Config {
        name: "small",
        writers: 1,
        attempts: 1,
        shared_writer: false,
        split: true,
        unfolded: false,
        prunes: 1,
        executors: 1,
        leaves: false,
        repack: false,
        first: First::Begins,
        all_subsets: false,
        rewrite: false,
        fold: Fold::None,
        forgets: 1,
        crash: false,
        prune_crash: false,
        adopt: false,
        late: false,
        unknown: false,
        losses: 0,
        short_lists: 0,
        by_name: false,
        parts: false,
        mutant: None,
    };

    /// Whether `mutant` is the rule that this run lacks.
    pub fn lacks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The session that process `p` opens at its attempt `k` (both from 0).
    pub fn session(&self, p: usize, k: u8) -> usize {
        1 + p * self.attempts + k as usize
    }

    /// Every session that a process of this run may open.
    pub fn writer_sessions(&self) -> Set {
        (bit(self.writers * self.attempts + 1) - 1) & WRITER_SESSIONS
    }

    /// The writer key of a session of a writer: an index into floors.
    pub fn writer_of(&self, session: usize) -> usize {
        debug_assert!(has(WRITER_SESSIONS, session));
        if self.shared_writer { 0 } else { (session - 1) / self.attempts }
    }

    /// The number in a session's name, from 1. Processes that share a writer key take equal numbers: each has listed
    /// before the other's pin, the case that floors must survive.
    pub fn number_of(&self, session: usize) -> u8 {
        debug_assert!(has(WRITER_SESSIONS, session));
        1 + ((session - 1) % self.attempts) as u8
    }

    /// The sessions that commit parts.
    pub fn part_sessions(&self) -> Set {
        if !self.parts {
            return 0;
        }
        each(self.writer_sessions()).filter(|&s| (s - 1) / self.attempts == 1).fold(0, |set, s| set | bit(s))
    }

    /// The run that the part of `session` names.
    pub fn run_of(&self, session: usize) -> usize {
        session - self.attempts
    }

    /// The sessions whose snapshots are listed: all with a tree but for parts.
    pub fn wholes(&self) -> Set {
        WITH_TREE & !self.part_sessions()
    }

    /// The sessions below their writer's floor. History and the folder have none.
    pub fn below(&self, floors: &[u8; WRITERS_MAX]) -> Set {
        each(self.writer_sessions())
            .filter(|&s| self.number_of(s) < floors[self.writer_of(s)])
            .fold(0, |set, s| set | bit(s))
    }

    /// The sessions of the same writer key as `session`, itself included.
    pub fn same_writer(&self, session: usize) -> Set {
        let writer = self.writer_of(session);
        each(self.writer_sessions()).filter(|&s| self.writer_of(s) == writer).fold(0, |set, s| set | bit(s))
    }
}

/// The pack that a writer's session writes: one, with all that it misses.
pub fn own_pack(session: usize) -> usize {
    debug_assert!(has(WRITER_SESSIONS, session));
    session + 1
}

/// The packs that sessions of writers write.
pub fn own_packs(sessions: Set) -> Set {
    (sessions & WRITER_SESSIONS) << 1
}

/// The pack that executor `e` writes when it repacks.
pub const fn repacked(e: usize) -> usize {
    6 + e
}

/// The session in which executor `e` repacks.
pub const fn repack_session(e: usize) -> usize {
    10 + e
}

/// The sessions in which executor `e` may rewrite segments, one after another.
pub const fn rewrite_sessions(e: usize) -> [usize; 2] {
    [6 + e, 8 + e]
}
