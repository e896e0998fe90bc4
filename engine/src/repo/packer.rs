//! Packs in the making: workers seal frames and drop them into the open pack; a full one is completed and uploaded.
//!
//! Two open packs, one for data and one for trees, metas and maps (maintenance and mounts read those alone); while a
//! session is small all goes into one. A pack takes one of three permits from its first byte until it is durable, so that
//! no more than three are in memory whatever the store does: a worker that needs a new one waits.
//!
//! A worker reserves a number in the open pack, seals outside of its lock and then appends; whoever appends the last
//! reserved frame of a closed pack completes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::crypto::hash;
use crate::crypto::kem::Stanza;
use crate::crypto::rng::{Rng, draw};
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::blob::{BlobKind, Class, Entry, Origin, PackInfo};
use crate::format::keys::{PackKey, SessionSecret};
use crate::format::objects;
use crate::format::pack::{self, Frame, Header, HeaderOrigin, Table};
use crate::format::seal::FrameSealer;
use crate::id::{BlobId, PackId, SessionId, WriterId};

use super::open::{Repository, key};

/// A session stays in one pack until it holds this many bytes.
pub const SMALL_SESSION: usize = 1 << 20;
/// Full packs of trees, in bytes.
const TREE_PACK: usize = 4 << 20;
/// Packs in memory at most.
const PACKS_IN_MEMORY: usize = 3;
/// Room for the frame that fills a pack, its table and its padding. Memory that is not written to is not taken.
const PACK_SLACK: usize = 4 << 20;
/// Blobs of one pack at most, but for those of its last frames: tiny ones take more room in its table than in its frames.
const PACK_BLOBS: usize = 128 << 10;

/// Told of each pack once it is durable.
pub trait OnDurable: Send + Sync {
    /// This pack is about to be stored.
    fn leaves(&self, pack: PackId);

    /// The pack, and where its blobs lie.
    fn durable(&self, pack: PackInfo, entries: Vec<Entry>) -> Result<()>;
}

/// Everything that packs of one session share.
pub struct Packer {
    repo: Arc<Repository>,
    writer: WriterId,
    session: SessionId,
    signer: SigningKey,
    secret: SessionSecret,
    stanza: Stanza,
    rng: Mutex<Box<dyn Rng>>,
    data_pack: usize,
    slots: [Mutex<Option<Arc<OpenPack>>>; 2],
    /// Cleared once the session is no longer small.
    single: AtomicBool,
    next_seq: AtomicU64,
    permits: Arc<Semaphore>,
    buffers: Arc<Buffers>,
    uploads: Mutex<tokio::task::JoinSet<()>>,
    on_durable: Arc<dyn OnDurable>,
    failure: Arc<Failure>,
}

/// The first failure of a session. Every step after it fails, and once the session ends it says why.
#[derive(Default)]
pub struct Failure {
    first: Mutex<Option<Error>>,
    happened: AtomicBool,
}

impl Failure {
    /// Makes every later step fail; the first `error` is the reason.
    pub fn note(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.happened.swap(true, Ordering::AcqRel) {
            *first = Some(error);
        }
    }

    /// Fails once anything has failed. The reason is left for [`Failure::take`].
    pub fn check(&self) -> Result<()> {
        if self.happened.load(Ordering::Acquire) {
            return Err(Error::Fenced("the session has failed already".into()));
        }
        Ok(())
    }

