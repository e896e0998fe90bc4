//! Reading blobs: find a copy, fetch its frame, open it, verify the blob's id.
//!
//! Every copy is tried before damage is reported: a writer can poison what others deduplicate against, and a second copy
//! may be sound. Where a pack is gone the index may be what is old: a prune deletes a pack only after what is needed of it
//! stands elsewhere, and a base says where. So the view is read again before a missing pack counts as damage.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;

use crate::crypto::kem::Stanza;
use crate::error::{Error, Result};
use crate::format::blob::{BlobKind, Class, Origin};
use crate::format::keys::{PackKey, blob_id};
use crate::format::meta::{Map, Meta};
use crate::format::objects;
use crate::format::seal::FrameOpener;
use crate::format::tree::Tree;
use crate::id::{BlobId, PackId};
use crate::store::{Key, StoreError};

use super::index::{Found, Index};
use super::open::{Repository, key};
use super::session::GROUPED_UNDER;

/// Ranges are read in multiples of this many bytes, so that lengths of frames do not show in a store's log.
pub const READ_STEP: u64 = 64 << 10;

/// Reads blobs of one view, also of packs that a prune moves meanwhile. Safe to share.
pub struct Reader {
    repo: Arc<Repository>,
    /// That of the view, or a newer one once packs were gone.
    index: RwLock<Arc<Index>>,
    moved: Mutex<Moved>,
    frames: Mutex<FrameCache>,
    /// Held while a frame of small blobs is fetched: whoever wants another of them waits instead of fetching it again.
    gates: [Mutex<()>; GATES],
    openers: Mutex<Vec<FrameOpener>>,
}

/// More than threads usually read at once; two frames that share one wait for each other.
const GATES: usize = 64;

/// So often the view is read again without finding what was missing. Enough for prunes that come one upon another, and few
/// enough where a thousand packs are lost for good.
const FRUITLESS_MAX: u32 = 8;

/// Packs that were not found, and how often looking again did not help.
#[derive(Default)]
struct Moved {
    gone: HashSet<PackId>,
    fruitless: u32,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({:?})", self.repo)
    }
}

impl Reader {
    /// Keeps up to `cache_bytes` of opened frames.
    pub fn new(repo: Arc<Repository>, index: Arc<Index>, cache_bytes: usize) -> Self {
        let frames = Mutex::new(FrameCache { cap: cache_bytes, ..FrameCache::default() });
        let (index, moved) = (RwLock::new(index), Mutex::default());
        Self { repo, index, moved, frames, gates: std::array::from_fn(|_| Mutex::default()), openers: Mutex::default() }
    }

