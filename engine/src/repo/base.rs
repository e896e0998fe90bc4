//! The base chain: reading the newest base, and folding, which makes the next (docs/protocol.md "Fold").
//!
//! A fold deletes nothing and drops nothing: it lists what committed snapshots publish, and merges small segments, so that
//! a repository of many small sessions opens quickly. Only an owner's backup does it, and only where the store's create-only
//! put is atomic.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::crypto::rng::Rng;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::base::{BASE_BYTES_MAX, Base, SIGNED_BY_ROOT};
use crate::format::bundle::{Identity, Role};
use crate::format::gc::{At, Kind, Tombstone};
use crate::format::objects::{self, Parsed};
use crate::id::{ObjectHash, SessionId, WriterId};
use crate::progress::Problem;
use crate::store::{Key, StoreError, list_all};

use super::condemned;
use super::fence::Fenced;
use super::forget::Forgets;
use super::merge::{Merge, Merged};
use super::open::{Repository, key};
use super::session;
use super::signers::Members;
use super::view::damaged;

/// Unfolded snapshots above which a backup of the owner folds.
const FOLD_ABOVE: usize = 64;

/// The newest base.
#[derive(Debug, Clone, Default)]
pub struct NewestBase {
    /// Its number; 0: there is none.
    pub n: u64,
    /// Hash of its bytes.
    pub hash: Option<ObjectHash>,
    /// What it says.
    pub base: Base,
    /// What stands at higher numbers and is no base.
    pub unreadable: Vec<Problem>,
}

impl NewestBase {
    /// Fails if a base may have been overlooked: who reads only what is there can do without, who relies on what a base
    /// says was dropped cannot.
    pub fn whole(&self) -> Result<()> {
        let Some(problem) = self.unreadable.first() else { return Ok(()) };
        Err(Error::damaged(
            problem.path.display().to_string(),
            format!(
                "{}. While it stands nothing is backed up, because it may be a base that says which packs were deleted, \
                 and whose bytes were lost. If nobody has pruned or folded this repository since base {}, somebody else \
                 put it there: remove that object from the store, then run copal check",
                problem.message, self.n
            ),
        ))
    }
}

