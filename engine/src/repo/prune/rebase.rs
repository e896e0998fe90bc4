//! P6: the base in which the swept packs are dropped. Computed anew for each attempt from the base that it follows.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::rng::Rng;
use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::gc::Sweep;
use crate::format::objects;
use crate::format::snapshot::{SnapshotKind, SnapshotRef};
use crate::id::{SessionId, WriterId};
use crate::store::StoreError;

use super::super::base::NewestBase;
use super::super::fence::{Fenced, Sessions};
use super::super::merge::{Merge, Merged};
use super::super::open::key;
use super::super::session::{next_session, put_pin};
use super::super::view::{Committed, Snapshot};
use super::generation::hold_below;
use super::{Pruner, SessionKey, sound};

/// Bases that others may make while this one is made.
const TRIES_MAX: usize = 100;

/// What the new base was made from.
pub(super) struct Rebased {
    /// The newest base: the one that was made, or a later one that holds the generation too.
    pub newest: NewestBase,
    /// Sessions that had ended without a snapshot before the base was made.
    pub ended: BTreeSet<SessionKey>,
    /// Sessions whose segments it lists, or others with the same entries.
    pub folded: BTreeSet<SessionKey>,
    /// Floors of the base before.
    pub floors_before: Vec<(WriterId, u64)>,
    /// Snapshots that it has taken in as forgotten.
    pub forgotten: u64,
}

impl Pruner {
    /// Makes the base, unless one records the generation by now.
    pub(super) fn rebase(
        &self,
        generation: u64,
        proposed: &[(WriterId, u64)],
        sweep: &Sweep,
        open: &BTreeSet<SessionKey>,
        rng: &mut dyn Rng,
    ) -> Result<Rebased> {
        let mut own = None;
        let made = self.rebase_under(generation, proposed, sweep, open, &mut own, rng);
        if let Some(session) = own {
            // Whatever came of it: what a base lists stays, the rest may go.
            self.repo.end_session(self.who.id, session, (self.signer.0, &self.signer.1))?;
        }
        made
    }

    fn rebase_under(
        &self,
        generation: u64,
        proposed: &[(WriterId, u64)],
        sweep: &Sweep,
        open: &BTreeSet<SessionKey>,
        own: &mut Option<SessionId>,
        rng: &mut dyn Rng,
    ) -> Result<Rebased> {
        let (repo, dead): (_, Sessions) = (&self.repo, sweep.dead.iter().copied().collect());
        for _ in 0..TRIES_MAX {
            let newest = repo.newest_base()?;
            newest.whole()?;
            let done = Rebased {
                ended: BTreeSet::new(),
                folded: BTreeSet::new(),
                floors_before: newest.base.floors.clone(),
                forgotten: 0,
                newest: newest.clone(),
            };
            if newest.base.done.contains(&generation) {
                return Ok(done);
            }
            let forgets = repo.forgets_beside(&newest)?;
            let taken = forgets.highest;
            let committed = repo.committed_beside(&newest, forgets, &self.pinned()?, Fenced::Dead(&dead))?;
            sound(&committed.problems)?;
            if own.is_none() {
                let (session, _) = next_session(repo, self.who.id, newest.base.floor(self.who.id), rng)?;
                put_pin(repo, self.who.id, session)?;
                *own = Some(session);
            }
            let session = own.expect("it was opened above");
            let unfolded: Vec<&Snapshot> = committed.unfolded(&newest.base).collect();
            let before = newest.base.snapshots.iter().chain(&newest.base.forgotten);
            let folded = before.chain(unfolded.iter().map(|s| &s.at)).map(|at| (at.writer, at.session)).collect();
            let dropped = newest.base.dropped.iter().chain(sweep.packs.iter().map(|p| &p.id));
            let mut merge = Merge::new(repo, self.who.id, dropped);
            merge.begin(session);
            let merged = match merge.all(&newest.base, &unfolded) {
                // Another executor has merged a segment into its own, if a newer base says so (W3e).
                Err(Error::Store(StoreError::NotFound { .. })) if self.is_above(newest.n)? => continue,
                merged => merged?,
            };
            let mut next =
                self.next(generation, &newest, &committed, merged, sweep, &floors(&newest.base, proposed, open));
            next.done = self.remembered(&newest.base, generation)?;
            next.forgets = taken;
            let forgotten = committed.forgotten.iter().filter(|f| !newest.base.has_forgotten(&f.at)).count() as u64;
            // Somebody else may carry out this generation, and have ended this session (F5).
            if self.has_ended(session)? {
                return Err(Error::Busy("another prune has ended this one; run it again".into()));
            }
            if !self.create_base(newest.n + 1, &next)? {
                continue;
            }
            // To a higher one that lacks the change it is applied once more (F3).
            let above = repo.base_above(newest.n)?.unwrap_or(newest);
            above.whole()?;
            if above.base.done.contains(&generation) {
                let ended = committed.ended.iter().map(|ended| ended.at).collect();
                return Ok(Rebased { newest: above, ended, folded, forgotten, ..done });
            }
        }
        Err(Error::Busy("others make bases faster than this prune can; try again later".into()))
    }