    /// The reason, once.
    pub fn take(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct OpenPack {
    /// Which of the packer's slots it was opened in.
    slot: usize,
    header: Header,
    graph: PackKey,
    content: PackKey,
    filling: Mutex<Filling>,
}

struct Filling {
    bytes: Vec<u8>,
    table: Table,
    next_ordinal: u32,
    /// Blobs in `table`.
    blobs: usize,
    /// Frames that were reserved and not yet appended.
    pending: usize,
    closed: bool,
    /// Nobody can reserve any more.
    detached: bool,
    /// Last of the session: padded less.
    last: bool,
    permit: Option<OwnedSemaphorePermit>,
}

/// What a session signs and seals with.
pub struct SessionKeys {
    /// Who.
    pub writer: WriterId,
    /// Which run.
    pub session: SessionId,
    /// Signs packs and the snapshot.
    pub signer: SigningKey,
    /// Opens what the session seals.
    pub secret: SessionSecret,
    /// The secret, sealed to READ.
    pub stanza: Stanza,
}

impl Packer {
    /// A packer of a session that has no pack yet.
    pub fn new(
        repo: Arc<Repository>,
        keys: &SessionKeys,
        rng: Box<dyn Rng>,
        on_durable: Arc<dyn OnDurable>,
        failure: Arc<Failure>,
    ) -> Self {
        let data_pack = (16 << 20).min((repo.options.memory / 8) as usize).max(2 << 20);
        Self {
            repo,
            writer: keys.writer,
            session: keys.session,
            signer: keys.signer.clone(),
            secret: keys.secret.clone(),
            stanza: keys.stanza.clone(),
            rng: Mutex::new(rng),
            data_pack,
            slots: [Mutex::default(), Mutex::default()],
            single: AtomicBool::new(true),
            next_seq: AtomicU64::new(0),
            permits: Arc::new(Semaphore::new(PACKS_IN_MEMORY)),
            buffers: Arc::default(),
            uploads: Mutex::default(),
            on_durable,
            failure,
        }
    }

    /// Seals one frame and puts it into a pack. `raw` is the concatenation of `blobs` (id and length in bytes).
    ///
    /// Waits while three packs are in memory. After any failure, also of another worker, every call fails.
    pub fn add(
        &self,
        sealer: &mut FrameSealer,
        scratch: &mut Vec<u8>,
        kind: BlobKind,
        blobs: Vec<(BlobId, u32)>,
        raw: &[u8],
    ) -> Result<()> {
        self.failure.check()?;
        let (pack, ordinal) = self.reserve(kind)?;
        let _reserved = Reserved(self);
        scratch.clear();
        let ids: Vec<BlobId> = blobs.iter().map(|(id, _)| *id).collect();
        let pack_key = match kind.class() {
            Class::Graph => &pack.graph,
            Class::Content => &pack.content,
        };
        sealer.seal(pack_key, ordinal, kind, &ids, raw, scratch);
        self.append(&pack, Frame { origin: 0, ordinal, kind, stored: scratch.len() as u32, blobs }, scratch)
    }

    fn slot(&self, kind: BlobKind) -> usize {
        usize::from(kind == BlobKind::Data && !self.single.load(Ordering::Relaxed))
    }

    fn reserve(&self, kind: BlobKind) -> Result<(Arc<OpenPack>, u32)> {
        let at = self.slot(kind);
        let mut slot = self.slots[at].lock().expect("no panic while held");
        let pack = match &*slot {
            Some(pack) => Arc::clone(pack),
            None => {
                let pack = Arc::new(self.open_pack(at)?);
                *slot = Some(Arc::clone(&pack));
                pack
            }
        };
        let mut filling = pack.filling.lock().expect("no panic while held");
        let ordinal = filling.next_ordinal;
        filling.next_ordinal += 1;
        filling.pending += 1;
        drop(filling);
        Ok((pack, ordinal))
    }

    fn open_pack(&self, slot: usize) -> Result<OpenPack> {
        let permits = Arc::clone(&self.permits);
        let permit = self.repo.bridge.wait(permits.acquire_owned());
        self.failure.check()?;
        let permit = permit.expect("the semaphore is closed only by a failure");
        let salt = draw(&mut **self.rng.lock().expect("no panic while held"));
        let origin = Origin { writer: self.writer, session: self.session, salt };
        let graph = PackKey::graph(&self.repo.graph, self.repo.id(), &origin);
        let content = PackKey::content(&self.secret, self.repo.id(), &origin);
        let header = Header {
            repository: self.repo.id(),
            writer: self.writer,
            session: self.session,
            seq: self.next_seq.fetch_add(1, Ordering::Relaxed),
            origins: vec![HeaderOrigin {
                origin,
                graph: graph.commitment(),
                content: content.commitment(),
                stanza: self.stanza.clone(),
            }],
        };
        let mut bytes = self.buffers.take(self.data_pack + PACK_SLACK);
        bytes.extend_from_slice(&header.encode());
        let filling = Filling {
            bytes,
            table: Table::default(),
            next_ordinal: 0,
            blobs: 0,
            pending: 0,
            closed: false,
            detached: false,
            last: false,
            permit: Some(permit),
        };
        Ok(OpenPack { slot, header, graph, content, filling: Mutex::new(filling) })
    }

    fn append(&self, pack: &Arc<OpenPack>, frame: Frame, bytes: &[u8]) -> Result<()> {
        let trees = frame.kind != BlobKind::Data;
        let mut filling = pack.filling.lock().expect("no panic while held");
        assert!(filling.permit.is_some(), "a completed pack takes no frame");
        filling.bytes.extend_from_slice(bytes);
        filling.blobs += frame.blobs.len();
        filling.table.frames.push(frame);
        filling.pending -= 1;
        let len = filling.bytes.len();
        if len >= SMALL_SESSION {
            self.single.store(false, Ordering::Relaxed);
        }
        let full = len >= if trees { TREE_PACK } else { self.data_pack } || filling.blobs >= PACK_BLOBS;
        let closes = full && !filling.closed;
        filling.closed |= full;
        drop(filling);
        if closes {
            self.detach(pack);
        }
        self.complete(pack)
    }

    /// Ends reservations in a closed pack. Only who closed it comes here, so the slot still holds it and nobody waits for
    /// a permit under the slot's lock: that would deadlock, because this pack holds one.
    fn detach(&self, pack: &Arc<OpenPack>) {
        let mut slot = self.slots[pack.slot].lock().expect("no panic while held");
        let held = slot.take().expect("a closed pack stays in its slot until it is detached");
        assert!(Arc::ptr_eq(&held, pack), "a slot holds one pack until that is detached");
        drop(slot);
        pack.filling.lock().expect("no panic while held").detached = true;
    }

    /// Adds table and trailer, and uploads: once nobody can reserve in it and nothing reserved is missing. Does nothing
    /// before that, and when somebody else was first.
    fn complete(&self, pack: &Arc<OpenPack>) -> Result<()> {
        let mut filling = pack.filling.lock().expect("no panic while held");
        if !filling.detached || filling.pending > 0 {
            return Ok(());
        }
        let Some(permit) = filling.permit.take() else { return Ok(()) };
        let (mut bytes, table) = (std::mem::take(&mut filling.bytes), std::mem::take(&mut filling.table));
        let last = filling.last;
        drop(filling);
        let start = pack.header.encode().len() as u32;
        pack::finish(&mut bytes, &pack.header, &table, &self.repo.graph, &pack.graph, &self.signer, last);
        let info = PackInfo {
            id: PackId::from_bytes(hash::blake3(&[&bytes])),
            writer: self.writer,
            session: self.session,
            seq: pack.header.seq,
            size: bytes.len() as u64,
            origins: pack.header.origins.iter().map(|o| o.origin).collect(),
        };
        self.upload(info, table.entries(0, start), bytes, permit);
        Ok(())
    }

    fn upload(&self, info: PackInfo, entries: Vec<Entry>, bytes: Vec<u8>, permit: OwnedSemaphorePermit) {
        self.on_durable.leaves(info.id);
        let (store, bridge) = (Arc::clone(&self.repo.store), self.repo.bridge.clone());
        let object = key(objects::pack(info.writer, info.session, info.seq, info.id));
        let (on_durable, failure, permits) =
            (Arc::clone(&self.on_durable), Arc::clone(&self.failure), Arc::clone(&self.permits));
        let bytes = Bytes::from_owner(Body { bytes, buffers: Arc::clone(&self.buffers) });
        let put = async move {
            store.put(&object, bytes).await?;
            // Telling the index may write a file: not on a thread that moves bytes of others.
            bridge.beside(move || on_durable.durable(info, entries)).await.unwrap_or_else(|e| Err(broken(e)))
        };
        // In a task of its own, so that a panic is a failure of the session and not a pack that nobody lists.
        let task = async move {
            if let Err(e) = tokio::spawn(put).await.unwrap_or_else(|e| Err(broken(e))) {
                fail(&failure, &permits, e);
            }
            drop(permit);
        };
        let mut uploads = self.uploads.lock().expect("no panic while held");
        self.repo.bridge.wait(async {
            uploads.spawn(task);
            while uploads.try_join_next().is_some() {}
        });
    }

    /// Completes what is open and waits until every pack is durable. No worker may be adding.
    ///
    /// After a failure only what is on its way is waited for.
    pub fn finish(&self) -> Result<()> {
        let open: Vec<Arc<OpenPack>> =
            self.slots.iter().filter_map(|s| s.lock().expect("no panic while held").take()).collect();
        for pack in open.into_iter().filter(|_| self.failure.check().is_ok()) {
            let mut filling = pack.filling.lock().expect("no panic while held");
            assert_eq!(filling.pending, 0, "no worker is adding when a session ends");
            (filling.closed, filling.detached, filling.last) = (true, true, true);
            drop(filling);
            self.complete(&pack)?;
        }
        let mut uploads = std::mem::take(&mut *self.uploads.lock().expect("no panic while held"));
        self.repo.bridge.wait(async { while uploads.join_next().await.is_some() {} });
        self.failure.check()
    }
}

/// Memory of packs that are durable, for those that come: fresh memory takes as much time as hashing what goes into it.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self, capacity: usize) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Bytes of a pack on its way to the store.
struct Body {
    bytes: Vec<u8>,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}

/// A frame that was reserved and may never come: its pack would wait for it for ever, and others for that pack.
struct Reserved<'p>(&'p Packer);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fail(&self.0.failure, &self.0.permits, broken("a thread that seals panicked"));
        }
    }
}

/// Also wakes whoever waits for room.
fn fail(failure: &Failure, permits: &Semaphore, error: Error) {
    failure.note(error);
    permits.close();
}

/// A bug, or a broken machine. No snapshot may come of it.
fn broken(how: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("the backup broke off, this is a bug or a fault of this machine: {how}"))
}
