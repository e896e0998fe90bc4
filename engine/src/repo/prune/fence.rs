//! Ending sessions by name: `gc/<generation>.fence`, and who is dead (docs/protocol.md N1 to N3).

use crate::error::{Error, Result};
use crate::format::gc::{At, Fence, GC_BYTES_MAX, Kind};
use crate::format::objects;

use super::super::fence::Sessions;
use super::super::open::key;
use super::Pruner;

impl Pruner {
    /// Names sessions, and only then looks who of them has no snapshot: the dead (N1). What a prune has named that was cut off before
    /// its sweep is decided anew, so this replaces its fence, whatever that holds.
    pub(super) fn end_by_name(&self, generation: u64, ends: &Sessions) -> Result<Sessions> {
        if ends.is_empty() {
            return Ok(Sessions::new());
        }
        self.put_fence(generation, ends)?;
        Ok(self.without_snapshot(ends.iter().copied().collect())?.into_iter().collect())
    }

    /// Puts the fence and reads it back: nobody is dead who could not have read his name.
    fn put_fence(&self, generation: u64, sessions: &Sessions) -> Result<()> {
        let (repo, object) = (&self.repo, objects::fence(generation));
        let at = At { repository: repo.id(), object: &object, keys: &repo.graph };
        let fence = Fence { sessions: sessions.iter().copied().collect() };
        let stored = fence.encode(at, self.signer.0, &self.signer.1);
        let object = key(object);
        repo.bridge.wait(repo.store.put(&object, stored.clone().into()))?;
        match repo.bridge.wait(repo.store.get(&object, GC_BYTES_MAX))? == stored {
            true => Ok(()),
            false => Err(Error::damaged(
                object.as_str(),
                "the store has other bytes than were written; if another prune of this repository runs, let one of them end first",
            )),
        }
    }
}
