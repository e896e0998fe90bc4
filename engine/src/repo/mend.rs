//! Mending the index: a base that lists packs from their own tables where segments are lost, and no packs that are gone.
//!
//! It is a fold (docs/protocol.md "Fold") some of whose inputs are damaged. Until the base stands nothing has changed; with it
//! nobody needs the damaged segments any more. What is damaged is copied below `lost/` before it is removed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::crypto::hash;
use crate::crypto::rng::Rng;
use crate::error::{Error, Result};
use crate::format::base::{Base, SIGNED_BY_ROOT};
use crate::format::blob::{Entry, PackInfo};
use crate::format::bundle::Identity;
use crate::format::gc::{Condemn, Sweep};
use crate::format::objects::{self, Parsed};
use crate::format::segment::{Segment, SessionStanza};
use crate::id::{PackId, SegmentId, SessionId};
use crate::store::{Key, Listed, StoreError, list_all};

use super::adopt;
use super::condemned::{read_gc, unknown};
use super::fence::Fenced;
use super::merge::{Merge, Merged};
use super::open::{Repository, key};
use super::session::{next_session, put_pin};
use super::signers::Signers;

const VERB: &str = "repair a repository";
/// Packs whose tables are read at once.
const BATCH: usize = 64;

/// A pack as its own header and table tell of it, signed by its writer.
#[derive(Debug, Clone)]
pub struct Described {
    /// Which pack.
    pub info: PackInfo,
    /// All of its blobs; `pack` is 0.
    pub entries: Vec<Entry>,
    stanzas: Vec<SessionStanza>,
}

/// Called with a pack, and what it says of itself or why that cannot be read.
pub type OnDescribed<'a> = dyn FnMut(&Listed, Result<Described, String>) -> Result<()> + 'a;

/// What shall become of the index.
#[derive(Debug, Clone, Default)]
pub struct Mend {
    /// Segments that cannot be read, and their keys.
    pub lost: BTreeMap<SegmentId, Key>,
    /// Packs that are listed from their own tables; what segments say of them goes.
    pub relist: Vec<Listed>,
    /// Packs whose copies count no more because they are not in the store.
    pub gone: BTreeSet<PackId>,
    /// Packs that are in the store and whose copies shall count no more.
    pub dropped: BTreeSet<PackId>,
}

impl Mend {
    /// Whether the index is as it should be.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.relist.is_empty() && self.gone.is_empty() && self.dropped.is_empty()
    }
}

/// Where a damaged object is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// A copy stands at this key, and the object is no longer at its own.
    Moved(Key),
    /// A copy stands at this key; the object stays, because the store does not let go of it.
    Copied(Key, String),
    /// It stays and could not be copied.
    Stays(String),
    /// There is no such object.
    Absent,
}

impl Repository {
    /// Reads what these packs say of themselves; calls `each` for every one.
    pub fn describe_packs(self: &Arc<Self>, packs: &[Listed], each: &mut OnDescribed<'_>) -> Result<()> {
        for batch in packs.chunks(BATCH) {
            let described = self.bridge.map(batch.to_vec(), self.options.connections, |l| {
                let repo = Arc::clone(self);
                async move {
                    let described = repo.describe(&l).await?;
                    Ok::<_, Error>((l, described))
                }
            })?;
            described.into_iter().try_for_each(|(l, described)| each(&l, described))?;
        }
        Ok(())
    }

    async fn describe(&self, l: &Listed) -> Result<Result<Described, String>> {
        let Some(Parsed::Pack(writer, ..)) = objects::parse(l.key.as_str()) else {
            return Ok(Err("its name is none of a pack".into()));
        };
        let member = Signers::new(self).judge(|members| members.member(writer).map(|m| m.key)).await?;
        let Some(member) = member else { return Ok(Err("its writer is not enrolled".into())) };
        match adopt::read(self, &member, l).await {
            Ok(adopt::Found { info, entries, stanzas }) => {
                let stanzas = stanzas.into_iter();
                let stanzas =
                    stanzas.map(|((writer, session), stanza)| SessionStanza { writer, session, stanza }).collect();
                Ok(Ok(Described { info, entries, stanzas }))
            }
            Err(Error::Damaged { how, .. }) => Ok(Err(how)),
            Err(Error::Store(e @ (StoreError::NotFound { .. } | StoreError::Wrong { .. }))) => Ok(Err(e.to_string())),
            Err(e) => Err(e),
        }
    }