impl Repository {
    /// The newest base: the highest that a LIST shows, and then as far as a GET finds a higher one.
    pub fn newest_base(&self) -> Result<NewestBase> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), "base/"))?;
        let numbers = listed.iter().filter_map(|l| match objects::parse(l.key.as_str()) {
            Some(Parsed::Base(n)) => Some(n),
            _ => None,
        });
        let mut numbers: Vec<u64> = numbers.collect();
        // In the order of a LIST; what it does not show yet follows.
        let (mut newest, mut unreadable) = (NewestBase::default(), Vec::new());
        let mut next = numbers.last().copied().unwrap_or(0).checked_add(1);
        while let Some(n) = numbers.pop().filter(|_| newest.n == 0) {
            match self.read_base(n) {
                Ok(read) => newest = read.unwrap_or_default(),
                Err(e) => unreadable.push(no_base(e)?),
            }
        }
        while let Some(n) = next {
            match self.read_base(n) {
                Ok(None) => break,
                Ok(Some(higher)) => (newest, unreadable) = (higher, Vec::new()),
                Err(e) => unreadable.push(no_base(e)?),
            }
            next = n.checked_add(1);
        }
        Ok(NewestBase { unreadable, ..newest })
    }

    /// The newest base, if there is one above `n`, or anything that may be one.
    pub(super) fn base_above(&self, n: u64) -> Result<Option<NewestBase>> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), "base/"))?;
        let is_above = |key: &Key| matches!(objects::parse(key.as_str()), Some(Parsed::Base(m)) if m > n);
        // Usually there is none, and what may be a large object is not read again.
        let nothing_listed = !listed.iter().any(|l| is_above(&l.key));
        let next = n.checked_add(1).filter(|_| nothing_listed);
        if let Some(Ok(None)) = next.map(|n| self.read_base(n)) {
            return Ok(None);
        }
        self.newest_base().map(Some)
    }

    pub(super) fn read_base(&self, n: u64) -> Result<Option<NewestBase>> {
        let object = key(objects::base(n));
        let stored = match self.bridge.wait(self.store.get(&object, BASE_BYTES_MAX)) {
            Ok(stored) => stored,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(StoreError::Wrong { how, .. }) => return Err(Error::damaged(object.as_str(), how)),
            Err(e) => return Err(e.into()),
        };
        let read =
            |members: &Members<'_>| Base::decode(&stored, self.id(), n, &self.graph, |who| members.of_base(n, who));
        let base = self.judge(read)?.map_err(Error::in_object(object.as_str()))?;
        Ok(Some(NewestBase { n, hash: Some(Base::hash(&stored)), base, unreadable: Vec::new() }))
    }

    /// What is wrong with any base that is stored: each opens, and names the one before it if that is still there.
    pub fn verify_bases(&self) -> Result<Vec<Problem>> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), "base/"))?;
        let mut problems = Vec::new();
        let mut before: Option<(u64, Option<ObjectHash>)> = None;
        for l in listed {
            let Some(Parsed::Base(n)) = objects::parse(l.key.as_str()) else { continue };
            let how = match self.read_base(n) {
                Ok(Some(read)) => {
                    let chained = before.is_none_or(|(m, hash)| m + 1 != n || read.base.previous == hash);
                    before = Some((n, read.hash));
                    if chained { continue } else { "it does not follow the base before it".into() }
                }
                Ok(None) => continue,
                Err(Error::Damaged { how, .. }) => how,
                Err(e) => return Err(e),
            };
            problems.push(damaged(l.key.as_str(), how));
        }
        Ok(problems)
    }

    /// Folds if it is time to; the number of the new base. For an owner, after a backup.
    ///
    /// When somebody else makes a base meanwhile, nothing is done: the next backup tries again.
    pub fn fold(self: &Arc<Self>, who: &Identity, rng: &mut dyn Rng) -> Result<Option<u64>> {
        if self.role() != Role::Owner || self.ends_by_name() {
            return Ok(None);
        }
        let newest = self.newest_base()?;
        newest.whole()?;
        let committed = self.committed_beside(&newest, Forgets::default(), &BTreeSet::new(), Fenced::LeftOut)?;
        // Forgotten ones too (F1). That they are forgotten stays with their records: `forgets` is as it was.
        let unfolded: Vec<_> = committed.unfolded(&newest.base).collect();
        // What is damaged must not be folded away: a base would stop naming it.
        if unfolded.len() <= FOLD_ABOVE || !committed.problems.is_empty() {
            return Ok(None);
        }
        if condemned::is_pruned(self)? {
            return Ok(None);
        }
        let (session, _) = session::next_session(self, who.id, newest.base.floor(who.id), rng)?;
        session::put_pin(self, who.id, session)?;

        let mut merge = Merge::new(self, who.id, &newest.base.dropped);
        merge.begin(session);
        let Merged { segments, dropped } = match merge.all(&newest.base, &unfolded) {
            // A prune has merged a segment into its own, and recorded that in a newer base (W3e): the next backup tries again.
            Err(Error::Store(StoreError::NotFound { .. })) if self.base_above(newest.n)?.is_some() => {
                self.end_session(who.id, session, (SIGNED_BY_ROOT, &self.root("fold")?))?;
                return Ok(None);
            }
            merged => merged?,
        };

        let mut known = newest.base.snapshots.clone();
        known.extend(unfolded.iter().map(|s| s.at));
        known.sort_unstable();
        let next = Base { previous: newest.hash, segments, snapshots: known, dropped, ..newest.base };
        let n = newest.n + 1;
        let stored = next.encode(self.id(), n, &self.graph, SIGNED_BY_ROOT, &self.root("fold")?);
        // A prune may have ended this session meanwhile (F5).
        match self.bridge.wait(self.store.head(&key(objects::snapshot(who.id, session)))) {
            Err(StoreError::NotFound { .. }) => {}
            Ok(_) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let made = match self.bridge.wait(self.store.put_new(&key(objects::base(n)), stored.into())) {
            Ok(()) => Some(n),
            Err(StoreError::Exists { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        self.end_session(who.id, session, (SIGNED_BY_ROOT, &self.root("fold")?))?;
        Ok(made)
    }

    /// Ends a session of one's own that has no snapshot to commit: with a tombstone, so that no prune waits for it. What it
    /// stored counts only if a base lists it by now.
    pub(super) fn end_session(
        &self,
        writer: WriterId,
        session: SessionId,
        (who, signer): (WriterId, &SigningKey),
    ) -> Result<()> {
        let object = objects::snapshot(writer, session);
        let at = At { repository: self.id(), object: &object, keys: &self.graph };
        let stored = Tombstone::default().encode(at, who, signer);
        match self.bridge.wait(self.store.put_new(&key(object.clone()), stored.into())) {
            Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// What stands where a base should and is none; other errors are errors.
fn no_base(error: Error) -> Result<Problem> {
    match error {
        Error::Damaged { object, how } => Ok(damaged(&object, how)),
        other => Err(other),
    }
}
