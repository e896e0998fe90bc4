//! P7 and P8: deleting what the base has dropped, and what lies below the floors.
//!
//! What the store refuses to delete because it is locked stays and is counted: the base has dropped it all the same, and a
//! later prune asks again (docs/protocol.md "Deletions that the store refuses").

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::PoisonError;

use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::gc::Sweep;
use crate::format::objects::{self, Parsed};
use crate::id::{SegmentId, WriterId};
use crate::store::retention::Retention;
use crate::store::{Key, Store, StoreError, list_all};

use super::super::base::NewestBase;
use super::super::open::key;
use super::rebase::Rebased;
use super::{Look, Pruner, SessionKey};

/// Pins of ended sessions that are worth a generation of their own: each one leaves two itself, and asks everybody.
const MANY_PINS: usize = 16;

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Packs.
    pub packs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Index segments.
    pub segments: u64,
    /// What stays because the store has locked it.
    pub locked: Locked,
}

/// Objects that the store did not let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locked {
    /// How many, of any kind.
    pub objects: u64,
    /// Sizes of the packs among them together, in bytes.
    pub bytes: u64,
    /// When the last of them is free, in seconds since 1970.
    pub until: u64,
}

impl Locked {
    /// Counts others too.
    pub fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.until = self.until.max(other.until);
    }
}

impl Pruner {
    /// P7: packs, then segments that no base lists any more.
    pub(super) fn delete(&self, sweep: &Sweep, newest: &NewestBase, rebased: Option<&Rebased>) -> Result<Deleted> {
        let packs =
            sweep.packs.iter().map(|p| (key(objects::pack(p.writer, p.session, p.seq, p.id)), p.size)).collect();
        let packs_locked = self.delete_unless_locked(packs)?;
        let segments = self.obsolete_segments(&newest.base, rebased)?;
        let all = segments.len() as u64;
        let segments_locked = self.delete_unless_locked(segments.into_iter().map(|s| (s, 0)).collect())?;
        Ok(Deleted {
            packs: sweep.packs.len() as u64 - packs_locked.objects,
            bytes: sweep.packs.iter().map(|p| p.size).sum::<u64>() - packs_locked.bytes,
            segments: all - segments_locked.objects,
            locked: Locked::default(),
        })
    }

