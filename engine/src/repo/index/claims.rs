//! Blobs of this session that no run knows yet: who stores which, decided once.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::format::blob::{Entry, PackInfo};
use crate::id::BlobId;

use super::run::Found;

/// What a worker that holds a blob has to do.
#[derive(Debug, Clone)]
pub enum Claim {
    /// Store it: every other worker is told otherwise.
    New,
    /// Nothing, it is in the repository.
    Known(Found),
    /// Nothing, another worker of this session stores it. It may be referenced right away: the session's snapshot is
    /// written only after all of its packs are durable.
    Pending,
}

/// More shards than a machine has workers, so that they rarely meet.
const SHARDS: usize = 64;

/// The set of claimed blobs.
pub(super) struct Claims {
    shards: Vec<Mutex<HashSet<BlobId>>>,
    published: Mutex<Published>,
}

/// Packs that are durable, and where their blobs lie.
#[derive(Default)]
pub(super) struct Published {
    pub packs: Vec<PackInfo>,
    /// With positions in `packs`.
    pub entries: Vec<Entry>,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), published: Mutex::default() }
    }

    /// Claims a blob unless it is claimed or `find` finds it. Nobody else can claim it while `find` runs.
    pub(super) fn claim(&self, id: &BlobId, find: impl FnOnce() -> Option<Found>) -> Claim {
        let mut shard = self.shard(id).lock().expect("no panic while held");
        if shard.contains(id) {
            return Claim::Pending;
        }
        if let Some(found) = find() {
            return Claim::Known(found);
        }
        shard.insert(*id);
        Claim::New
    }

    /// How many blobs are claimed.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic while held").len()).sum()
    }

    /// Notes where the blobs of a durable pack lie; returns how many such blobs wait for a run.
    pub(super) fn publish(&self, pack: PackInfo, entries: &[Entry]) -> usize {
        let mut published = self.published.lock().expect("no panic while held");
        let position = published.packs.len() as u32;
        published.packs.push(pack);
        published.entries.extend(entries.iter().map(|entry| Entry { pack: position, ..*entry }));
        published.entries.len()
    }

    /// Everything that was published since the last call.
    pub(super) fn take_published(&self) -> Published {
        std::mem::take(&mut *self.published.lock().expect("no panic while held"))
    }

    /// Forgets blobs that a run knows by now.
    pub(super) fn release(&self, entries: &[Entry]) {
        for entry in entries {
            self.shard(&entry.id).lock().expect("no panic while held").remove(&entry.id);
        }
    }

    fn shard(&self, id: &BlobId) -> &Mutex<HashSet<BlobId>> {
        &self.shards[usize::from(id.as_bytes()[31]) % SHARDS]
    }
}
