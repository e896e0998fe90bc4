//! The pruner's half of the protocol: giving packs up beside open sessions (docs/protocol.md "The pruner's half").
//!
//! **Expected flow**: [`Pruner::new`]; every one of [`Pruner::unretired`] is carried out; [`Pruner::look`] shows what there is;
//! [`Pruner::condemn`] names packs; [`Pruner::carry_out`] gives them up and deletes them.
//!
//! **Guarantees**: each step may be repeated, by anybody, after a crash at any point; nothing is deleted that a committed
//! snapshot needs or that an open session relies on; no clock decides, except how long an open session is waited for.

mod drain;
mod fence;
mod generation;
mod live;
mod rebase;
mod tidy;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::crypto::rng::Rng;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::blob::PackInfo;
use crate::format::bundle::Identity;
use crate::format::config::Use;
use crate::format::gc::{PackRef, Sweep};
use crate::format::objects::{self, Parsed};
use crate::id::{PackId, SessionId, WriterId};
use crate::progress::Cancel;
use crate::store::probe::{CreateOnly, Verdict};
use crate::store::{Listed, StoreError, list_all};

use super::base::NewestBase;
use super::fence::Sessions;
use super::open::{Repository, key};
use super::view::View;

use self::drain::Drained;
pub use self::tidy::{Deleted, Locked};

/// A session's name: its writer, and which run.
pub(super) type SessionKey = (WriterId, SessionId);

/// One executor of prunes.
pub struct Pruner {
    repo: Arc<Repository>,
    /// Whose session index segments are merged under.
    who: Identity,
    /// Who signs what stands under `gc/`, and bases: a maintainer, or ROOT.
    signer: (WriterId, SigningKey),
    exclusive: bool,
    /// What the store holds to: the worse of what `init` found and of what was found now.
    store: Verdict,
    /// What the store did not let go of, until it is told.
    locked: Mutex<Locked>,
}

/// What there is: read in the order that P1 asks for.
pub struct Look {
    /// Everything that is committed.
    pub view: View,
    /// Packs that nothing publishes and that no open session has stored, sorted by id.
    pub unlisted: Vec<PackRef>,
    /// Packs that are published and do not stand in the store with their size.
    pub missing: HashSet<PackId>,
}

impl Look {
    /// The unlisted packs that neither an interrupted session explains, which was ended or lies below a floor, nor an interrupted
    /// prune, which has dropped packs of a session that base knows. In bytes.
    pub fn unexplained(&self) -> u64 {
        let base = &self.view.base.base;
        let folded = base.snapshots.iter().chain(&base.forgotten).map(|s| (s.writer, s.session));
        let ended = self.view.ended.iter().map(|ended| &ended.at).chain(&base.dead).copied();
        let known: HashSet<SessionKey> = ended.chain(folded).collect();
        let explained = |p: &PackRef| known.contains(&(p.writer, p.session)) || p.session.n < base.floor(p.writer);
        self.unlisted.iter().filter(|p| !explained(p)).map(|p| p.size).sum()
    }
}

/// What one generation has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Sessions that were ended because they did not answer.
    pub fenced: u64,
    /// Condemned packs that stay: a session claims them, or they hold a last copy.
    pub spared: u64,
    /// Snapshots that were taken in as forgotten.
    pub forgotten: u64,
    /// What was deleted.
    pub deleted: Deleted,
}

/// Which of the condemned packs may go: takes out those that must stay. Told what is committed by now, and in which packs there are
/// no copies because other generations condemn them or they are gone.
pub type Decide<'d> = dyn FnMut(&View, &HashSet<PackId>, &mut HashSet<PackId>) -> Result<()> + 'd;

impl Pruner {
    /// For an owner or maintainer. `exclusive`: the caller knows that nobody else works on the repository, so open sessions are
    /// ended at once, and the store need not promise much. `found`: what a probe of the store has just found, if it was probed.
    pub fn new(repo: &Arc<Repository>, who: &Identity, exclusive: bool, found: Option<&Verdict>) -> Result<Self> {
        repo.may(Use::Maintain, "prune")?;
        let signer = repo.maintenance_signer("prune")?;
        let promised = repo.promised();
        let store = found.map_or(promised.clone(), |found| promised.worse(found.clone()));
        let (repo, who, locked) = (Arc::clone(repo), who.clone(), Mutex::default());
        let pruner = Self { repo, who, signer, exclusive, store, locked };
        match pruner.unsafe_because() {
            Some(why) if !exclusive => Err(Error::Busy(format!(
                "{why}, so a prune beside running backups could lose data. Stop all backups and other prunes of this \
                 repository, then run copal prune --exclusive"
            ))),
            _ => Ok(pruner),
        }
    }

