//! The walks: one verb each, each reads from top to bottom in its own file.

pub mod backup;
pub mod check;
pub mod copy;
pub mod diff;
pub mod find;
pub mod forget;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod rewrite;
pub mod stats;
pub mod tag;
pub mod vfs;

use std::sync::Arc;

use crate::crypto::rng::Rng;
use crate::error::{Error, Result};
use crate::format::bundle::{Identity, Role};
use crate::format::config::Use;
use crate::format::node::Timestamp;
use crate::format::snapshot::{GraphPart, NamesPart};
use crate::id::{BlobId, SnapshotId};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::session::Session;
use crate::repo::{Repository, Snapshot};

/// Why an operation failed: once it was asked to end, whatever broke off is because of that.
fn reason(cancel: &Cancel, error: Error) -> Error {
    if cancel.is_canceled() { Error::Interrupted } else { error }
}

/// Sessions of one operation, if each is ended by others.
const ATTEMPTS: usize = 4;

/// Runs a session, and where others have ended it another, which uses what it stored; only one unless it can be done `again`.
fn persist<T>(again: bool, cancel: &Cancel, what: &str, mut session: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..if again { ATTEMPTS } else { 1 } {
        match session() {
            Err(Error::Fenced(how)) if !cancel.is_canceled() => tracing::warn!("{what} starts over: {how}"),
            done => return done.map_err(|e| reason(cancel, e)),
        }
    }
    session().map_err(|e| reason(cancel, e))
}

/// Ends a session that failed: what is complete stays for the next one. The reason is that of the first step that failed.
fn abandon(session: Session, e: Error) -> Error {
    let cause = session.abandon();
    if matches!(e, Error::Interrupted) { e } else { cause.unwrap_or(e) }
}

/// Stack of the threads that walk: a directory takes a few kilobytes, and they may be [`DEPTH_MAX`](crate::format::tree::DEPTH_MAX) deep. It is only
/// reserved; what is not used takes no memory.
const STACK_BYTES: usize = 256 << 20;

/// The threads of a walk.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(STACK_BYTES)
        .thread_name(|n| format!("copal-{n}"))
        .build()
        .map_err(|e| Error::Invalid(format!("cannot start {threads} threads: {e}")))
}

/// What became of a snapshot that was edited.
#[derive(Debug, Clone)]
pub struct Edited {
    /// The old one.
    pub old: SnapshotId,
    /// The new one; `None` in a dry run.
    pub new: Option<SnapshotId>,
    /// What the new one says of itself.
    pub names: NamesPart,
    /// What left it: files, directories, entries of other kinds.
    pub left: [u64; 3],
    /// The sum of the sizes of the files that left it, in bytes.
    pub left_bytes: u64,
}

impl Edited {
    /// Of which nothing left.
    fn of(old: SnapshotId, new: Option<SnapshotId>, names: NamesPart) -> Self {
        Self { old, new, names, left: [0; 3], left_bytes: 0 }
    }
}

/// Whether this key may edit snapshots: it has to read them, to make new ones and to forget the old ones.
pub fn may_edit(repo: &Repository, verb: &'static str) -> Result<()> {
    if repo.role() != Role::Owner {
        return Err(Error::NotAllowed { role: repo.role().as_str(), what: verb, needed: "owner" });
    }
    [Use::Read, Use::Write, Use::Maintain].into_iter().try_for_each(|what| repo.may(what, verb))
}

/// New snapshots of one run between two looks whether the repository should be folded.
const FOLD_EVERY: u64 = 64;

/// Edits one snapshot after another. `one` says what it made, or `None` where nothing is to be changed.
///
/// Where damage forbids it, the snapshot stays as it is and is a problem, and the next one follows.
fn edit_all(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    chosen: &[&Snapshot],
    (progress, cancel): (&dyn Progress, &Cancel),
    done: &mut dyn FnMut(&Edited),
    mut one: impl FnMut(&mut dyn Rng, &Snapshot) -> Result<Option<Edited>>,
) -> Result<()> {
    let mut made = 0;
    for old in chosen {
        if cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        match one(rng, old) {
            Ok(None) => {}
            Ok(Some(edited)) => {
                made += u64::from(edited.new.is_some());
                done(&edited);
                if edited.new.is_some() && made % FOLD_EVERY == 0 {
                    fold(repo, who, rng);
                }
            }
            Err(e @ Error::Damaged { .. }) => {
                let message = format!("it stays as it is: {e}");
                let path = format!("snapshot {}", old.id().short()).into();
                progress.problem(Problem { kind: ProblemKind::Damaged, path, message });
            }
            Err(e) => return Err(e),
        }
    }
    if made % FOLD_EVERY != 0 {
        fold(repo, who, rng);
    }
    Ok(())
}

/// The snapshots are there; where folding fails the next run tries again.
fn fold(repo: &Arc<Repository>, who: &Identity, rng: &mut dyn Rng) {
    if let Err(e) = repo.fold(who, rng) {
        tracing::warn!("the repository was not folded: {e}");
    }
}

/// The names of a snapshot that this key reads.
fn names_of(snapshot: &Snapshot) -> Result<&NamesPart> {
    snapshot.names.as_ref().ok_or_else(|| Error::Invalid("this key does not open the names of snapshots".into()))
}

/// The root of a snapshot that has one.
fn tree_of(snapshot: &Snapshot) -> Result<BlobId> {
    snapshot.graph.root.ok_or_else(|| Error::Invalid(format!("snapshot {} holds nothing", snapshot.id().short())))
}

/// Commits an edited copy of `old`. One that stands already, because a run was cut off before it forgot the old one, is taken
/// instead. `None` in a dry run.
fn commit_edited(
    session: Session,
    old: &Snapshot,
    names: NamesPart,
    root: BlobId,
    time: Timestamp,
) -> Result<Option<SnapshotId>> {
    let mut graph = GraphPart::whole(session.content_ids(), &names, root, time);
    graph.previous = old.graph.previous;
    graph.original = old.graph.original.or(Some(old.id()));
    graph.parts = old.graph.parts.clone();
    let same = |s: &&Snapshot| {
        let (a, b) = (&s.graph, &graph);
        (a.original, a.root, a.time) == (b.original, b.root, b.time) && s.names.as_ref() == Some(&names)
    };
    if let Some(twin) = session.view().snapshots.iter().find(same).map(Snapshot::id) {
        session.abandon();
        return Ok(Some(twin));
    }
    Ok(session.commit(graph, |_| names)?.0)
}
