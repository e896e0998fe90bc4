//! Which packs were verified and when: an owner's verdicts in the store, everybody else's notes on their own machine
//! (docs/format.md "Verdicts").

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use crate::crypto::hash;
use crate::error::{Error, Result};
use crate::format::bundle::Role;
use crate::format::objects::{self, Parsed};
use crate::format::verdict::{VERDICT_BYTES_MAX, Verdict};
use crate::id::PackId;
use crate::progress::Problem;
use crate::store::{Key, StoreError, list_all};

use super::open::{Repository, key};
use super::state;
use super::view::damaged;

/// When each pack was last found sound, in seconds since 1970.
pub type Verified = HashMap<PackId, u64>;

/// What a check found out about packs: when they were found sound, or that they are damaged (`None`).
pub type Found = HashMap<PackId, Option<u64>>;

impl Repository {
    /// What is known of earlier checks, and what is wrong with stored verdicts. A damaged note of this machine counts as
    /// none.
    pub fn verdicts(&self) -> Result<(Verified, Vec<Problem>)> {
        let (_, mut verified, problems) = self.stored_verdicts()?;
        if self.role() != Role::Owner {
            for (pack, at) in self.local_verdict().packs {
                let known = verified.entry(pack).or_insert(at);
                *known = at.max(*known);
            }
        }
        Ok((verified, problems))
    }

    /// What verdicts say that an owner has signed: those packs were read whole, with content. The only ones in favour of which
    /// another copy may be given up.
    pub fn owners_verdicts(&self) -> Result<Verified> {
        self.stored_verdicts().map(|(_, verified, _)| verified)
    }

    /// Remembers what a check found, besides what is known of the packs that `keep` names.
    ///
    /// An owner stores a verdict and removes the older ones; others write a file in the state directory.
    pub fn remember(&self, found: &Found, keep: &dyn Fn(&PackId) -> bool) -> Result<()> {
        if self.role() != Role::Owner {
            let known = self.local_verdict().packs.into_iter().collect();
            return self.store_local(&merge(known, found, keep));
        }
        loop {
            let (highest, known, _) = self.stored_verdicts()?;
            let n = highest
                .checked_add(1)
                .ok_or_else(|| Error::damaged(objects::verdict(highest), "no number is left for the next"))?;
            let root = self.root("store a verdict")?;
            let stored = merge(known, found, keep).encode(self.id(), n, &self.graph, &root);
            match self.create(&key(objects::verdict(n)), stored) {
                Ok(()) => return self.remove_before(n),
                // Another check was faster: build upon what it found.
                Err(StoreError::Exists { .. }) => continue,
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn list_verdicts(&self) -> Result<Vec<(u64, Key)>> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), "check/"))?;
        let number = |key: Key| match objects::parse(key.as_str()) {
            Some(Parsed::Verdict(n)) => Some((n, key)),
            _ => None,
        };
        Ok(listed.into_iter().filter_map(|l| number(l.key)).collect())
    }

    /// The highest number, and what the highest verdict that opens says.
    fn stored_verdicts(&self) -> Result<(u64, Verified, Vec<Problem>)> {
        let listed = self.list_verdicts()?;
        let highest = listed.last().map_or(0, |(n, _)| *n);
        let mut problems = Vec::new();
        for (n, object) in listed.into_iter().rev() {
            let bytes = match self.bridge.wait(self.store.get(&object, VERDICT_BYTES_MAX)) {
                Ok(bytes) => bytes,
                // Superseded meanwhile.
                Err(StoreError::NotFound { .. }) => continue,
                Err(e) => return Err(e.into()),
            };
            match Verdict::decode(&bytes, self.id(), n, &self.graph, &self.config.root) {
                Ok(verdict) => return Ok((highest, verdict.packs.into_iter().collect(), problems)),
                Err(e) => problems.push(damaged(object.as_str(), format!("this verdict is ignored: {e}"))),
            }
        }
        Ok((highest, Verified::new(), problems))
    }

    /// What a store does not let go of costs room and nothing else.
    fn remove_before(&self, n: u64) -> Result<()> {
        for (_, object) in self.list_verdicts()?.into_iter().filter(|(older, _)| *older < n) {
            if let Err(e) = self.bridge.wait(self.store.delete(&object)) {
                tracing::debug!("the superseded {object} stays: {e}");
            }
        }
        Ok(())
    }

    /// With READ everything of a pack is verified, without it only the graph: the two are kept apart.
    fn verdict_file(&self) -> PathBuf {
        let name = if self.can_read() { "verdict" } else { "verdict-graph" };
        self.options.state.join(self.id().to_string()).join(name)
    }

    fn local_verdict(&self) -> Verdict {
        let path = self.verdict_file();
        let Ok(bytes) = fs::read(&path) else { return Verdict::default() };
        let decoded = bytes.split_last_chunk::<32>().and_then(|(list, check)| {
            if hash::blake3(&[list]) == *check { Verdict::from_bytes(list).ok() } else { None }
        });
        decoded.unwrap_or_else(|| {
            tracing::warn!("{} is damaged; what it said is verified again", path.display());
            Verdict::default()
        })
    }

    fn store_local(&self, verdict: &Verdict) -> Result<()> {
        let list = verdict.to_bytes();
        let check = hash::blake3(&[&list]);
        state::replace(&self.verdict_file(), &[&list[..], &check].concat())
    }
}

fn merge(mut known: Verified, found: &Found, keep: &dyn Fn(&PackId) -> bool) -> Verdict {
    for (pack, at) in found {
        match at {
            Some(at) => known.insert(*pack, *at),
            None => known.remove(pack),
        };
    }
    let mut packs: Vec<(PackId, u64)> = known.into_iter().filter(|(pack, _)| keep(pack)).collect();
    packs.sort_unstable();
    Verdict { packs }
}
