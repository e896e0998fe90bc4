//! Prune: gives back the space of what no snapshot needs, beside everybody else's work (docs/protocol.md).
//!
//! ```text
//! mark      every blob that a snapshot reaches, a bit a blob                          mark.rs
//! facts     of each pack, what is needed and what is not                              facts.rs
//! plan      which packs go whole, and which are copied first; pure                    plan.rs
//! repack    what is needed of those is copied, in a session of its own                repo/repack.rs
//! execute   condemn, drain, mark again, sweep, base, delete                           repo/prune/
//! lock      in a bucket with Object Lock: what is live is retained for longer         lock.rs
//! ```
//! A dry run ends after the plan. Every step can be repeated: a prune first finishes what an earlier one left.

pub mod facts;
pub mod lock;
pub mod mark;
pub mod plan;

use std::collections::HashSet;
use std::sync::Arc;

use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::bundle::Identity;
use crate::format::objects;
use crate::format::snapshot::SnapshotRef;
use crate::id::{BlobId, PackId};
use crate::progress::{Cancel, Progress};
use crate::repo::index::Marks;
use crate::repo::prune::{Deleted, Done, Look, Pruner};
use crate::repo::repack::Repack;
use crate::repo::{Forgotten, Repository, View};
use crate::store::StoreError;
use crate::store::probe::Verdict;

pub use facts::{Facts, PackUse, gather, spare};
pub use lock::{Bucket, Extend, Extended};
pub use mark::mark;
pub use plan::{Counts, Limit, Plan, Policy, plan_prune};

/// Of all stored bytes, what may go without anything that explains it, in percent: a LIST that lost keys looks like that.
const UNEXPLAINED_PERCENT: u64 = 30;

/// So often a prune begins at most, where others delete what it was about to read, or end its sessions.
const ATTEMPTS: usize = 5;

/// How to prune.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// How much may stay.
    pub policy: Policy,
    /// Ends after the plan, and changes nothing.
    pub dry_run: bool,
    /// Nobody else works on the repository: open sessions are ended at once.
    pub exclusive: bool,
    /// Goes on though much would be deleted that nothing explains.
    pub yes: bool,
    /// Probes the store first, and goes by the worse of that and what `init` found. A dry run does not.
    pub probe: bool,
    /// For a dry run: it plans as if these were forgotten, too.
    pub as_if_forgotten: Vec<SnapshotRef>,
    /// Afterwards extends the retention of everything that is live.
    pub lock: Option<Extend>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What was meant to go.
    pub plan: Plan,
    /// Earlier prunes that were finished first.
    pub finished: u64,
    /// Number of this one; `None`: there was nothing to do, or only a plan was wanted.
    pub generation: Option<u64>,
    /// Packs that were read and copied from.
    pub repacked_packs: u64,
    /// Frames that were copied, in bytes.
    pub repacked_bytes: u64,
    /// What it and the earlier ones have come to.
    pub done: Done,
    /// What it has relied on.
    pub relied: Relied,
    /// What came of [`Options::lock`].
    pub extended: Option<Extended>,
    /// What the bucket promises and still holds; `None`: the store is none, or does not tell these credentials.
    pub bucket: Option<Bucket>,
}

/// What a prune takes for granted of the store and of who calls it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relied {
    /// Of several who create one object at once one wins: any number of prunes may run beside backups.
    #[default]
    CreateOnly,
    /// No other prune of the repository runs, nor a repair: of two who create one object the later would win. Backups may run.
    OnePrune,
    /// Nobody else works on the repository: [`Options::exclusive`].
    Nobody,
}

/// Prunes. Blocks; call it from a plain thread.
///
/// [`Error::Busy`]: the store does not promise enough, or others are in the way; [`Error::Damaged`]: what is needed cannot be
/// known. In both cases nothing that anybody needs was deleted.
pub fn prune(
    repo: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Summary> {
    let lock = options.lock.map(|extend| lock::plan(repo, extend)).transpose()?;
    let proven = repo.owners_verdicts()?.into_keys().collect();
    let found = if options.probe && !options.dry_run { repo.probe()? } else { None };
    let mut run = Run { repo, who, options, progress, cancel, proven, found };
    let summary = run.attempts(&mut rng).map_err(|e| super::reason(cancel, e))?;
    run.keep(lock, summary).map_err(|e| super::reason(cancel, e))
}

struct Run<'r> {
    repo: &'r Arc<Repository>,
    who: &'r Identity,
    options: &'r Options,
    progress: &'r dyn Progress,
    cancel: &'r Cancel,
    /// Packs that an owner's check has read whole, and those that this run wrote itself: only in favour of a copy in one of
    /// them is another given up.
    proven: HashSet<PackId>,
    /// What a probe of the store has found just now.
    found: Option<Verdict>,
}

