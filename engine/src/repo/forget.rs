//! Records of what nobody wants any more: reading them beside a base, and adding one (docs/protocol.md "Forget").
//!
//! A record only ever hides snapshots; packs and index know nothing of it. So one that a LIST does not show, or that is
//! damaged, lets its snapshots be seen once more, and does no other harm.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::base::SIGNED_BY_ROOT;
use crate::format::config::Use;
use crate::format::gc::{At, FORGET_BYTES_MAX, Forget, Kind};
use crate::format::node::Timestamp;
use crate::format::objects::{self, Parsed};
use crate::format::snapshot::SnapshotRef;
use crate::id::WriterId;
use crate::progress::Problem;
use crate::store::{Key, StoreError, list_all};

use super::base::NewestBase;
use super::open::{Repository, key};
use super::signers::{Members, Signers};
use super::view::damaged;

/// Numbers that others may take while one record looks for its own.
const TRIES_MAX: usize = 1000;
/// Records above a base that are asked for one by one.
const NUMBERS_MAX: u64 = 1 << 16;
const VERB: &str = "forget snapshots";

/// What the records above a base say.
#[derive(Debug, Default)]
pub(super) struct Forgets {
    /// Each snapshot that a record names, and when it was forgotten first.
    pub at: BTreeMap<SnapshotRef, Timestamp>,
    /// The highest number among them; that of the base, if there are none.
    pub highest: u64,
    /// Records that are none.
    pub problems: Vec<Problem>,
}

impl Repository {
    /// All records that `newest` has not taken in. Must be read after that base, and before it is asked for a newer one (G2):
    /// a record is removed only once a base has it.
    pub(super) fn forgets_beside(&self, newest: &NewestBase) -> Result<Forgets> {
        let mut numbers = self.list_forgets()?;
        numbers.retain(|n| *n > newest.base.forgets);
        let highest = numbers.last().copied().unwrap_or(newest.base.forgets);
        // They have no gaps: what a LIST leaves out is asked for.
        if highest - newest.base.forgets <= NUMBERS_MAX {
            numbers = (newest.base.forgets + 1..=highest).collect();
        }
        let stored = self.bridge.map(numbers, self.options.connections.min(8), |n| {
            let (store, key) = (Arc::clone(&self.store), key(objects::forget(n)));
            async move {
                match store.get(&key, FORGET_BYTES_MAX).await {
                    Ok(bytes) => Ok(Some((key, bytes))),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    // Too long: none either.
                    Err(StoreError::Wrong { .. }) => Ok(Some((key, Default::default()))),
                    Err(e) => Err(Error::from(e)),
                }
            }
        })?;
        let (mut forgets, mut signers) = (Forgets { highest, ..Forgets::default() }, Signers::new(self));
        for (object, bytes) in stored.into_iter().flatten() {
            match self.bridge.wait(signers.judge(|members| self.read_forget(members, &object, &bytes)))? {
                Ok(Some(forget)) => forget.snapshots.iter().for_each(|s| {
                    forgets.at.entry(*s).or_insert(forget.time);
                }),
                Ok(None) => tracing::info!("{object} does not count: its maintainer was revoked"),
                Err(e) => {
                    let how = format!("this record of forgotten snapshots is ignored, what it names is shown: {e}");
                    forgets.problems.push(damaged(object.as_str(), how));
                }
            }
        }
        Ok(forgets)
    }

    /// `None`: by somebody who was revoked. What bases have taken in before that stays forgotten, the rest must not: else a
    /// stolen key could hide everything for ever.
    fn read_forget(
        &self,
        members: &Members<'_>,
        object: &Key,
        bytes: &[u8],
    ) -> Result<Option<Forget>, crate::format::codec::Malformed> {
        let at = At { repository: self.id(), object: object.as_str(), keys: &self.graph };
        let mut signer = SIGNED_BY_ROOT;
        let forget = Forget::decode(bytes, at, |who| {
            signer = who;
            members.of_maintenance(who)
        })?;
        let revoked = signer != SIGNED_BY_ROOT && members.member(signer).is_none_or(|m| m.revoked.is_some());
        Ok((!revoked).then_some(forget))
    }