    fn unsafe_because(&self) -> Option<String> {
        let store = &self.repo.store;
        if store.list_may_lag() {
            return Some(format!("{} is a network or FUSE file system, whose listings may lag", store.location()));
        }
        if self.store.create_only != CreateOnly::Atomic && !self.repo.ends_by_name() {
            // Backups go by what init found: they would not look for their names.
            return Some(format!(
                "{} lets several creators of one object win by now, which it did not when init tried",
                store.location()
            ));
        }
        (!self.store.strong_list).then(|| format!("listings of {} lag behind", store.location()))
    }

    /// Generations that somebody began, lowest first: they are carried out before a new one is made.
    pub fn unretired(&self) -> Result<Vec<u64>> {
        Ok(self.numbers()?.into_iter().collect())
    }

    /// Reads packs, then pins, then what is committed (P1).
    pub fn look(&self) -> Result<Look> {
        loop {
            let packs = self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "pack/"))?;
            let pinned = self.pinned()?;
            // Every generation was carried out before: base holds the dead.
            let view = self.view(&pinned, &Sessions::new())?;
            let open: HashSet<SessionKey> = self.open_among(&pinned, &view.base.base)?.into_iter().collect();
            let missing = self.missing(&view, &packs)?;
            // What another executor has given up since is not missing.
            if !missing.is_empty() && self.is_above(view.base.n)? {
                continue;
            }
            return Ok(Look { unlisted: unlisted(&packs, &view, &open), view, missing });
        }
    }

    /// Those that a LIST does not show are asked for: they may be younger than it.
    fn missing(&self, view: &View, packs: &[Listed]) -> Result<HashSet<PackId>> {
        // In the order of ids, so that the same state is always read in the same order.
        let mut published: BTreeMap<PackId, PackInfo> = view.index.packs().map(|p| (p.id, p)).collect();
        for l in packs {
            if let Some(Parsed::Pack(.., id)) = objects::parse(l.key.as_str())
                && published.get(&id).is_some_and(|p| p.size == l.size)
            {
                published.remove(&id);
            }
        }
        let mut missing = HashSet::new();
        for p in published.into_values() {
            let object = key(objects::pack(p.writer, p.session, p.seq, p.id));
            match self.repo.bridge.wait(self.repo.store.head(&object)) {
                Ok(size) if size == p.size => {}
                Ok(_) | Err(StoreError::NotFound { .. }) => drop(missing.insert(p.id)),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(missing)
    }

    /// What is committed, whatever a LIST leaves out; whole, or nothing may be deleted.
    fn view(&self, pinned: &Sessions, dead: &Sessions) -> Result<View> {
        let view = self.repo.view_of(pinned, dead)?;
        view.base.whole()?;
        sound(&view.problems)?;
        Ok(view)
    }

    /// Carries a generation out, from wherever it stands.
    pub fn carry_out(
        &self,
        generation: u64,
        decide: &mut Decide<'_>,
        rng: &mut dyn Rng,
        cancel: &Cancel,
    ) -> Result<Done> {
        let mut done = self.carry_on(generation, decide, rng, cancel)?;
        done.deleted.locked = self.take_locked();
        Ok(done)
    }

    fn carry_on(&self, generation: u64, decide: &mut Decide<'_>, rng: &mut dyn Rng, cancel: &Cancel) -> Result<Done> {
        let mut done = Done::default();
        let Some(found) = self.read_generation(generation)? else {
            self.retire(generation)?;
            return Ok(done);
        };
        let base = self.repo.newest_base()?;
        base.whole()?;
        if base.base.done.contains(&generation) {
            return self.tidy_only(generation, &base, done);
        }
        let (sweep, open) = match found.sweep {
            // Decided by somebody: that list holds.
            Some(sweep) => (sweep, self.open_among(&self.pinned()?, &base.base)?.into_iter().collect()),
            None => {
                let drained = self.drain(generation, &base.base, cancel)?;
                done.fenced = drained.fenced;
                let sweep = self.decide(generation, &found.condemn.packs, &drained, decide)?;
                done.spared = (found.condemn.packs.len() - sweep.packs.len()) as u64;
                (sweep, drained.open)
            }
        };
        // Once more: if somebody has finished and retired it meanwhile, the sweep that was just made is not the one that held.
        let base = self.repo.newest_base()?;
        base.whole()?;
        if base.base.done.contains(&generation) {
            return self.tidy_only(generation, &base, done);
        }
        let rebased = self.rebase(generation, &found.condemn.floors, &sweep, &open, rng)?;
        done.forgotten = rebased.forgotten;
        done.deleted = self.delete(&sweep, &rebased.newest, Some(&rebased))?;
        self.tidy(generation, &rebased.newest)?;
        Ok(done)
    }

    /// P6a: whoever finds the generation recorded as done cannot know whether the sweep at hand is the one that the base has
    /// dropped, so none of its packs are deleted. Those that are left lie unlisted, and the next generation names them.
    fn tidy_only(&self, generation: u64, base: &NewestBase, mut done: Done) -> Result<Done> {
        done.deleted = self.delete(&Sweep::default(), base, None)?;
        self.tidy(generation, base)?;
        Ok(done)
    }

    /// P4 and P5: what is claimed or holds a last copy stays. In this order: claims, gc, base and snapshots, marks.
    fn decide(
        &self,
        generation: u64,
        condemned: &[PackRef],
        drained: &Drained,
        decide: &mut Decide<'_>,
    ) -> Result<Sweep> {
        let sessions = &drained.open | &self.pinned()?;
        let claimed = self.claims(generation, &(&sessions - &drained.dead))?;
        let mut elsewhere = self.condemned_elsewhere(generation)?;
        let mut view = self.view(&sessions, &drained.dead)?;
        view.ended.retain(|ended| ended.is_before(generation));
        // What is not there is no copy either.
        let packs = self.repo.bridge.wait(list_all(self.repo.store.as_ref(), "pack/"))?;
        elsewhere.extend(self.missing(&view, &packs)?);
        let mut going: HashSet<PackId> = condemned.iter().map(|p| p.id).filter(|id| !claimed.contains(id)).collect();
        decide(&view, &elsewhere, &mut going)?;
        assert!(going.is_disjoint(&claimed), "nothing that is claimed is given up");
        let packs = condemned.iter().filter(|p| going.contains(&p.id)).copied().collect();
        self.create_sweep(generation, Sweep { dead: drained.dead.iter().copied().collect(), packs })
    }
}

/// Packs that nothing publishes, of sessions that are not open. Sorted.
fn unlisted(packs: &[Listed], view: &View, open: &HashSet<SessionKey>) -> Vec<PackRef> {
    let published: HashSet<PackId> = view.index.packs().map(|p| p.id).collect();
    let pack = |l: &Listed| match objects::parse(l.key.as_str()) {
        Some(Parsed::Pack(writer, session, seq, id)) => Some(PackRef { id, writer, session, seq, size: l.size }),
        _ => None,
    };
    let is_unlisted = |p: &PackRef| !published.contains(&p.id) && !open.contains(&(p.writer, p.session));
    let mut unlisted: Vec<PackRef> = packs.iter().filter_map(pack).filter(is_unlisted).collect();
    unlisted.sort_unstable();
    unlisted.dedup_by_key(|p| p.id);
    unlisted
}

/// Nothing is deleted while something is wrong with what says what is needed.
fn sound(problems: &[crate::progress::Problem]) -> Result<()> {
    match problems {
        [] => Ok(()),
        [first, rest @ ..] => Err(Error::damaged(
            first.path.display().to_string(),
            format!(
                "{}{}. Nothing was pruned, because what it needs cannot be known",
                first.message,
                if rest.is_empty() { String::new() } else { format!(" (and {} more problems)", rest.len()) }
            ),
        )),
    }
}
