//! Check: the invariants of docs/format.md, one function each, and what each damage costs whom.
//!
//! ```text
//! view      snapshots and their segments, all of them fetched                     I1 I2   snapshots.rs
//! lists     one LIST of pack/ against the index; what nobody names is counted     I3      lists.rs
//! named     snapshots that others name; bases, pins, verdicts, slots              I8 I9   snapshots.rs
//! walk      each reachable tree once, a bit a blob                                I4 I5   walk.rs
//! read      packs whole, those verified longest ago first                         I6 I7   select.rs read.rs packs.rs
//! hurts     damaged copies -> snapshots and files                                         damage.rs hurts.rs
//! attest    signs what was verified and when, or checks who signed                        attest.rs
//! ```
//! Nothing is locked. What appears meanwhile is named by nobody in the view; where something is missing and snapshots have
//! vanished since they were read, the check begins again with what is there by then.

pub mod attest;
mod budget;
mod damage;
mod hurts;
mod lists;
mod packs;
mod read;
mod select;
mod snapshots;
mod walk;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::config::Use;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::ops::reason;
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::verdict::{self, Verified};
use crate::repo::{Reader, Repository, Snapshot, View};

pub use self::damage::{FINDINGS_MAX, Fault, Finding, HURTS_MAX, Hurt, Invariant, Place};
pub use self::lists::Unlisted;
pub use self::read::ReadCounts;
pub use self::select::Read;

use self::budget::Budget;
use self::damage::Damage;
use self::lists::Packs;
use self::read::Reading;
use self::walk::Walk;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which packs are read whole.
    pub read: Read,
    /// Packs that an earlier check found sound within this time are not read again.
    pub max_age: Option<Duration>,
    /// No pack is begun once the check has taken so long. What was read is remembered, and what was verified longest ago
    /// goes first, so that repeated checks get around. Snapshots, lists and trees are always checked whole.
    pub max_duration: Option<Duration>,
    /// Goes by the local index where there is one, instead of fetching every segment.
    pub with_cache: bool,
    /// Draws the packs of [`Read::Percent`] and [`Read::Bytes`].
    pub seed: u64,
}

/// What was checked and found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The first [`FINDINGS_MAX`] damaged objects, in the order of their keys.
    pub findings: Vec<Finding>,
    /// How many damaged objects there are; 0: all that was checked is as it must be.
    pub errors: u64,
    /// Packs that are missing or damaged, sorted.
    pub broken_packs: Vec<PackId>,
    /// Whether all places that damage hurts were counted; of very many only the first are.
    pub hurts_complete: bool,
    /// Snapshots that are signed and open.
    pub snapshots: u64,
    /// Snapshots that stand and do not count: a prune had ended their sessions before they came, or they were forgotten and lie below
    /// a floor. No error.
    pub dead_snapshots: u64,
    /// Entries of the index.
    pub entries: u64,
    /// Packs that the index names, and their sizes together in bytes.
    pub packs: u64,
    /// In bytes.
    pub pack_bytes: u64,
    /// Reachable blobs that the index knows.
    pub blobs: u64,
    /// Trees among them that were looked at; one that serves in several forms counts for each.
    pub trees: u64,
    /// What nobody names. No error.
    pub unlisted: Unlisted,
    /// How much was read.
    pub read: ReadCounts,
    /// When the packs were verified that the index names, now or by earlier checks with a key like this one: the oldest and the
    /// youngest time, in seconds since 1970. None unless all of them were, and when nothing was read.
    pub verified: Option<(u64, u64)>,
    /// The snapshots, sorted.
    pub snapshot_ids: Vec<SnapshotId>,
    /// What drew the packs that were read.
    pub seed: Option<u64>,
    /// What this key or program could not check, a sentence each.
    pub unchecked: Vec<String>,
}

impl Report {
    /// Whether an index made anew from the packs would help.
    pub fn suggest_repair_index(&self) -> bool {
        let of_index = |f: &Fault| matches!(f.invariant, Invariant::I2 | Invariant::I4);
        self.findings.iter().any(|finding| finding.faults.iter().any(of_index))
    }

    /// Whether there is something to clean up.
    pub fn suggest_prune(&self) -> bool {
        self.unlisted.packs > 0 || self.unlisted.segments > 0
    }
}