    /// The repository that it reads.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repo
    }

    /// The index that it goes by at this moment.
    pub fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().expect("no panic while held"))
    }

    /// A blob, its id verified.
    pub fn blob(&self, id: &BlobId, kind: BlobKind) -> Result<Bytes> {
        self.blob_of(id, kind, |_| true, &[])
    }

    /// A blob whose copy in the frame of `bad` is no good, from any other frame.
    pub fn blob_elsewhere(&self, id: &BlobId, kind: BlobKind, bad: &Found) -> Result<Bytes> {
        let frame = |c: &Found| (c.pack_id(), c.entry.offset, c.entry.stored, c.origin());
        let bad = frame(bad);
        self.blob_of(id, kind, |copy| frame(copy) != bad, &[bad.0])
    }

    /// From any copy that is `usable`; `no_good` are packs of those that were tried before.
    fn blob_of(
        &self,
        id: &BlobId,
        kind: BlobKind,
        usable: impl Fn(&Found) -> bool,
        no_good: &[PackId],
    ) -> Result<Bytes> {
        let mut index = self.index();
        loop {
            let mut gone = no_good.to_vec();
            let failed = match self.blob_by(&index, id, kind, &usable, &mut gone) {
                Err(e @ Error::Damaged { .. }) => e,
                done => return done,
            };
            match self.look_again(&index, id, &gone)? {
                Some(newer) => index = newer,
                None => return Err(failed),
            }
        }
    }

    /// The first good copy of those that `index` knows; packs that are not there go into `gone`.
    fn blob_by(
        &self,
        index: &Index,
        id: &BlobId,
        kind: BlobKind,
        usable: &impl Fn(&Found) -> bool,
        gone: &mut Vec<PackId>,
    ) -> Result<Bytes> {
        let mut copies = Vec::new();
        index.lookup(id, &mut copies);
        let mut failed = None;
        for copy in copies.iter().filter(|c| c.entry.kind == kind && usable(c)) {
            match self.read_copy(id, copy) {
                Ok(bytes) => return Ok(bytes),
                Err(e @ Error::Damaged { .. }) => failed = Some(e),
                Err(Error::Store(e @ (StoreError::NotFound { .. } | StoreError::Wrong { .. }))) => {
                    if matches!(e, StoreError::NotFound { .. }) {
                        gone.push(copy.pack_id());
                    }
                    failed = Some(Error::damaged(self.pack_key_name(copy), e));
                }
                Err(e) => return Err(e),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::damaged(format!("{} blob {}", kind.as_str(), id.short()), "it is in no index segment")
        }))
    }

    /// Whether a copy that could not be read is one that a prune has moved or dropped, so that its damage is nobody's.
    pub fn has_moved(&self, copy: &Found) -> Result<bool> {
        let id = &copy.entry.id;
        let stands = |index: &Index| {
            let mut copies = Vec::new();
            index.lookup(id, &mut copies);
            copies.iter().any(|c| c.pack_id() == copy.pack_id())
        };
        let index = self.index();
        if !stands(&index) {
            return Ok(true);
        }
        Ok(self.look_again(&index, id, &[copy.pack_id()])?.is_some_and(|newer| !stands(&newer)))
    }

    /// An index that may place `id` elsewhere than `used` does, which led to packs that are gone; from then on this reader
    /// goes by it. `None`: there is none, or it was looked for in vain before.
    fn look_again(&self, used: &Arc<Index>, id: &BlobId, gone: &[PackId]) -> Result<Option<Arc<Index>>> {
        let mut moved = self.moved.lock().expect("no panic while held");
        let current = self.index();
        if !Arc::ptr_eq(&current, used) {
            return Ok(Some(current));
        }
        let known = moved.gone.len();
        moved.gone.extend(gone);
        if moved.gone.len() == known || moved.fruitless >= FRUITLESS_MAX {
            return Ok(None);
        }
        let newer = self.repo.view()?.index;
        let mut copies = Vec::new();
        newer.lookup(id, &mut copies);
        if copies.iter().all(|copy| moved.gone.contains(&copy.pack_id())) {
            moved.fruitless += 1;
            return Ok(None);
        }
        *self.index.write().expect("no panic while held") = Arc::clone(&newer);
        Ok(Some(newer))
    }

    /// A tree blob.
    pub fn tree(&self, id: &BlobId) -> Result<Tree> {
        Tree::decode(&self.blob(id, BlobKind::Tree)?).map_err(Error::in_object(format!("tree blob {}", id.short())))
    }

    /// A meta blob.
    pub fn meta(&self, id: &BlobId) -> Result<Meta> {
        Meta::decode(&self.blob(id, BlobKind::Meta)?).map_err(Error::in_object(format!("meta blob {}", id.short())))
    }

    /// A map blob.
    pub fn map(&self, id: &BlobId) -> Result<Map> {
        Map::decode(&self.blob(id, BlobKind::Map)?).map_err(Error::in_object(format!("map blob {}", id.short())))
    }

    /// A blob from this copy and no other, its id verified.
    pub fn read_copy(&self, id: &BlobId, copy: &Found) -> Result<Bytes> {
        let place = (copy.pack_id(), copy.entry.offset);
        let cached = || self.frames.lock().expect("no panic while held").get(&place);
        let frame = match cached() {
            Some(frame) => frame,
            None if (copy.entry.len as usize) < GROUPED_UNDER => {
                let gate = (usize::from(place.0.as_bytes()[0]) + place.1 as usize) % GATES;
                let _alone = self.gates[gate].lock().expect("no panic while held");
                cached().map_or_else(|| self.load(copy), Ok)?
            }
            None => self.load(copy)?,
        };
        self.slice(id, copy, &frame)
    }

    fn load(&self, copy: &Found) -> Result<Bytes> {
        let mut sealed = self.fetch_frame(copy)?;
        let frame = self.open_frame(copy, &mut sealed)?;
        self.frames.lock().expect("no panic while held").put((copy.pack_id(), copy.entry.offset), frame.clone());
        Ok(frame)
    }

    /// A blob out of its frame's text, its id verified.
    pub fn slice(&self, id: &BlobId, copy: &Found, frame: &Bytes) -> Result<Bytes> {
        let (at, len) = (copy.entry.at as usize, copy.entry.len as usize);
        if at + len > frame.len() {
            return Err(Error::damaged(self.pack_key_name(copy), "a frame is shorter than the index says"));
        }
        let bytes = frame.slice(at..at + len);
        if self.is_blob(id, copy.entry.kind, &bytes) {
            return Ok(bytes);
        }
        Err(Error::damaged(
            self.pack_key_name(copy),
            format!("{} blob {} has other bytes than its id says", copy.entry.kind.as_str(), id.short()),
        ))
    }

    /// Whether these are the bytes of that blob.
    pub fn is_blob(&self, id: &BlobId, kind: BlobKind, bytes: &[u8]) -> bool {
        blob_id(&self.repo.graph, self.repo.content.as_ref(), kind, bytes).is_some_and(|actual| actual == *id)
    }

    fn fetch_frame(&self, copy: &Found) -> Result<Vec<u8>> {
        let (pack, entry) = (copy.pack(), &copy.entry);
        let start = u64::from(entry.offset);
        let end = start + u64::from(entry.stored);
        if end > pack.size {
            return Err(Error::damaged(self.pack_key_name(copy), "it is shorter than the index says"));
        }
        let from = start / READ_STEP * READ_STEP;
        let to = end.next_multiple_of(READ_STEP).min(pack.size);
        let object = key(objects::pack(pack.writer, pack.session, pack.seq, pack.id));
        match self.get_exactly(&object, from..to) {
            Ok(range) => Ok(range[(start - from) as usize..(end - from) as usize].to_vec()),
            // A pack that was cut may still hold this frame.
            Err(StoreError::Wrong { .. }) if to > end => Ok(self.get_exactly(&object, start..end)?.to_vec()),
            Err(e) => Err(e.into()),
        }
    }

    /// A range, and never another length: what it is cut into must be there.
    fn get_exactly(&self, object: &Key, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.repo.bridge.wait(self.repo.store.get_range(object, range.clone()))?;
        if bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        let how = format!("{} bytes where {} were asked for", bytes.len(), range.end - range.start);
        Err(StoreError::Wrong { what: format!("get {object}"), how })
    }

    /// The text of a frame that was fetched; `sealed` is overwritten.
    pub fn open_frame(&self, copy: &Found, sealed: &mut [u8]) -> Result<Bytes> {
        let object = || self.pack_key_name(copy);
        let mut opener = self.openers.lock().expect("no panic while held").pop().unwrap_or_default();
        let mut text = Vec::new();
        let mut result = None;
        let keys = self.frame_keys(&copy.origin(), copy.entry.kind.class())?;
        for key in &keys {
            // With one key, the usual case, no copy of the frame is needed.
            let opened = match keys.len() {
                1 => opener.open(key, sealed, &mut text),
                _ => opener.open(key, &mut sealed.to_vec(), &mut text),
            };
            let opened = opened.map_err(Error::in_object(object()));
            let done = opened.is_ok();
            result = Some(opened);
            if done {
                break;
            }
        }
        self.openers.lock().expect("no panic while held").push(opener);
        let header = result.unwrap_or_else(|| Err(Error::damaged(object(), "no key of its session is known")))?;
        if header.kind != copy.entry.kind {
            return Err(Error::damaged(object(), "a frame holds another kind of blob than the index says"));
        }
        Ok(text.into())
    }

    /// The keys that may open a frame of this origin: one, unless segments name several stanzas for its session.
    fn frame_keys(&self, origin: &Origin, class: Class) -> Result<Vec<PackKey>> {
        let repository = self.repo.id();
        if class == Class::Graph {
            return Ok(vec![PackKey::graph(&self.repo.graph, repository, origin)]);
        }
        if !self.repo.can_read() {
            return Err(Error::NotAllowed {
                role: self.repo.role().as_str(),
                what: "read content or names",
                needed: "owner or reader",
            });
        }
        let stanzas = self.index().stanzas(&origin.writer, origin.session);
        let mut keys = Vec::new();
        for stanza in &stanzas {
            let stanza = Stanza::from_bytes(stanza);
            match self.repo.open_stanza(&stanza, origin.writer, origin.session) {
                Ok(secret) => keys.push(PackKey::content(&secret, repository, origin)),
                Err(e) if stanzas.len() == 1 => return Err(e),
                Err(_) => {}
            }
        }
        Ok(keys)
    }

    /// Key of the pack that a copy lies in, for messages and requests.
    pub fn pack_key_name(&self, copy: &Found) -> String {
        let pack = copy.pack();
        objects::pack(pack.writer, pack.session, pack.seq, pack.id)
    }
}

/// Opened frames, the least recently used go first.
#[derive(Default)]
struct FrameCache {
    cap: usize,
    held: usize,
    clock: u64,
    frames: HashMap<(PackId, u32), (Bytes, u64)>,
    by_use: BTreeMap<u64, (PackId, u32)>,
}

impl FrameCache {
    fn get(&mut self, place: &(PackId, u32)) -> Option<Bytes> {
        self.clock += 1;
        let (frame, used) = self.frames.get_mut(place)?;
        self.by_use.remove(used);
        *used = self.clock;
        self.by_use.insert(self.clock, *place);
        Some(frame.clone())
    }

    fn put(&mut self, place: (PackId, u32), frame: Bytes) {
        if frame.len() > self.cap {
            return;
        }
        self.clock += 1;
        self.held += frame.len();
        if let Some((old, used)) = self.frames.insert(place, (frame, self.clock)) {
            self.held -= old.len();
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.clock, place);
        while self.held > self.cap {
            let (_, oldest) = self.by_use.pop_first().expect("what is held is listed");
            let (frame, _) = self.frames.remove(&oldest).expect("what is listed is held");
            self.held -= frame.len();
        }
    }
}
