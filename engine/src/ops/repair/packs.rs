//! Damaged packs: every blob that still opens is stored anew, and the pack counts no more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::compress::Level;
use crate::crypto::hash;
use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::blob::{BlobKind, PackInfo};
use crate::format::bundle::Identity;
use crate::format::objects;
use crate::format::pack::PACK_BYTES_MAX;
use crate::format::snapshot::NamesPart;
use crate::id::{BlobId, PackId};
use crate::ops::{abandon, persist};
use crate::progress::{Cancel, Progress};
use crate::repo::index::Found;
use crate::repo::mend::Mend;
use crate::repo::repack::without_tree;
use crate::repo::{Reader, Repository, Session, View};
use crate::store::{Key, StoreError};

use super::{index, index_is_whole, may_repair};

/// Bases that others may make while the last one is made.
const TRIES_MAX: usize = 10;
/// Opened frames that are kept, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// What to repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Ids, or their beginnings; none: all packs that no owner's check has found sound.
    pub packs: Vec<String>,
    /// Only says what is lost.
    pub dry_run: bool,
    /// Nobody else works on the repository: the store need not promise much.
    pub exclusive: bool,
}

/// What was found, and was put right unless it was a dry run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Packs that were read.
    pub read: u64,
    /// Keys of those that are damaged or not in the store.
    pub damaged: Vec<String>,
    /// Blobs in them that could still be read and had no other copy: they are stored anew.
    pub saved_blobs: u64,
    /// Blobs in them of which there is no copy that opens, in order.
    pub lost: Vec<BlobId>,
    /// Number of the base that lists the damaged packs no more; `None`: none is damaged, or only a look was wanted.
    pub base: Option<u64>,
    /// Damaged packs and where they were copied to.
    pub aside: Vec<(String, String)>,
}

/// Repairs packs. Blocks; call it from a plain thread. The damaged ones go with a later prune.
pub fn repair(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Report> {
    may_repair(repo)?;
    if !options.dry_run {
        repo.may_mend(options.exclusive)?;
    }
    let view = repo.fresh_view()?;
    view.base.whole()?;
    index_is_whole(&view)?;
    let mut report = Report::default();
    let chosen = choose(repo, &view, options)?;
    progress.expect(chosen.len() as u64, chosen.iter().map(|p| p.size).sum());
    let mut damaged: BTreeMap<PackId, Key> = BTreeMap::new();
    for pack in &chosen {
        if cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        let object = key_of(pack)?;
        progress.start(object.as_str().as_ref());
        if !is_sound(repo, pack, &object)? {
            report.damaged.push(object.to_string());
            damaged.insert(pack.id, object);
        }
        progress.advance(1, pack.size);
        report.read += 1;
    }
    if damaged.is_empty() {
        return Ok(report);
    }
    let copies = copies_in(&view, &damaged);
    persist(true, cancel, "this repair", || {
        (report.saved_blobs, report.lost) = save(repo, who, &mut *rng, options, &damaged, &copies, cancel)?;
        Ok(())
    })?;
    if options.dry_run {
        return Ok(report);
    }
    for object in damaged.values() {
        index::note(&mut report.aside, object, repo.set_aside(object, PACK_BYTES_MAX, false)?, progress);
    }
    report.base = Some(drop_packs(repo, who, rng, damaged.into_keys().collect())?);
    Ok(report)
}

fn key_of(p: &PackInfo) -> Result<Key> {
    let object = objects::pack(p.writer, p.session, p.seq, p.id);
    Key::new(object.clone()).map_err(|_| Error::damaged(object, "its name is no key"))
}

fn choose(repo: &Repository, view: &View, options: &Options) -> Result<Vec<PackInfo>> {
    let listed: BTreeMap<PackId, PackInfo> = view.index.packs().map(|p| (p.id, p)).collect();
    if options.packs.is_empty() {
        let sound = repo.owners_verdicts()?;
        return Ok(listed.into_values().filter(|p| !sound.contains_key(&p.id)).collect());
    }
    let mut chosen = BTreeMap::new();
    for name in &options.packs {
        // A whole key is taken, too, as check names it.
        let id = name.rsplit(['/', '-']).next().unwrap_or_default().to_lowercase();
        if id.len() < 4 || !id.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::Invalid(format!(
                "{name:?} is no pack: give 4 or more digits of its id, as check names it"
            )));
        }
        let mut found = listed.values().filter(|p| p.id.to_string().starts_with(&id));
        match (found.next(), found.next()) {
            (Some(p), None) => chosen.insert(p.id, p.clone()),
            (None, _) => return Err(Error::NotFound(format!("the index names no pack {name}"))),
            _ => return Err(Error::Invalid(format!("several packs begin with {name}; give more digits"))),
        };
    }
    Ok(chosen.into_values().collect())
}