/// How often a check begins again because snapshots vanished below it.
const ATTEMPTS: usize = 3;
/// Stack of the threads; the second walk goes down directories by calls. Only reserved.
const STACK_BYTES: usize = 256 << 20;

/// Checks a repository. Blocks; call it from a plain thread.
///
/// Damage is in the report, and told to `progress` one object at a time at the end; an error means that the check itself
/// could not be done.
pub fn check(repo: &Arc<Repository>, options: &Options, progress: &dyn Progress, cancel: &Cancel) -> Result<Report> {
    check_within(repo, options, progress, cancel, Budget::new(repo.options().memory / 2)).map_err(|e| reason(cancel, e))
}

fn check_within(
    repo: &Arc<Repository>,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
    budget: Arc<Budget>,
) -> Result<Report> {
    repo.may(Use::Check, "check")?;
    options.read.validate()?;
    let threads = repo.options().threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(STACK_BYTES)
        .thread_name(|n| format!("copal-check-{n}"))
        .build()
        .map_err(|e| Error::Invalid(format!("cannot start {threads} threads: {e}")))?;
    let mut check = Check {
        repo,
        options,
        progress,
        cancel,
        pool,
        deadline: options.max_duration.and_then(|d| Instant::now().checked_add(d)),
        budget,
        found: Mutex::default(),
        read: ReadCounts::default(),
    };
    for _ in 1..ATTEMPTS {
        if let Some(report) = check.attempt(false)? {
            return Ok(report);
        }
    }
    Ok(check.attempt(true)?.expect("the last attempt reports whatever it finds"))
}

struct Check<'c> {
    repo: &'c Arc<Repository>,
    options: &'c Options,
    progress: &'c dyn Progress,
    cancel: &'c Cancel,
    pool: rayon::ThreadPool,
    deadline: Option<Instant>,
    budget: Arc<Budget>,
    /// What came of each pack that was read.
    found: Mutex<verdict::Found>,
    /// How much was read in attempts that began again.
    read: ReadCounts,
}