    /// Everything of the next base that follows from the one before, what is committed, and the sweep.
    fn next(
        &self,
        generation: u64,
        newest: &NewestBase,
        committed: &Committed,
        merged: Merged,
        sweep: &Sweep,
        floors: &[(WriterId, u64)],
    ) -> Base {
        let base = &newest.base;
        let mut snapshots: BTreeSet<SnapshotRef> = base.snapshots.iter().copied().collect();
        snapshots.extend(committed.unfolded(base).map(|s| s.at));
        let mut forgotten: BTreeSet<SnapshotRef> = base.forgotten.iter().copied().collect();
        forgotten.extend(committed.forgotten.iter().map(|f| f.at).filter(|at| snapshots.contains(at)));
        // A commit of maintenance has no tree: once its segments are listed it has served.
        let served = committed.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::None);
        forgotten.extend(served.map(|s| s.at));
        forgotten.extend(committed.spent(base, generation));
        snapshots.retain(|at| !forgotten.contains(at));
        let below = |writer: WriterId, session: SessionId| {
            floors.binary_search_by_key(&writer, |f| f.0).is_ok_and(|at| session.n < floors[at].1)
        };
        forgotten.retain(|at| !below(at.writer, at.session));
        let mut dead: BTreeSet<SessionKey> = base.dead.iter().chain(&sweep.dead).copied().collect();
        dead.retain(|(writer, session)| !below(*writer, *session));
        Base {
            previous: newest.hash,
            segments: merged.segments,
            snapshots: snapshots.into_iter().collect(),
            forgotten: forgotten.into_iter().collect(),
            dropped: merged.dropped,
            floors: floors.to_vec(),
            dead: dead.into_iter().collect(),
            done: Vec::new(),
            forgets: base.forgets,
        }
    }

    /// `false`: that number is taken.
    fn create_base(&self, n: u64, base: &Base) -> Result<bool> {
        let repo = &self.repo;
        let stored = base.encode(repo.id(), n, &repo.graph, self.signer.0, &self.signer.1);
        match repo.create(&key(objects::base(n)), stored) {
            Ok(()) => Ok(true),
            Err(StoreError::Exists { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a base above `n` stands.
    pub(super) fn is_above(&self, n: u64) -> Result<bool> {
        Ok(self.repo.base_above(n)?.is_some_and(|above| above.n > n))
    }

    fn has_ended(&self, session: SessionId) -> Result<bool> {
        match self.repo.bridge.wait(self.repo.store.head(&key(objects::snapshot(self.who.id, session)))) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// A floor rises only as far as was proposed, and never above a session that was open in P3.
fn floors(base: &Base, proposed: &[(WriterId, u64)], open: &BTreeSet<SessionKey>) -> Vec<(WriterId, u64)> {
    let mut rising: BTreeMap<WriterId, u64> = proposed.iter().copied().collect();
    hold_below(&mut rising, open.iter());
    let mut floors: BTreeMap<WriterId, u64> = base.floors.iter().copied().collect();
    for (writer, n) in rising {
        let floor = floors.entry(writer).or_default();
        *floor = n.max(*floor);
    }
    floors.into_iter().filter(|(_, n)| *n > 0).collect()
}
