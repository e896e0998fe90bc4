//! What prunes ask of an open session, and its answers (docs/protocol.md W2, W4).
//!
//! A generation under `gc/` names packs that shall go. A session that finds one first stops reusing those packs, then
//! acknowledges, claiming the packs that it has reused, adopted or written before. Nothing is deleted before that, and nothing
//! that is claimed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::gc::{Ack, At, Condemn, GC_BYTES_MAX, Kind, Sweep};
use crate::format::objects::{self, Parsed};
use crate::id::{PackId, SessionId, WriterId};
use crate::store::{Listed, StoreError, list_all};

use super::index::Index;
use super::open::{Repository, key};
use super::session::fenced;
use super::signers::Signers;

/// A generation that was not retired when it was read.
struct Generation {
    number: u64,
    floors: Vec<(WriterId, u64)>,
    packs: HashSet<PackId>,
}

/// What one session knows of the generations, and must not forget.
pub(super) struct Condemned {
    repo: Arc<Repository>,
    writer: WriterId,
    session: SessionId,
    signer: SigningKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: BTreeSet<u64>,
    /// All packs of all generations that were seen.
    packs: HashSet<PackId>,
    /// Adopted or written by the session.
    taken: HashSet<PackId>,
    /// Acks that are not stored yet.
    due: BTreeMap<u64, Ack>,
    /// Where packs are reused from, once there is a view.
    index: Option<Arc<Index>>,
}