    /// Segments that the base does not list, of sessions that it knows; and of those that had ended, or lay below the floor,
    /// before it was made: what such a session's executor would still have made of them fails by now.
    fn obsolete_segments(&self, base: &Base, rebased: Option<&Rebased>) -> Result<Vec<Key>> {
        let listed: HashSet<SegmentId> = base.segments.iter().map(|s| s.id).collect();
        let known: BTreeSet<SessionKey> =
            base.snapshots.iter().chain(&base.forgotten).map(|s| (s.writer, s.session)).collect();
        let ended = |session: &SessionKey| {
            rebased.is_some_and(|r| {
                let below = r.floors_before.iter().any(|(writer, n)| *writer == session.0 && session.1.n < *n);
                let dead = base.dead.binary_search(session).is_ok();
                below || dead || r.ended.contains(session) || r.folded.contains(session)
            })
        };
        let mut obsolete = Vec::new();
        for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "idx/"))? {
            let Some(Parsed::Segment(writer, session, _, id)) = objects::parse(l.key.as_str()) else { continue };
            let of = (writer, session);
            if !listed.contains(&id) && (known.contains(&of) || ended(&of)) {
                obsolete.push(l.key);
            }
        }
        Ok(obsolete)
    }

    /// P8: older bases, records of what is forgotten, and all that sessions below the floors have left; the generation last.
    pub(super) fn tidy(&self, generation: u64, newest: &NewestBase) -> Result<()> {
        self.tidy_below(newest)?;
        self.retire(generation)
    }

    /// Where no pack goes: deletes all the same what the rules let go by the base that stands. That is what was replaced in it (P7),
    /// older bases and records that it has taken in (P8d), and what lies below its floors (P8a, P8b). How many segments.
    pub fn tidy_up(&self) -> Result<u64> {
        let newest = self.repo.newest_base()?;
        newest.whole()?;
        if newest.n == 0 {
            return Ok(0);
        }
        let deleted = self.delete(&Sweep::default(), &newest, None)?;
        self.tidy_below(&newest)?;
        Ok(deleted.segments)
    }

    /// Whether there is more that only a generation may take away, though no pack goes: segments of sessions that ended without
    /// a commit or may have died, which are deleted by who creates a base after that (P8c), or many pins that a floor may pass (P2, P8a).
    pub fn is_littered(&self, look: &Look) -> Result<bool> {
        let base = &look.view.base.base;
        let of_base = base.segments.iter().map(|s| s.id);
        let named: HashSet<SegmentId> =
            of_base.chain(look.view.unfolded().flat_map(|s| s.graph.segments.iter().map(|(_, id)| *id))).collect();
        let pinned = self.pinned()?;
        // An open one may have died: only who is asked tells, or is ended (P3).
        let ended: HashSet<&SessionKey> = look.view.ended.iter().map(|ended| &ended.at).chain(&pinned).collect();
        let may_end = |of: &SessionKey| ended.contains(of) || of.1.n < base.floor(of.0);
        for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "idx/"))? {
            if let Some(Parsed::Segment(writer, session, _, id)) = objects::parse(l.key.as_str())
                && !named.contains(&id)
                && may_end(&(writer, session))
            {
                return Ok(true);
            }
        }
        let floors: BTreeMap<WriterId, u64> = self.floors(look)?.into_iter().collect();
        let passed = |(writer, session): &&SessionKey| floors.get(writer).is_some_and(|n| session.n < *n);
        Ok(pinned.iter().filter(passed).count() >= MANY_PINS)
    }

    fn tidy_below(&self, newest: &NewestBase) -> Result<()> {
        let base = &newest.base;
        let known: BTreeSet<SessionKey> = base.snapshots.iter().map(|s| (s.writer, s.session)).collect();
        let mut old = Vec::new();
        // Snapshots and tombstones before pins: as long as those stand, a prune asks for what these say.
        for prefix in ["base/", "forget/", "snap/", "pin/"] {
            for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), prefix))? {
                let goes = match objects::parse(l.key.as_str()) {
                    Some(Parsed::Base(n)) => n < newest.n,
                    Some(Parsed::Forget(n)) => n <= base.forgets,
                    Some(Parsed::Snapshot(w, s)) => s.n < base.floor(w) && !known.contains(&(w, s)),
                    Some(Parsed::Pin(w, s) | Parsed::Ack(w, s, _)) => s.n < base.floor(w),
                    _ => false,
                };
                if goes {
                    old.push(l.key);
                }
            }
        }
        self.delete_all(old)
    }

    pub(super) fn delete_all(&self, keys: Vec<Key>) -> Result<()> {
        self.delete_unless_locked(keys.into_iter().map(|key| (key, 0)).collect()).map(drop)
    }

    /// Deletes objects of these sizes: which of them stay is counted in `self.locked` too.
    fn delete_unless_locked(&self, objects: Vec<(Key, u64)>) -> Result<Locked> {
        let now = self.repo.options.clock.now().secs.unsigned_abs();
        let outcomes = self.repo.bridge.map(objects, self.repo.options.connections, |(object, size)| {
            let store = self.repo.store.clone();
            async move { delete(store.as_ref(), &object, size, now).await.map_err(Error::from) }
        })?;
        let mut locked = Locked::default();
        outcomes.iter().for_each(|one| locked.add(one));
        self.locked.lock().unwrap_or_else(PoisonError::into_inner).add(&locked);
        Ok(locked)
    }

    /// What the store did not let go of since this was asked last.
    pub(super) fn take_locked(&self) -> Locked {
        std::mem::take(&mut *self.locked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A refusal counts as a lock only if the store says of the object that it is retained after `now`, in seconds since 1970:
/// else it is for want of rights.
async fn delete(store: &dyn Store, object: &Key, size: u64, now: u64) -> Result<Locked, StoreError> {
    let denied = match store.delete(object).await {
        Err(denied @ StoreError::Denied { .. }) => denied,
        done => return done.map(|()| Locked::default()),
    };
    let Some(keeper) = store.keeper() else { return Err(denied) };
    match keeper.retention(object).await {
        Ok(Some(Retention { until, .. })) if until > now => Ok(Locked { objects: 1, bytes: size, until }),
        // Somebody else has deleted it meanwhile.
        Err(StoreError::NotFound { .. }) => Ok(Locked::default()),
        _ => Err(denied),
    }
}