impl Check<'_> {
    /// Checks one view. `None`: something is missing, and the view is not what stands any more, so it may be nobody's damage.
    fn attempt(&mut self, last: bool) -> Result<Option<Report>> {
        let view = if self.options.with_cache { self.repo.view()? } else { self.repo.fresh_view()? };
        let damage = Damage::default();
        let (verified, of_verdicts) = self.repo.verdicts()?;
        let mut report = self.summary(&view);

        snapshots::i1_signed(self.repo, &view, &damage)?;
        snapshots::i2_segments(&view, &damage);
        lists::i2_listed(self.repo, &view, &damage, &mut report.unlisted)?;
        let packs = Packs::of(&view.index);
        report.packs = packs.list.len() as u64;
        report.pack_bytes = packs.list.iter().map(|p| p.size).sum();
        lists::i3_packs(self.repo, &packs, &damage, &mut report.unlisted)?;
        if !snapshots::i8_named(self.repo, &view, &damage)? {
            report.unchecked.push("whether snapshots that others name were forgotten (I8): somebody prunes".into());
        }
        snapshots::i9_small_objects(self.repo, &view, &of_verdicts, &damage)?;

        let cache = (self.repo.options().memory / 8).min(256 << 20) as usize;
        let reader = Reader::new(Arc::clone(self.repo), Arc::clone(&view.index), cache);
        let reached = Walk::new(&reader, &packs, &damage, self.cancel).run(&self.pool, &roots(&view.snapshots))?;
        (report.trees, report.blobs) = (reached.trees, reached.blobs);

        (report.read, report.verified) = self.read_packs(&reader, &packs, &damage, verified)?;
        if !last && !damage.is_empty() && self.is_overtaken(&view)? {
            self.read.packs = report.read.packs;
            self.read.bytes = report.read.bytes;
            return Ok(None);
        }
        self.conclude(&reader, &view, damage, report).map(Some)
    }

    fn summary(&self, view: &View) -> Report {
        let mut unchecked = Vec::new();
        if !self.repo.can_read() {
            unchecked.push(format!(
                "names, attributes and lengths of files against their trees (I5) and content in packs (I7): \
                 a {}'s key does not read them",
                self.repo.role().as_str()
            ));
        }
        // Maintenance commits without a tree.
        let with_tree = view.snapshots.iter().filter(|s| s.graph.root.is_some());
        let mut snapshot_ids: Vec<_> = with_tree.map(Snapshot::id).collect();
        snapshot_ids.sort_unstable();
        Report {
            snapshots: snapshot_ids.len() as u64,
            dead_snapshots: view.dead.len() as u64,
            snapshot_ids,
            entries: view.index.len(),
            seed: self.options.read.is_drawn().then_some(self.options.seed),
            hurts_complete: true,
            unchecked,
            ..Report::default()
        }
    }

    fn read_packs(
        &self,
        reader: &Reader,
        packs: &Packs,
        damage: &Damage,
        mut verified: Verified,
    ) -> Result<(ReadCounts, Option<(u64, u64)>)> {
        if self.options.read == Read::Nothing {
            return Ok(Default::default());
        }
        // What an attempt before this one verified is as good as it gets.
        let found = self.found.lock().expect("no panic while held").clone();
        let sound: HashSet<PackId> = found.iter().filter(|(_, at)| at.is_some()).map(|(id, _)| *id).collect();
        verified.extend(found.into_iter().filter_map(|(id, at)| Some((id, at?))));
        let now = self.repo.options().clock.now().secs.max(0) as u64;
        let options = self.options;
        let mut plan = select::plan(&packs.list, options.read, options.seed, &verified, options.max_age, now);
        plan.order.retain(|at| {
            let id = packs.list[*at as usize].id;
            !sound.contains(&id) && !damage.is_gone(&id)
        });
        let reading = Reading {
            reader,
            packs,
            damage,
            progress: self.progress,
            cancel: self.cancel,
            deadline: self.deadline,
            pool: &self.pool,
            budget: Arc::clone(&self.budget),
            found: &self.found,
        };
        let mut counts = reading.run(&plan)?;
        counts.packs += self.read.packs;
        counts.bytes += self.read.bytes;
        Ok((counts, self.all_verified(packs, &verified, now)))
    }

    /// When all packs were verified, oldest and youngest: by what was found just now, else by `known`.
    fn all_verified(&self, packs: &Packs, known: &Verified, now: u64) -> Option<(u64, u64)> {
        let found = self.found.lock().expect("no panic while held");
        let when = |pack: &lists::Pack| match found.get(&pack.id) {
            Some(at) => *at,
            None => known.get(&pack.id).copied().filter(|at| *at <= now),
        };
        let times: Vec<u64> = packs.list.iter().map(when).collect::<Option<_>>()?;
        Some((*times.iter().min()?, *times.iter().max()?))
    }

    /// Whether the view is not what stands any more: a prune has moved packs, or a snapshot was forgotten, and with it perhaps
    /// went what only it needed.
    fn is_overtaken(&self, view: &View) -> Result<bool> {
        if self.repo.newest_base()?.n > view.base.n {
            return Ok(true);
        }
        let (snapshots, _) = self.repo.snapshots()?;
        let there: HashSet<_> = snapshots.iter().map(Snapshot::id).collect();
        Ok(view.snapshots.iter().any(|s| !there.contains(&s.id())))
    }

    fn conclude(&self, reader: &Reader, view: &View, damage: Damage, mut report: Report) -> Result<Report> {
        if !damage.is_empty() {
            let find = || hurts::find(reader, &view.snapshots, &damage, self.cancel);
            report.hurts_complete = self.pool.install(find)?;
        }
        report.broken_packs = damage.bad_packs();
        let (findings, more) = damage.into_findings();
        report.errors = findings.len() as u64 + more;
        for finding in &findings {
            let faults: Vec<&str> = finding.faults.iter().map(|f| f.what.as_str()).collect();
            let path = PathBuf::from(&finding.object);
            self.progress.problem(Problem { kind: ProblemKind::Damaged, path, message: faults.join("; ") });
        }
        report.findings = findings;
        Ok(report)
    }
}

/// The roots of all snapshots, each once, in the order of time.
fn roots(snapshots: &[Snapshot]) -> Vec<BlobId> {
    let mut seen = HashSet::new();
    snapshots.iter().filter_map(|s| s.graph.root).filter(|root| seen.insert(*root)).collect()
}

#[cfg(test)]
mod tests;