impl Condemned {
    pub(super) fn new(repo: &Arc<Repository>, writer: WriterId, session: SessionId, signer: &SigningKey) -> Self {
        Self { repo: Arc::clone(repo), writer, session, signer: signer.clone(), state: Mutex::default() }
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repo
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// The first look, before anything that the session builds upon is read (W2). The floor that is proposed for its
    /// writer; 0: none.
    ///
    /// Here what cannot be read ends the session: it might condemn what the view is about to show.
    pub(super) fn open(&self) -> Result<u64> {
        self.repo.bridge.wait(async {
            // Twice, because one LIST may be short (W2d).
            let mut listed = self.list().await?;
            listed.extend(self.list().await?);
            let mut floor = 0;
            self.not_named(&listed).await?;
            for generation in self.read_new(&listed).await? {
                let own = generation.floors.iter().find(|(writer, _)| *writer == self.writer);
                floor = floor.max(own.map_or(0, |(_, n)| *n));
                self.see(generation);
            }
            Ok(floor)
        })
    }

    /// Looks again, and acknowledges what is new (W4). What cannot be read is not acknowledged: while the session is open
    /// nothing is deleted then.
    pub(super) async fn look(&self) -> Result<()> {
        let listed = self.list().await?;
        self.not_named(&listed).await?;
        for generation in self.read_new(&listed).await? {
            self.see(generation);
        }
        self.acknowledge().await
    }

    /// Stores the acks that are due.
    pub(super) async fn acknowledge(&self) -> Result<()> {
        let due: Vec<(u64, Ack)> = self.state().due.iter().map(|(n, ack)| (*n, ack.clone())).collect();
        for (generation, ack) in due {
            let object = objects::ack(self.writer, self.session, generation);
            let at = At { repository: self.repo.id(), object: &object, keys: &self.repo.graph };
            let stored = ack.encode(at, self.writer, &self.signer);
            match self.repo.store.put_new(&key(object), stored.into()).await {
                // After an answer that was lost: the same bytes.
                Ok(()) | Err(StoreError::Exists { .. }) => self.state().due.remove(&generation),
                Err(e) => return Err(e.into()),
            };
        }
        Ok(())
    }

    /// From now on blobs are reused from this index: not those in condemned packs.
    pub(super) fn reuse_from(&self, index: &Arc<Index>) {
        let mut state = self.state();
        index.exclude(state.packs.iter().copied());
        state.index = Some(Arc::clone(index));
    }

    /// Whether a pack of an earlier session may be adopted (A2): if so it is claimed from now on.
    pub(super) fn adopts(&self, pack: PackId) -> bool {
        let mut state = self.state();
        let free = !state.packs.contains(&pack);
        if free {
            state.taken.insert(pack);
        }
        free
    }

    /// The session stores this pack. Said before it does.
    pub(super) fn writes(&self, pack: PackId) {
        self.state().taken.insert(pack);
    }

    /// First nothing of it is reused any more, then it is asked what was: W4b.
    fn see(&self, generation: Generation) {
        let mut state = self.state();
        if !state.seen.insert(generation.number) {
            return;
        }
        let packs = generation.packs;
        state.packs.extend(&packs);
        let mut claims: BTreeSet<PackId> = state.taken.intersection(&packs).copied().collect();
        if let Some(index) = &state.index {
            index.exclude(packs.iter().copied());
            claims.extend(index.reused(&packs));
        }
        tracing::debug!(
            "generation {} condemns {} packs, {} are claimed",
            generation.number,
            packs.len(),
            claims.len()
        );
        state.due.insert(generation.number, Ack { claims: claims.into_iter().collect() });
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        Ok(list_all(self.repo.store.as_ref(), "gc/").await?)
    }

    /// No fence names this session. They are read anew each time, because a fence grows (N3).
    async fn not_named(&self, listed: &[Listed]) -> Result<()> {
        if !self.repo.ends_by_name() {
            return Ok(());
        }
        match self.repo.named_by(listed).await?.contains(&(self.writer, self.session)) {
            true => Err(fenced()),
            false => Ok(()),
        }
    }

    async fn read_new(&self, listed: &[Listed]) -> Result<Vec<Generation>> {
        let mut numbers = BTreeSet::new();
        for l in listed {
            match objects::parse(l.key.as_str()) {
                Some(Parsed::Condemn(n) | Parsed::Sweep(n) | Parsed::Fence(n)) => numbers.insert(n),
                _ => return Err(unknown(l.key.as_str())),
            };
        }
        let mut found = Vec::new();
        for number in numbers {
            let seen = self.state().seen.contains(&number);
            if !seen {
                found.extend(self.read(number).await?);
            }
        }
        Ok(found)
    }

    /// `None`: it was retired meanwhile; base, read later, says what it dropped.
    async fn read(&self, number: u64) -> Result<Option<Generation>> {
        let (condemn, sweep) = (objects::condemn(number), objects::sweep(number));
        let condemned: Option<Condemn> = self.get(&condemn).await?;
        // Once it stands it counts in place of the condemn.
        let swept: Option<Sweep> = self.get(&sweep).await?;
        let floors = condemned.as_ref().map_or_else(Vec::new, |c| c.floors.clone());
        let packs = match (swept, condemned) {
            (Some(swept), _) => swept.packs,
            (None, Some(condemned)) => condemned.packs,
            (None, None) => return Ok(None),
        };
        Ok(Some(Generation { number, floors, packs: packs.into_iter().map(|p| p.id).collect() }))
    }

    async fn get<K: Kind>(&self, object: &str) -> Result<Option<K>> {
        read_gc(&self.repo, object).await
    }
}

/// What stands at a key under `gc/`, signed by who may; `None`: nothing.
pub(super) async fn read_gc<K: Kind>(repo: &Repository, object: &str) -> Result<Option<K>> {
    let stored = match repo.store.get(&key(object.to_owned()), GC_BYTES_MAX).await {
        Ok(stored) => stored,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(StoreError::Wrong { how, .. }) => return Err(unreadable(object, &how)),
        Err(e) => return Err(e.into()),
    };
    let at = At { repository: repo.id(), object, keys: &repo.graph };
    let mut signers = Signers::new(repo);
    let read = signers.judge(|members| K::decode(&stored, at, |who| members.of_maintenance(who))).await?;
    read.map(Some).map_err(|e| unreadable(object, &e))
}

pub(super) fn unknown(object: &str) -> Error {
    Error::TooNew(format!("{object} says that somebody prunes it in a way that this version cannot take part in"))
}

fn unreadable(object: &str, how: &dyn std::fmt::Display) -> Error {
    Error::damaged(
        object,
        format!(
            "{how}. While it stands nothing is backed up, because it may name packs that are about to be deleted; if nobody prunes this repository, remove that object from the store and run the backup again"
        ),
    )
}

/// Whether anything stands under `gc/`: no fold begins then.
pub(super) fn is_pruned(repo: &Repository) -> Result<bool> {
    let pages = [repo.bridge.wait(repo.store.list("gc/", None))?, repo.bridge.wait(repo.store.list("gc/", None))?];
    Ok(pages.iter().any(|page| !page.objects.is_empty()))
}
