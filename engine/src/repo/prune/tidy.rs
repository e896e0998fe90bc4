//! P7 and P8: deleting what the base has dropped, and what lies below the floors.

use std::collections::{BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::gc::Sweep;
use crate::format::objects::{self, Parsed};
use crate::id::SegmentId;
use crate::store::{Key, list_all};

use super::super::base::NewestBase;
use super::super::open::key;
use super::rebase::Rebased;
use super::{Pruner, SessionKey};

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Packs.
    pub packs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Index segments.
    pub segments: u64,
}

impl Pruner {
    /// P7: packs, then segments that no base lists any more.
    pub(super) fn delete(&self, sweep: &Sweep, newest: &NewestBase, rebased: Option<&Rebased>) -> Result<Deleted> {
        let packs = sweep.packs.iter().map(|p| key(objects::pack(p.writer, p.session, p.seq, p.id))).collect();
        self.delete_all(packs)?;
        let segments = self.obsolete_segments(&newest.base, rebased)?;
        let deleted = Deleted {
            packs: sweep.packs.len() as u64,
            bytes: sweep.packs.iter().map(|p| p.size).sum(),
            segments: segments.len() as u64,
        };
        self.delete_all(segments)?;
        Ok(deleted)
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
                below || r.ended.contains(session) || r.folded.contains(session)
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
        self.delete_all(old)?;
        self.retire(generation)
    }

    fn delete_all(&self, keys: Vec<Key>) -> Result<()> {
        let deleted = self.repo.bridge.map(keys, self.repo.options.connections, |object| {
            let store = self.repo.store.clone();
            async move { store.delete(&object).await.map_err(Error::from) }
        })?;
        drop(deleted);
        Ok(())
    }
}