    /// Packs that prunes which are under way have named: they are not listed anew (A2).
    pub fn condemned_packs(&self) -> Result<HashSet<PackId>> {
        let mut packs = HashSet::new();
        for l in self.bridge.wait(list_all(self.store.as_ref(), "gc/"))? {
            match objects::parse(l.key.as_str()) {
                Some(Parsed::Condemn(n)) => {
                    let condemn = self.bridge.wait(read_gc::<Condemn>(self, &objects::condemn(n)))?;
                    packs.extend(condemn.into_iter().flat_map(|c| c.packs).map(|p| p.id));
                }
                Some(Parsed::Sweep(n)) => {
                    let sweep = self.bridge.wait(read_gc::<Sweep>(self, &objects::sweep(n)))?;
                    packs.extend(sweep.into_iter().flat_map(|s| s.packs).map(|p| p.id));
                }
                Some(Parsed::Fence(_)) => {}
                _ => return Err(unknown(l.key.as_str())),
            }
        }
        Ok(packs)
    }

    /// Those of `packs` that are not in the store, whatever LISTs say: each is asked for twice.
    pub fn absent_packs(self: &Arc<Self>, packs: Vec<PackInfo>) -> Result<Vec<PackInfo>> {
        let asked = self.bridge.map(packs, self.options.connections, |p| {
            let (repo, object) = (Arc::clone(self), key(objects::pack(p.writer, p.session, p.seq, p.id)));
            async move {
                for _ in 0..2 {
                    match repo.store.head(&object).await {
                        Ok(_) => return Ok(None),
                        Err(StoreError::NotFound { .. }) => {}
                        Err(e) => return Err(Error::from(e)),
                    }
                }
                Ok(Some(p))
            }
        })?;
        Ok(asked.into_iter().flatten().collect())
    }

