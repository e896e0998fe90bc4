//! Sessions that are ended by name, where create-only puts are not atomic (docs/protocol.md N1 to N14).
//!
//! There a tombstone might overwrite a snapshot. So a prune names those that do not answer in `gc/<generation>.fence`, and
//! only then looks for their snapshots: who has none is dead, whatever arrives later. A session looks for its name once its
//! snapshot stands. One of the two always sees the other.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::format::gc::{Fence, Sweep};
use crate::format::objects::{self, Parsed};
use crate::id::{SessionId, WriterId};
use crate::store::{Key, Listed, StoreError, list_all};

use super::condemned::read_gc;
use super::open::Repository;

/// Sessions, by their names.
pub(super) type Sessions = BTreeSet<(WriterId, SessionId)>;

/// Which snapshots of sessions that a prune is ending count as committed, until a base says it.
#[derive(Clone, Copy)]
pub(super) enum Fenced<'d> {
    /// For who only reads: all but those that a sweep declares dead.
    Shown,
    /// For who builds upon them: none that a fence names (N11).
    LeftOut,
    /// For the prune that has looked for them: all but these (N4).
    Dead(&'d Sessions),
}

impl Repository {
    /// Whether prunes name the sessions that they end, instead of putting tombstones: by what `init` found, for all must agree.
    pub fn ends_by_name(&self) -> bool {
        self.config.store.create_only != 2
    }

    /// Creates an object that others may create, too: as [`Store::put_new`](crate::store::Store::put_new) does where that is atomic.
    /// Elsewhere it is looked for first, so that nobody overwrites what was decided before, even if a LIST did not show it.
    pub(super) fn create(&self, object: &Key, bytes: Vec<u8>) -> Result<(), StoreError> {
        if self.ends_by_name() {
            match self.bridge.wait(self.store.head(object)) {
                Ok(_) => return Err(StoreError::Exists { key: object.clone() }),
                Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.bridge.wait(self.store.put_new(object, bytes.into()))
    }

    /// The sessions whose snapshots do not count. Must be read after the snapshots, and before base n+1 is asked for (N12, N14).
    pub(super) fn left_out(&self, fenced: Fenced<'_>) -> Result<Sessions> {
        match fenced {
            Fenced::Dead(dead) => Ok(dead.clone()),
            _ if !self.ends_by_name() => Ok(Sessions::new()),
            Fenced::LeftOut => self.bridge.wait(self.named()),
            Fenced::Shown => self.bridge.wait(self.declared_dead()),
        }
    }

    /// The sessions that fences name, of two LISTs (N9, N13).
    pub(super) async fn named(&self) -> Result<Sessions> {
        let mut listed = list_all(self.store.as_ref(), "gc/").await?;
        listed.extend(list_all(self.store.as_ref(), "gc/").await?);
        self.named_by(&listed).await
    }

    /// The sessions that the fences among these objects name.
    pub(super) async fn named_by(&self, listed: &[Listed]) -> Result<Sessions> {
        let fences = listed.iter().filter_map(|l| match objects::parse(l.key.as_str()) {
            Some(Parsed::Fence(n)) => Some(n),
            _ => None,
        });
        let generations: BTreeSet<u64> = fences.collect();
        let mut named = Sessions::new();
        for n in generations {
            let fence: Option<Fence> = read_gc(self, &objects::fence(n)).await?;
            named.extend(fence.into_iter().flat_map(|fence| fence.sessions));
        }
        Ok(named)
    }

    /// The sessions that sweeps declare dead which no base may have taken in. What is no sweep hides nothing.
    async fn declared_dead(&self) -> Result<Sessions> {
        let mut dead = Sessions::new();
        for l in list_all(self.store.as_ref(), "gc/").await? {
            let Some(Parsed::Sweep(n)) = objects::parse(l.key.as_str()) else { continue };
            match read_gc::<Sweep>(self, &objects::sweep(n)).await {
                Ok(sweep) => dead.extend(sweep.into_iter().flat_map(|sweep| sweep.dead)),
                Err(e @ Error::Damaged { .. }) => tracing::warn!("{e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(dead)
    }
}
