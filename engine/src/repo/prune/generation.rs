//! `gc/`: which generations stand, making one, deciding it, retiring it (P2, P5, P8).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::gc::{At, Condemn, GC_BYTES_MAX, Kind, PackRef, Sweep};
use crate::format::objects::{self, Parsed};
use crate::id::{PackId, WriterId};
use crate::store::{StoreError, list_all};

use super::super::condemned::{read_gc, unknown};
use super::super::open::key;
use super::{Look, Pruner, SessionKey};

/// Numbers that others may take while one generation looks for its own.
const TRIES_MAX: usize = 1000;

/// A generation that is not retired.
pub(super) struct Generation {
    pub condemn: Condemn,
    pub sweep: Option<Sweep>,
}

impl Pruner {
    /// Of two LISTs, because one may be short.
    pub(super) fn numbers(&self) -> Result<BTreeSet<u64>> {
        let mut numbers = BTreeSet::new();
        for _ in 0..2 {
            for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "gc/"))? {
                match objects::parse(l.key.as_str()) {
                    Some(Parsed::Condemn(n) | Parsed::Sweep(n)) => numbers.insert(n),
                    Some(Parsed::Fence(n)) if self.repo.ends_by_name() => numbers.insert(n),
                    _ => return Err(unknown(l.key.as_str())),
                };
            }
        }
        Ok(numbers)
    }

    /// `None`: its condemn is gone, so it is retired, whatever else stands.
    pub(super) fn read_generation(&self, n: u64) -> Result<Option<Generation>> {
        let repo = &self.repo;
        let Some(condemn) = repo.bridge.wait(read_gc::<Condemn>(repo, &objects::condemn(n)))? else { return Ok(None) };
        let sweep = repo.bridge.wait(read_gc::<Sweep>(repo, &objects::sweep(n)))?;
        Ok(Some(Generation { condemn, sweep }))
    }

    /// Creates a generation that names these packs (P2): its number.
    pub fn condemn(&self, look: &Look, mut packs: Vec<PackRef>) -> Result<u64> {
        packs.sort_unstable();
        packs.dedup_by_key(|p| p.id);
        let floors = self.floors(look)?;
        // gc before base: what has gone from there is recorded here.
        let standing = self.numbers()?;
        let base = self.repo.newest_base()?;
        base.whole()?;
        let highest = standing.last().copied().max(base.base.done.last().copied()).unwrap_or(0);
        let condemn = Condemn { floors, packs };
        for n in highest.saturating_add(1)..=highest.saturating_add(TRIES_MAX as u64) {
            if self.create(objects::condemn(n), &condemn)? {
                return Ok(n);
            }
        }
        Err(Error::Busy("others begin prunes faster than this one can; try again later".into()))
    }

    /// P5: from here on its list is what is condemned; another executor's, if that was faster.
    pub(super) fn create_sweep(&self, n: u64, sweep: Sweep) -> Result<Sweep> {
        if self.create(objects::sweep(n), &sweep)? {
            return Ok(sweep);
        }
        let theirs = self.repo.bridge.wait(read_gc::<Sweep>(&self.repo, &objects::sweep(n)))?;
        theirs.ok_or_else(|| Error::Busy("another prune has finished this one; run it again for the rest".into()))
    }

    /// Whether the object stands with these bytes now. They tell, not the answer of the put, which may have been lost.
    fn create<K: Kind>(&self, object: String, value: &K) -> Result<bool> {
        let (who, signer) = &self.signer;
        let at = At { repository: self.repo.id(), object: &object, keys: &self.repo.graph };
        let stored = value.encode(at, *who, signer);
        if stored.len() as u64 > GC_BYTES_MAX {
            return Err(Error::Invalid("these are too many packs for one prune; give --max-repack-size".into()));
        }
        let object = key(object);
        let put = self.repo.create(&object, stored.clone());
        match self.repo.bridge.wait(self.repo.store.get(&object, GC_BYTES_MAX)) {
            Ok(there) if there == stored => Ok(true),
            Ok(_) => match put {
                Err(StoreError::Exists { .. }) => Ok(false),
                _ => Err(Error::damaged(object.as_str(), "the store has other bytes than were written")),
            },
            Err(StoreError::NotFound { .. }) => match put {
                // It was there, and is retired by now.
                Err(StoreError::Exists { .. }) => Ok(false),
                Err(e) => Err(e.into()),
                Ok(()) => Err(Error::damaged(object.as_str(), "it was written and is not in the store")),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// What other generations condemn: copies there are none.
    pub(super) fn condemned_elsewhere(&self, own: u64) -> Result<HashSet<PackId>> {
        let mut packs = HashSet::new();
        for n in self.numbers()?.into_iter().filter(|n| *n != own) {
            let Some(other) = self.read_generation(n)? else { continue };
            let listed = other.sweep.map_or(other.condemn.packs, |sweep| sweep.packs);
            packs.extend(listed.into_iter().map(|p| p.id));
        }
        Ok(packs)
    }

    /// P2: one above each writer's highest session that has ended, and never above one that is open.
    pub(super) fn floors(&self, look: &Look) -> Result<Vec<(WriterId, u64)>> {
        let base = &look.view.base.base;
        let committed = look.view.committed().map(|s| (s.at.writer, s.at.session));
        let ended = committed.chain(look.view.ended.iter().map(|ended| &ended.at).chain(&base.dead).copied());
        let mut floors: BTreeMap<WriterId, u64> = BTreeMap::new();
        for (writer, session) in ended {
            let floor = floors.entry(writer).or_default();
            *floor = (*floor).max(session.n.saturating_add(1));
        }
        let open = self.open_among(&self.pinned()?, base)?;
        hold_below(&mut floors, open.iter());
        floors.retain(|writer, n| *n > base.floor(*writer));
        Ok(floors.into_iter().collect())
    }

    /// P8, its end: the condemn goes last, because without it nobody looks for the rest.
    pub(super) fn retire(&self, n: u64) -> Result<()> {
        for object in [objects::sweep(n), objects::fence(n), objects::condemn(n)] {
            self.delete_all(vec![key(object)])?;
        }
        Ok(())
    }

    /// Generations that a base has to remember: those that may still stand, and the highest ever.
    pub(super) fn remembered(&self, base: &Base, own: u64) -> Result<Vec<u64>> {
        let standing = self.numbers()?;
        let mut done: BTreeSet<u64> = base.done.iter().copied().filter(|n| standing.contains(n)).collect();
        done.extend(base.done.last());
        done.insert(own);
        Ok(done.into_iter().collect())
    }
}

/// No floor rises above an open session.
pub(super) fn hold_below<'s>(floors: &mut BTreeMap<WriterId, u64>, open: impl Iterator<Item = &'s SessionKey>) {
    for (writer, session) in open {
        if let Some(floor) = floors.get_mut(writer) {
            *floor = (*floor).min(session.n);
        }
    }
}
