//! Open sessions: who they are, waiting for their acks, ending those that do not answer, and what they claim (P1, P3, P4).

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::gc::{Ack, At, GC_BYTES_MAX, Kind, Tombstone};
use crate::format::objects::{self, Parsed};
use crate::format::pin::{PIN_BYTES_MAX, Pin};
use crate::format::snapshot::SNAPSHOT_BYTES_MAX;
use crate::id::PackId;
use crate::progress::Cancel;
use crate::store::{StoreError, list_all};

use super::super::fence::Sessions;
use super::super::open::key;
use super::super::session::{started, this_machine};
use super::super::signers::Members;
use super::{Pruner, SessionKey};

/// How many times the interval at which sessions look at `gc/` they are waited for.
const PATIENCE: u32 = 6;
/// How often in that interval it is looked whether they have answered.
const LOOKS: u32 = 20;

/// What became of the sessions that were open.
pub(super) struct Drained {
    /// Those that were open when the condemn stood.
    pub open: Sessions,
    /// How many were ended.
    pub fenced: u64,
    /// Those of them that were ended by name.
    pub dead: Sessions,
}

/// A session's answer to a condemn.
enum Answer {
    None,
    Ack(Ack),
    /// Something that is no ack of that session.
    Rubbish(String),
}

impl Pruner {
    /// Sessions with a pin, of two LISTs.
    pub(super) fn pinned(&self) -> Result<BTreeSet<SessionKey>> {
        let mut pinned = BTreeSet::new();
        for _ in 0..2 {
            for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "pin/"))? {
                match objects::parse(l.key.as_str()) {
                    Some(Parsed::Pin(writer, session) | Parsed::Ack(writer, session, _)) => {
                        pinned.insert((writer, session))
                    }
                    _ => false,
                };
            }
        }
        Ok(pinned)
    }

    /// Those that are open: neither snapshot nor tombstone stands, and no base has declared them dead.
    pub(super) fn open_among(&self, pinned: &BTreeSet<SessionKey>, base: &Base) -> Result<Vec<SessionKey>> {
        let alive = |at: &SessionKey| at.1.n >= base.floor(at.0) && base.dead.binary_search(at).is_err();
        self.without_snapshot(pinned.iter().filter(|s| alive(s)).copied().collect())
    }

    /// Those at whose keys nothing stands, in their order.
    pub(super) fn without_snapshot(&self, sessions: Vec<SessionKey>) -> Result<Vec<SessionKey>> {
        let found = self.repo.bridge.map(sessions, self.repo.options.connections, |(writer, session)| {
            let (store, object) = (self.repo.store.clone(), key(objects::snapshot(writer, session)));
            async move {
                match store.head(&object).await {
                    Ok(_) => Ok(None),
                    Err(StoreError::NotFound { .. }) => Ok(Some((writer, session))),
                    Err(e) => Err(Error::from(e)),
                }
            }
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// P3: every session that is open ends, acknowledges, or is ended.
    pub(super) fn drain(&self, generation: u64, base: &Base, cancel: &Cancel) -> Result<Drained> {
        let open: BTreeSet<SessionKey> = self.open_among(&self.pinned()?, base)?.into_iter().collect();
        let mut drained = Drained { open: open.clone(), fenced: 0, dead: Sessions::new() };
        let clock = &self.repo.options.clock;
        let (mut waiting, begun) = (open, clock.elapsed());
        let patience = self.repo.options.watch * PATIENCE;
        let pause = (self.repo.options.watch / LOOKS).max(Duration::from_millis(1));
        loop {
            let still = self.open_among(&waiting, base)?;
            waiting.clear();
            let (mut ends, late) = (Sessions::new(), clock.elapsed() >= begun + patience);
            for session in still {
                if matches!(self.answer(session, generation)?, Answer::Ack(_)) {
                    continue;
                }
                let ended = self.exclusive || late || self.is_gone(session)?;
                if ended {
                    ends.insert(session)
                } else {
                    waiting.insert(session)
                };
            }
            if !self.repo.ends_by_name() {
                for session in ends {
                    drained.fenced += u64::from(self.fence(session, generation)?);
                }
            } else if waiting.is_empty() {
                // All at once: two fences of one prune might arrive in another order, and the later one would count (N3).
                drained.dead = self.end_by_name(generation, &ends)?;
                drained.fenced = drained.dead.len() as u64;
            } else {
                waiting.extend(ends);
            }
            if waiting.is_empty() {
                return Ok(drained);
            }
            if cancel.is_canceled() {
                return Err(Error::Interrupted);
            }
            tracing::debug!("{} sessions have not answered yet", waiting.len());
            self.repo.bridge.wait(clock.pause(pause));
        }
    }

    /// What the sessions claim of a generation (P4).
    pub(super) fn claims(&self, generation: u64, sessions: &BTreeSet<SessionKey>) -> Result<HashSet<PackId>> {
        let mut claims = HashSet::new();
        for &session in sessions {
            match self.answer(session, generation)? {
                Answer::None => {}
                Answer::Ack(ack) => claims.extend(ack.claims),
                Answer::Rubbish(how) if !self.is_ended(session)? => {
                    let object = objects::ack(session.0, session.1, generation);
                    return Err(Error::damaged(
                        object,
                        format!("{how}. Nothing was deleted, because it may claim packs; run copal prune again later"),
                    ));
                }
                Answer::Rubbish(_) => {}
            }
        }
        Ok(claims)
    }

    fn answer(&self, (writer, session): SessionKey, generation: u64) -> Result<Answer> {
        let object = objects::ack(writer, session, generation);
        let stored = match self.repo.bridge.wait(self.repo.store.get(&key(object.clone()), GC_BYTES_MAX)) {
            Ok(stored) => stored,
            Err(StoreError::NotFound { .. }) => return Ok(Answer::None),
            Err(StoreError::Wrong { how, .. }) => return Ok(Answer::Rubbish(how)),
            Err(e) => return Err(e.into()),
        };
        let at = At { repository: self.repo.id(), object: &object, keys: &self.repo.graph };
        let decode = |members: &Members<'_>| {
            Ack::decode(&stored, at, |who| members.member(who).filter(|_| who == writer).map(|m| m.key))
        };
        Ok(self.repo.judge(decode)?.map_or_else(|e| Answer::Rubbish(e.to_string()), Answer::Ack))
    }

    /// Whether its process was one of this machine, and is gone.
    fn is_gone(&self, (writer, session): SessionKey) -> Result<bool> {
        let object = key(objects::pin(writer, session));
        let stored = match self.repo.bridge.wait(self.repo.store.get(&object, PIN_BYTES_MAX)) {
            Ok(stored) => stored,
            Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let Ok(pin) = Pin::decode(&stored, self.repo.id(), writer, session, &self.repo.graph) else { return Ok(false) };
        let here = (pin.host, pin.boot) == this_machine(&self.repo);
        Ok(here && started(pin.pid) != Some(pin.started))
    }

    /// Ends a session: whether it had not committed before.
    fn fence(&self, (writer, session): SessionKey, generation: u64) -> Result<bool> {
        let object = objects::snapshot(writer, session);
        let at = At { repository: self.repo.id(), object: &object, keys: &self.repo.graph };
        let stored = Tombstone { generation }.encode(at, self.signer.0, &self.signer.1);
        match self.repo.bridge.wait(self.repo.store.put_new(&key(object), stored.into())) {
            Ok(()) => Ok(true),
            Err(StoreError::Exists { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn is_ended(&self, (writer, session): SessionKey) -> Result<bool> {
        let object = key(objects::snapshot(writer, session));
        match self.repo.bridge.wait(self.repo.store.get(&object, SNAPSHOT_BYTES_MAX)) {
            Ok(bytes) => self.repo.judge(|members| self.repo.tombstone(members, object.as_str(), &bytes).is_some()),
            Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}