/// Whether a pack has the bytes that were written. Twice, because the answer may be spoilt and not the object.
fn is_sound(repo: &Repository, pack: &PackInfo, object: &Key) -> Result<bool> {
    for _ in 0..2 {
        match repo.bridge().wait(repo.store().get(object, PACK_BYTES_MAX)) {
            Ok(bytes) if hash::blake3(&[&bytes]) == *pack.id.as_bytes() => return Ok(true),
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

/// The copies that the index lists in damaged packs, in the order of their places.
fn copies_in(view: &View, damaged: &BTreeMap<PackId, Key>) -> Vec<Found> {
    let mut copies: Vec<Found> = view.index.entries().filter(|copy| damaged.contains_key(&copy.pack_id())).collect();
    copies.sort_by_key(|copy| (copy.pack_id(), copy.entry.offset, copy.entry.at));
    copies
}

/// Stores anew what can be read of `copies` and has no other copy: how many blobs, and those that are lost.
fn save(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    options: &Options,
    damaged: &BTreeMap<PackId, Key>,
    copies: &[Found],
    cancel: &Cancel,
) -> Result<(u64, Vec<BlobId>)> {
    let session = Session::begin(Arc::clone(repo), who, Level::Auto.zstd(), options.dry_run, Box::new(split(rng)))?;
    session.view().index.exclude(damaged.keys().copied());
    let saved = match save_into(&session, copies, cancel) {
        Ok(saved) => saved,
        Err(e) => return Err(abandon(session, e)),
    };
    if session.added_nothing() {
        return session.abandon().map_or(Ok(saved), Err);
    }
    session.commit(without_tree(repo.options().clock.now()), |_| NamesPart::default())?;
    Ok(saved)
}

fn save_into(session: &Session, copies: &[Found], cancel: &Cancel) -> Result<(u64, Vec<BlobId>)> {
    let repo = session.repository();
    // From the session's view, without the damaged packs: are there other copies? And from those packs themselves.
    let reader = Reader::new(Arc::clone(repo), Arc::clone(&session.view().index), CACHE_BYTES);
    let mut worker = session.worker();
    let (mut saved, mut lost): (HashSet<(BlobId, BlobKind)>, BTreeSet<BlobId>) = Default::default();
    for copy in copies {
        if cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        let (id, kind) = (copy.entry.id, copy.entry.kind);
        if saved.contains(&(id, kind)) || has_elsewhere(session, &reader, &id, kind)? {
            lost.remove(&id);
            continue;
        }
        match reader.read_copy(&id, copy) {
            Ok(bytes) => {
                worker.store(kind, &bytes)?;
                saved.insert((id, kind));
                lost.remove(&id);
            }
            Err(Error::Damaged { .. } | Error::Store(StoreError::NotFound { .. } | StoreError::Wrong { .. })) => {
                lost.insert(id);
            }
            Err(e) => return Err(e),
        }
    }
    worker.flush()?;
    Ok((saved.len() as u64, lost.into_iter().collect()))
}

/// Whether another pack has a copy that opens. One that does not is not reused here, so that the blob is stored anew.
fn has_elsewhere(session: &Session, reader: &Reader, id: &BlobId, kind: BlobKind) -> Result<bool> {
    let index = &session.view().index;
    if !index.contains(id) {
        return Ok(false);
    }
    match reader.blob(id, kind) {
        Ok(_) => Ok(true),
        Err(Error::Damaged { .. }) => {
            let mut others = Vec::new();
            index.lookup(id, &mut others);
            index.exclude(others.iter().map(Found::pack_id));
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn drop_packs(repo: &Arc<Repository>, who: &Identity, rng: &mut dyn Rng, dropped: BTreeSet<PackId>) -> Result<u64> {
    let mend = Mend { dropped, ..Mend::default() };
    for _ in 0..TRIES_MAX {
        if let Some(base) = repo.mend(who, &mend, rng)? {
            return Ok(base);
        }
    }
    Err(Error::Busy("others make bases faster than this repair can; try again later".into()))
}