impl Run<'_> {
    /// Begins again with a fresh view where another executor was faster: every step may be repeated, and what the attempt
    /// before has begun is carried out first.
    fn attempts(&mut self, rng: &mut Box<dyn Rng>) -> Result<Summary> {
        let mut summary = Summary::default();
        for _ in 0..ATTEMPTS {
            let seen = self.repo.newest_base()?.n;
            match self.prune(&mut summary, rng) {
                Err(e) if self.is_overtaken(&e, seen)? => tracing::info!("the prune begins again: {e}"),
                done => return done.map(|()| summary),
            }
        }
        Err(Error::Busy("other prunes are faster than this one, each time that it begins; run it again later".into()))
    }

    /// Whether that failed only because another executor has made base `seen` obsolete, and deleted what it no longer lists, or
    /// has ended the session that repacked.
    fn is_overtaken(&self, error: &Error, seen: u64) -> Result<bool> {
        match error {
            Error::Fenced(_) => Ok(true),
            Error::Store(StoreError::NotFound { .. }) | Error::Damaged { .. } => Ok(self.repo.newest_base()?.n > seen),
            _ => Ok(false),
        }
    }

    fn prune(&mut self, summary: &mut Summary, rng: &mut Box<dyn Rng>) -> Result<()> {
        let pruner = self.pruner()?;
        summary.relied = self.relied();
        if !self.options.dry_run {
            for generation in pruner.unretired()? {
                add(&mut summary.done, &self.carry_out(&pruner, generation, &mut **rng)?);
                summary.finished += 1;
            }
        }
        let mut look = pruner.look()?;
        self.forget_for_show(&mut look.view);
        let live = self.live(&look.view)?;
        let mut facts = gather(&look.view.index, &live, &self.forgotten(&look.view), &self.is_proven(), self.memory());
        (facts.unlisted, facts.unlisted_unexplained) = (look.unlisted.clone(), look.unexplained());
        nothing_needed_is_missing(&facts, &look)?;
        summary.plan = plan_prune(&facts, &self.options.policy);
        self.brake(&summary.plan)?;
        // Records of forgotten snapshots are taken in, and they deleted, even where no pack goes.
        let is_taken_in = look.view.forgotten.iter().all(|f| f.time.is_none()) && look.view.spent().is_empty();
        // A run that has died is only found by asking it; then its parts go, and with the next prune what they hold.
        let nothing = summary.plan.is_empty() && is_taken_in && !look.view.awaits_wholes();
        if self.options.dry_run {
            return Ok(());
        }
        if nothing {
            summary.done.deleted.segments += pruner.tidy_up()?;
            if !pruner.is_littered(&look)? {
                return Ok(());
            }
        }
        if !summary.plan.repack.is_empty() {
            let moved = self.repack(&look, &live, &summary.plan, &mut **rng)?;
            (summary.repacked_packs, summary.repacked_bytes) = (moved.packs, moved.bytes);
            self.proven.extend(moved.written);
        }
        let generation = pruner.condemn(&look, summary.plan.condemned())?;
        summary.generation = Some(generation);
        add(&mut summary.done, &self.carry_out(&pruner, generation, &mut **rng)?);
        Ok(())
    }

    fn forget_for_show(&self, view: &mut View) {
        let named = &self.options.as_if_forgotten;
        assert!(named.is_empty() || self.options.dry_run, "nothing goes that no record forgets");
        let snapshots = view.snapshots.extract_if(.., |s| named.contains(&s.at));
        view.forgotten.extend(snapshots.map(|s| Forgotten { at: s.at, time: None, snapshot: Some(s) }));
    }

    /// What is live by now is retained for longer, and what the bucket holds on to is counted.
    fn keep(&self, lock: Option<lock::Plan>, mut summary: Summary) -> Result<Summary> {
        if let Some(lock) = lock {
            let pruner = self.pruner()?;
            let live = pruner.live(&pruner.look()?)?;
            let extended = lock::extend(self.repo, lock, live, self.options.dry_run, self.progress, self.cancel)?;
            summary.extended = Some(extended);
        }
        summary.bucket = lock::bucket(self.repo)?;
        Ok(summary)
    }

    fn pruner(&self) -> Result<Pruner> {
        Pruner::new(self.repo, self.who, self.options.exclusive, self.found.as_ref())
    }

    fn relied(&self) -> Relied {
        match (self.options.exclusive, self.repo.ends_by_name()) {
            (true, _) => Relied::Nobody,
            (false, true) => Relied::OnePrune,
            (false, false) => Relied::CreateOnly,
        }
    }

    fn memory(&self) -> u64 {
        self.repo.options().memory / 2
    }

    fn is_proven(&self) -> impl Fn(&PackId) -> bool + '_ {
        |pack| self.proven.contains(pack)
    }

    fn live(&self, view: &View) -> Result<Marks> {
        let spent = view.spent();
        let live = view.snapshots.iter().filter(|s| !spent.contains(&s.at));
        let roots: Vec<BlobId> = live.filter_map(|s| s.graph.root).collect();
        mark(self.repo, &view.index, &roots, self.cancel)
    }

    /// What forgotten snapshots reach; nothing, where that cannot be read any more. It only explains why things go.
    fn forgotten(&self, view: &View) -> Marks {
        let spent = view.spent();
        let parts = view.snapshots.iter().filter(|s| spent.contains(&s.at));
        let forgotten = view.forgotten.iter().filter_map(|f| f.snapshot.as_ref()).chain(parts);
        let roots: Vec<BlobId> = forgotten.filter_map(|s| s.graph.root).collect();
        mark(self.repo, &view.index, &roots, self.cancel).unwrap_or_else(|_| view.index.marks())
    }

    fn brake(&self, plan: &Plan) -> Result<()> {
        let Counts { unexplained, stored, unlisted, .. } = plan.counts;
        let all = stored + unlisted;
        if self.options.yes || self.options.dry_run || unexplained * 100 <= all * UNEXPLAINED_PERCENT {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "{unexplained} of {all} stored bytes would be deleted that no forgotten snapshot and no interrupted backup explains; \
             nothing was deleted. If the store lost objects or its listings are short, that is how it looks: run copal check. If \
             it is right, run the prune again with --yes"
        )))
    }

    fn carry_out(&self, pruner: &Pruner, generation: u64, rng: &mut dyn Rng) -> Result<Done> {
        let mut decide = |view: &View, elsewhere: &HashSet<PackId>, going: &mut HashSet<PackId>| {
            spare(&view.index, &self.live(view)?, &self.is_proven(), elsewhere, going);
            Ok(())
        };
        pruner.carry_out(generation, &mut decide, rng, self.cancel)
    }

    fn repack(&self, look: &Look, live: &Marks, plan: &Plan, rng: &mut dyn Rng) -> Result<crate::repo::repack::Moved> {
        let proven = self.is_proven();
        let index = &look.view.index;
        let mut repack = Repack::begin(self.repo, self.who, Box::new(split(rng)))?;
        self.progress.expect(plan.repack.len() as u64, plan.counts.repack);
        repack.packs(
            &plan.repack,
            &|id, kind, pack, offset| {
                live.is_marked(id, kind) && facts::is_kept(index, &proven, id, kind, (pack, offset))
            },
            &|pack| {
                let object = objects::pack(pack.writer, pack.session, pack.seq, pack.id);
                self.progress.start(object.as_ref());
                self.progress.advance(1, pack.size);
                if self.cancel.is_canceled() { Err(Error::Interrupted) } else { Ok(()) }
            },
        )?;
        repack.commit()
    }
}

/// Who prunes a damaged repository might delete what could still have repaired it.
fn nothing_needed_is_missing(facts: &Facts, look: &Look) -> Result<()> {
    match facts.packs.iter().find(|p| p.used > 0 && look.missing.contains(&p.at.id)) {
        None => Ok(()),
        Some(PackUse { at, .. }) => Err(Error::damaged(
            objects::pack(at.writer, at.session, at.seq, at.id),
            "snapshots need it, and it is not in the store as it was written. Nothing was pruned",
        )),
    }
}

fn add(sum: &mut Done, one: &Done) {
    let Deleted { packs, bytes, segments, locked } = &mut sum.deleted;
    (*packs, *bytes) = (*packs + one.deleted.packs, *bytes + one.deleted.bytes);
    *segments += one.deleted.segments;
    locked.add(&one.deleted.locked);
    sum.fenced += one.fenced;
    sum.spared += one.spared;
    sum.forgotten += one.forgotten;
}
