//! Ending sessions by name: `gc/<generation>.fence`, and who is dead (docs/protocol.md N1 to N3).

use crate::error::{Error, Result};
use crate::format::gc::{At, Fence, GC_BYTES_MAX, Kind};
use crate::format::objects;
use crate::store::{Key, StoreError};

use super::super::condemned::read_gc;
use super::super::fence::Sessions;
use super::super::open::{Repository, key};
use super::Pruner;

impl Pruner {
    /// The sessions that the fence of a generation names, if a prune that was cut off has put one.
    pub(super) fn standing_fence(&self, generation: u64) -> Result<Sessions> {
        if !self.repo.ends_by_name() {
            return Ok(Sessions::new());
        }
        let standing = self.repo.bridge.wait(read_gc::<Fence>(&self.repo, &objects::fence(generation)))?;
        Ok(standing.into_iter().flat_map(|fence| fence.sessions).collect())
    }

    /// Creates an object, as [`crate::store::Store::put_new`] does where that is atomic. Elsewhere it is looked for first, so that no
    /// prune overwrites what one before it has decided.
    pub(super) fn put_new(&self, object: &Key, bytes: Vec<u8>) -> Result<(), StoreError> {
        let Repository { store, bridge, .. } = &*self.repo;
        if self.repo.ends_by_name() {
            match bridge.wait(store.head(object)) {
                Ok(_) => return Err(StoreError::Exists { key: object.clone() }),
                Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        bridge.wait(store.put_new(object, bytes.into()))
    }

    /// Names sessions, beside all that `fence` names already (N3), and only then looks who of them has no snapshot: the dead (N1).
    pub(super) fn end_by_name(&self, generation: u64, ends: &Sessions, fence: &mut Sessions) -> Result<Sessions> {
        if ends.is_empty() {
            return Ok(Sessions::new());
        }
        fence.extend(ends);
        self.put_fence(generation, fence)?;
        let asked = self.repo.bridge.map(ends.iter().copied().collect(), self.repo.options.connections, |at| {
            let (store, object) = (self.repo.store.clone(), key(objects::snapshot(at.0, at.1)));
            async move {
                match store.head(&object).await {
                    Ok(_) => Ok(None),
                    Err(StoreError::NotFound { .. }) => Ok(Some(at)),
                    Err(e) => Err(Error::from(e)),
                }
            }
        })?;
        Ok(asked.into_iter().flatten().collect())
    }

    /// Puts the fence, over a shorter one, and reads it back: nobody is dead who could not have read his name.
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