    fn list_forgets(&self) -> Result<Vec<u64>> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), "forget/"))?;
        let number = |key: &Key| match objects::parse(key.as_str()) {
            Some(Parsed::Forget(n)) => Some(n),
            _ => None,
        };
        Ok(listed.iter().filter_map(|l| number(&l.key)).collect())
    }

    /// Whether this key may forget; before anything is read or written.
    pub fn may_forget(&self) -> Result<()> {
        self.may(Use::Maintain, VERB)?;
        self.maintenance_signer(VERB).map(drop)
    }

    /// Adds a record that these snapshots are forgotten: the number of it; `None` where none are named.
    ///
    /// They are hidden from then on; nothing is deleted. To forget what was forgotten is no error.
    pub fn forget(&self, snapshots: &[SnapshotRef]) -> Result<Option<u64>> {
        self.may(Use::Maintain, VERB)?;
        let (who, signer) = self.maintenance_signer(VERB)?;
        let mut snapshots = snapshots.to_vec();
        snapshots.sort_unstable();
        snapshots.dedup();
        if snapshots.is_empty() {
            return Ok(None);
        }
        let forget = Forget { time: self.options.clock.now(), snapshots };
        let mut newest = self.newest_base()?;
        newest.whole()?;
        let mut n = self.list_forgets()?.last().copied().unwrap_or(0).max(newest.base.forgets);
        for _ in 0..TRIES_MAX {
            n = n.checked_add(1).ok_or_else(|| Error::damaged(objects::forget(n), "no number is left for the next"))?;
            if !self.put_forget(n, &forget, who, &signer)? {
                continue;
            }
            // A base that was made since the first look may count this number among those it has taken in, and mean another's
            // record, which was removed before this one was created (G3).
            match self.base_above(newest.n)? {
                Some(newer) if newer.base.forgets >= n && !all_gone(&newer, &forget) => {
                    newer.whole()?;
                    n = newer.base.forgets;
                    newest = newer;
                }
                _ => return Ok(Some(n)),
            }
        }
        Err(Error::Busy("others add records under forget/ faster than this one can; try again later".into()))
    }

    /// Whether the record stands under number `n` now; else somebody else's does. The bytes tell, not the answer of the put:
    /// that may have been lost, and a store may overwrite.
    fn put_forget(&self, n: u64, forget: &Forget, who: WriterId, signer: &SigningKey) -> Result<bool> {
        let object = objects::forget(n);
        let stored = forget.encode(At { repository: self.id(), object: &object, keys: &self.graph }, who, signer);
        if stored.len() as u64 > FORGET_BYTES_MAX {
            return Err(Error::Invalid("these are too many snapshots for one record; forget fewer at once".into()));
        }
        let object = key(object);
        match self.create(&object, stored.clone()) {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        match self.bridge.wait(self.store.get(&object, FORGET_BYTES_MAX)) {
            Ok(there) => Ok(there == stored),
            Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Who signs records of maintenance with this key: ROOT, or the maintainer.
    pub(super) fn maintenance_signer(&self, verb: &'static str) -> Result<(WriterId, SigningKey)> {
        let Some(own) = self.bundle.identity.as_ref().filter(|_| self.bundle.root_seed.is_none()) else {
            return Ok((SIGNED_BY_ROOT, self.root(verb)?));
        };
        match self.config.member(own.id) {
            Some(m) if m.revoked.is_some() => Err(Error::WrongKey(
                "this maintainer was revoked; ask the owner of the repository for a new key".into(),
            )),
            Some(m) if m.maintainer => Ok((own.id, SigningKey::from_seed(own.seed.clone()))),
            _ => Err(Error::WrongKey("this key is not enrolled as a maintainer of the repository".into())),
        }
    }
}

/// Whether that base hides all that the record names.
fn all_gone(newest: &NewestBase, forget: &Forget) -> bool {
    forget.snapshots.iter().all(|s| newest.base.is_dead(s) || newest.base.has_forgotten(s))
}
