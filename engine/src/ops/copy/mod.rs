//! Copy: snapshots of one repository into another, for which every byte is cut, named and sealed anew.
//!
//! ```text
//! pair      the last copy of the same source, if there is one      mod.rs
//! walk      directories; what is as it was then is taken over      walk.rs, before.rs
//! file      pieces -> bytes -> chunks of the other repository      pieces.rs, repo::save
//! commit    a snapshot whose original is the one it was made of    repo::session
//! ```
//! A copy is cut as a backup into the other repository would have been, so that the two deduplicate, and its tags are those that
//! a backup would have made. A snapshot of which a copy stands is not copied again; what an interrupted run stored is adopted.

mod before;
mod pieces;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::bundle::Identity;
use crate::format::config::Use;
use crate::format::snapshot::{GraphPart, NamesPart, SnapshotKind};
use crate::id::SnapshotId;
use crate::ops::{FOLD_EVERY, abandon, fold, names_of, persist, pool, tree_of};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::save::Saver;
use crate::repo::session::{Session, Stored};
use crate::repo::{Reader, Repository, Snapshot, View};

use self::before::Pair;
use self::walk::Walk;

const VERB: &str = "copy snapshots";

/// Where snapshots come from: a view, and a reader of it.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// Among its snapshots are the chosen ones.
    pub view: &'a View,
    /// Its frame cache is the memory that reading takes.
    pub reader: &'a Reader,
}

/// What became of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Where it comes from.
    pub from: SnapshotId,
    /// Its copy.
    pub to: SnapshotId,
    /// What was stored for it; `None`: the copy stood already.
    pub stored: Option<Stored>,
}

/// Whether these keys may copy, and the repositories are two.
pub fn may_copy(from: &Repository, to: &Repository) -> Result<()> {
    if from.id() == to.id() {
        return Err(Error::Invalid("these are one repository; a copy needs another one".into()));
    }
    from.may(Use::Read, "read snapshots to copy them")?;
    to.may(Use::Write, VERB)
}

/// Copies `chosen` in their order, as far as no copy stands; calls `done` for each at once.
///
/// One that is damaged is not copied and is a problem. zstd `level`: 0 = off. After [`Cancel`] what was stored so far stays,
/// for the next run to adopt.
#[expect(clippy::too_many_arguments, reason = "from where, where to, who, what, how, and whom to tell")]
pub fn copy(
    from: From<'_>,
    to: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    chosen: &[&Snapshot],
    level: i32,
    (progress, cancel): (&dyn Progress, &Cancel),
    done: &mut dyn FnMut(&Copied),
) -> Result<()> {
    may_copy(from.reader.repository(), to)?;
    let mut copies = copies(to.committed()?.snapshots.iter());
    let mut made = 0;
    for old in chosen {
        if let Some(to) = copies.get(&old.id()) {
            done(&Copied { from: old.id(), to: *to, stored: None });
            continue;
        }
        let rng = &mut *rng;
        let one = persist(true, cancel, "this copy", || {
            one_session(from, to, who, &mut *rng, old, level, (progress, cancel))
        });
        match one {
            Ok(copied) => {
                copies.insert(copied.from, copied.to);
                done(&copied);
                made += 1;
                if made % FOLD_EVERY == 0 {
                    fold(to, who, rng);
                }
            }
            Err(e @ Error::Damaged { .. }) => {
                let message = format!("it is not copied: {e}");
                let path = format!("snapshot {}", old.id().short()).into();
                progress.problem(Problem { kind: ProblemKind::Damaged, path, message });
            }
            Err(e) => return Err(e),
        }
    }
    if made % FOLD_EVERY != 0 {
        fold(to, who, &mut *rng);
    }
    Ok(())
}

/// Which of these snapshots is a copy, or an edited copy, of which other.
fn copies<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> HashMap<SnapshotId, SnapshotId> {
    let whole = snapshots.filter(|s| s.graph.kind == SnapshotKind::Whole);
    whole.filter_map(|s| Some((s.graph.original?, s.id()))).collect()
}

fn one_session(
    from: From<'_>,
    to: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    old: &Snapshot,
    level: i32,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Copied> {
    let (names, root) = (names_of(old)?.clone(), tree_of(old)?);
    let session = Session::begin(Arc::clone(to), who, level, false, Box::new(split(rng)))?;
    let mut graph = GraphPart::whole(session.content_ids(), &names, root, old.graph.time);
    let pair = pair(from.view, &session, old);
    match copy_tree(from.reader, &session, (old, graph.source), pair, progress, cancel) {
        Ok(tree) => graph.root = Some(tree),
        Err(e) => return Err(abandon(session, e)),
    }
    graph.original = Some(old.id());
    graph.previous = old.graph.previous.and_then(|id| copies(session.view().snapshots.iter()).get(&id).copied());
    let (snapshot, stored) = session.commit(graph, |_| names)?;
    Ok(Copied { from: old.id(), to: snapshot.expect("it is no dry run"), stored: Some(stored) })
}

/// The last snapshot of the same source that this writer has copied, and its copy. Not those of others: what is taken over from
/// a copy is not compared with where it came from again.
fn pair(from: &View, session: &Session, old: &Snapshot) -> Option<Pair> {
    let own = session.view().snapshots.iter().filter(|s| s.at.writer == session.writer());
    let roots: HashMap<_, _> = own.filter_map(|s| Some((s.graph.original?, s.graph.root?))).collect();
    let same = from.committed().filter(|s| s.graph.kind == SnapshotKind::Whole && s.graph.source == old.graph.source);
    let copied = same.filter_map(|s| Some((s, Pair { from: s.graph.root?, to: *roots.get(&s.id())? })));
    copied.max_by_key(|(s, _)| (s.graph.time <= old.graph.time, s.graph.time, s.at)).map(|(_, pair)| pair)
}

fn copy_tree(
    from: &Reader,
    session: &Session,
    (old, source): (&Snapshot, [u8; 32]),
    pair: Option<Pair>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<crate::id::BlobId> {
    let repo = session.repository();
    let (threads, memory) = (repo.options().threads.max(1), repo.options().memory);
    let (files, bytes) = expected(names_of(old)?);
    progress.expect(files, bytes);
    let walk = Walk {
        saver: Saver::new(session, threads, progress, cancel)?,
        from,
        to: Reader::new(Arc::clone(repo), Arc::clone(&session.view().index), (memory / 16).min(32 << 20) as usize),
        source,
        batch_bytes: (memory / 16 / threads as u64).max(1 << 20),
        cancel,
        links: Default::default(),
        told: Default::default(),
    };
    let root = tree_of(old)?;
    let tree = pool(threads)?.install(|| walk.directory(&root, b"", 0, pair))?;
    walk.saver.flush()?;
    // Of directories that were taken over whole nobody counted the files.
    let [done_files, done_bytes] = walk.told.map(|n| n.load(Ordering::Relaxed));
    progress.advance(files.saturating_sub(done_files), bytes.saturating_sub(done_bytes));
    Ok(tree)
}

/// Files and bytes, as the backup counted them.
fn expected(names: &NamesPart) -> (u64, u64) {
    (names.counts.files.iter().sum(), names.counts.bytes)
}