    /// Whether bases can be made here: else two of them could take each other's place, unless nobody else works on the
    /// repository (`exclusive`).
    pub fn may_mend(&self, exclusive: bool) -> Result<()> {
        self.root(VERB)?;
        if !self.ends_by_name() || exclusive {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "{} lets several creators of one object win, so a repair beside other work could undo it. Stop all backups and \
             prunes of this repository, then run the repair again with --exclusive",
            self.store.location()
        )))
    }

    /// Makes the base in which the index is mended: its number; `None` if another base came first, so that all has to be
    /// looked at again. For an owner.
    pub fn mend(self: &Arc<Self>, who: &Identity, mend: &Mend, rng: &mut dyn Rng) -> Result<Option<u64>> {
        let newest = self.newest_base()?;
        newest.whole()?;
        let (session, _) = next_session(self, who.id, newest.base.floor(who.id), rng)?;
        put_pin(self, who.id, session)?;
        let made = self.mend_under(who, session, mend);
        // Whatever came of it: what a base lists stays, the rest may go.
        self.end_session(who.id, session, (SIGNED_BY_ROOT, &self.root(VERB)?))?;
        made
    }

    fn mend_under(self: &Arc<Self>, who: &Identity, session: SessionId, mend: &Mend) -> Result<Option<u64>> {
        let newest = self.newest_base()?;
        newest.whole()?;
        let committed = self.committed_beside(&newest, Default::default(), &BTreeSet::new(), Fenced::LeftOut)?;
        let unfolded: Vec<_> = committed.unfolded(&newest.base).collect();
        let dropped = newest.base.dropped.iter().chain(&mend.gone).chain(&mend.dropped);
        let mut merge = Merge::new(self, who.id, dropped);
        merge.mending(mend.lost.keys().copied(), ids(&mend.relist));
        merge.begin(session);
        let merged = merge.all_and(&newest.base, &unfolded, |merge| {
            self.describe_packs(&mend.relist, &mut |l, described| match described {
                Ok(d) => merge.relist(Segment { packs: vec![d.info], stanzas: sorted(d.stanzas), entries: d.entries }),
                Err(how) => Err(Error::damaged(l.key.as_str(), format!("{how}; run the repair again"))),
            })
        })?;
        let Merged { segments, dropped } = merged;
        // Those that stand stay named: nobody may adopt them.
        let dropped: BTreeSet<PackId> = dropped.into_iter().chain(mend.dropped.iter().copied()).collect();
        let mut known = newest.base.snapshots.clone();
        known.extend(unfolded.iter().map(|s| s.at));
        known.sort_unstable();
        let next = Base {
            previous: newest.hash,
            segments,
            snapshots: known,
            dropped: dropped.into_iter().collect(),
            ..newest.base
        };
        // A prune may have ended this session meanwhile (F5).
        match self.bridge.wait(self.store.head(&key(objects::snapshot(who.id, session)))) {
            Err(StoreError::NotFound { .. }) => {}
            Ok(_) => return Err(Error::Busy("a prune has ended this repair; run it again".into())),
            Err(e) => return Err(e.into()),
        }
        let n = newest.n + 1;
        let stored = next.encode(self.id(), n, &self.graph, SIGNED_BY_ROOT, &self.root(VERB)?);
        match self.create(&key(objects::base(n)), stored) {
            Ok(()) => Ok(Some(n)),
            Err(StoreError::Exists { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Copies a damaged object of up to `max` bytes as it is to `lost/…`, and if nobody needs it any more removes it from
    /// its own key.
    pub fn set_aside(&self, object: &Key, max: u64, remove: bool) -> Result<Aside> {
        let bytes = match self.bridge.wait(self.store.get(object, max)) {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(Aside::Absent),
            Err(e @ StoreError::Wrong { .. }) => return Ok(Aside::Stays(e.to_string())),
            Err(e) => return Err(e.into()),
        };
        let mut to = key(objects::lost(object.as_str()));
        if !self.stands(&to, &bytes)? {
            let hash = crate::id::hex(&hash::blake3(&[&bytes])[..8]);
            to = key(objects::lost(&format!("{object}.{hash}")));
            if !self.stands(&to, &bytes)? {
                return Ok(Aside::Stays(format!("{to} is taken by something else")));
            }
        }
        if !remove {
            return Ok(Aside::Copied(to, String::new()));
        }
        Ok(match self.bridge.wait(self.store.delete(object)) {
            Ok(()) => Aside::Moved(to),
            Err(e) => Aside::Copied(to, e.to_string()),
        })
    }

    /// Creates a copy, unless one is there. Whether it is: read back, because what it is a copy of may be removed then.
    fn stands(&self, to: &Key, bytes: &bytes::Bytes) -> Result<bool> {
        match self.bridge.wait(self.store.put_new(to, bytes.clone())) {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        match self.bridge.wait(self.store.get(to, bytes.len() as u64)) {
            Ok(there) => Ok(there == bytes),
            Err(StoreError::Wrong { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

fn ids(packs: &[Listed]) -> HashSet<PackId> {
    let id = |l: &Listed| match objects::parse(l.key.as_str()) {
        Some(Parsed::Pack(.., id)) => Some(id),
        _ => None,
    };
    packs.iter().filter_map(id).collect()
}

fn sorted(mut stanzas: Vec<SessionStanza>) -> Vec<SessionStanza> {
    stanzas.sort_by_key(|s| (s.writer, s.session));
    stanzas.dedup_by_key(|s| (s.writer, s.session));
    stanzas
}
