//! Moving frames from packs that are mostly unused into new ones, as they are: who repacks needs to open none of them.
//!
//! A frame keeps its origin, which gives its key, so a moved copy is the same copy as its source. The source pack's hash is
//! verified first; what is moved is what was published.

use std::collections::HashSet;
use std::sync::Arc;

use crate::crypto::hash;
use crate::crypto::rng::Rng;
use crate::error::{Error, Result};
use crate::format::blob::{BlobKind, ORIGINS_MAX, Origin, PackInfo};
use crate::format::bundle::Identity;
use crate::format::gc::PackRef;
use crate::format::keys::PackKey;
use crate::format::node::Timestamp;
use crate::format::objects;
use crate::format::pack::{self, Frame, Header, HeaderOrigin, PACK_BYTES_MAX, Table};
use crate::format::snapshot::{GraphPart, NamesPart, SnapshotKind};
use crate::id::{BlobId, PackId};
use crate::store::StoreError;

use super::open::{Repository, key};
use super::packer::OnDurable;
use super::session::Session;

/// Full packs of data and of all else, in bytes of frames.
const FULL: [usize; 2] = [16 << 20, 4 << 20];
/// Blobs of one pack at most, but for those of its last frame.
const PACK_BLOBS: usize = 128 << 10;
/// Source packs that are fetched at once.
const FETCHED: usize = 2;

/// How much was moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Packs that were read.
    pub packs: u64,
    /// Frames that were copied, in bytes.
    pub bytes: u64,
    /// Packs that were written: what they hold was copied from packs whose hash was verified.
    pub written: Vec<PackId>,
}

/// A session that moves frames. Nothing counts before [`Repack::commit`].
pub struct Repack {
    session: Session,
    open: [Output; 2],
    next_seq: u64,
    moved: Moved,
    /// Of frames that lie in several places, those that were copied.
    copied: HashSet<[u8; 32]>,
}

#[derive(Default)]
struct Output {
    origins: Vec<HeaderOrigin>,
    table: Table,
    bytes: Vec<u8>,
    blobs: usize,
}

impl Repack {
    /// Opens the session.
    pub fn begin(repo: &Arc<Repository>, who: &Identity, rng: Box<dyn Rng>) -> Result<Self> {
        let session = Session::maintain(Arc::clone(repo), who, rng)?;
        let (open, moved, copied) = Default::default();
        Ok(Self { session, open, next_seq: 0, moved, copied })
    }

    /// Copies from these packs every frame that has a wanted blob: asked with its id and kind, and the pack and offset that it
    /// lies at. A pack that is gone is left out: whoever deleted it knew that nobody needs it.
    pub fn packs(
        &mut self,
        packs: &[PackRef],
        wanted: &dyn Fn(&BlobId, BlobKind, &PackId, u32) -> bool,
        each: &dyn Fn(&PackRef) -> Result<()>,
    ) -> Result<()> {
        let repo = Arc::clone(&self.session.repo);
        for batch in packs.chunks(FETCHED) {
            let fetched = repo.bridge.map(batch.to_vec(), FETCHED, |p| {
                let (store, object) = (repo.store.clone(), key(objects::pack(p.writer, p.session, p.seq, p.id)));
                async move {
                    match store.get(&object, PACK_BYTES_MAX).await {
                        Ok(bytes) => Ok(Some((p, bytes))),
                        Err(StoreError::NotFound { .. }) => Ok(None),
                        Err(e) => Err(Error::from(e)),
                    }
                }
            })?;
            for (at, bytes) in fetched.into_iter().flatten() {
                each(&at)?;
                self.pack(&at, &bytes, wanted)?;
            }
        }
        Ok(())
    }

    fn pack(
        &mut self,
        at: &PackRef,
        bytes: &[u8],
        wanted: &dyn Fn(&BlobId, BlobKind, &PackId, u32) -> bool,
    ) -> Result<()> {
        let object = || objects::pack(at.writer, at.session, at.seq, at.id);
        if PackId::from_bytes(hash::blake3(&[bytes])) != at.id {
            return Err(Error::damaged(
                object(),
                "it has not the bytes that were written; nothing of it was moved or deleted",
            ));
        }
        let graph = &self.session.repo.graph;
        let (header, table, _, start) = pack::open(bytes, graph).map_err(Error::in_object(object()))?;
        let mut offset = start;
        for frame in table.frames {
            let place = offset;
            offset += frame.stored;
            let goes_on = frame.blobs.iter().any(|(id, _)| wanted(id, frame.kind, &at.id, place));
            if goes_on {
                let sealed = &bytes[place as usize..offset as usize];
                let origin = &header.origins[usize::from(frame.origin)];
                if self.is_first(origin, &frame, sealed) {
                    self.frame(origin, frame, sealed)?;
                }
            }
        }
        self.moved.packs += 1;
        Ok(())
    }

    /// Whether this very frame was not copied before: of the same origin, with the same table entry and the same bytes. A repack that
    /// was cut off has left copies of frames whose sources still stand.
    fn is_first(&mut self, origin: &HeaderOrigin, frame: &Frame, sealed: &[u8]) -> bool {
        let mut copies = Vec::new();
        if let Some((id, _)) = frame.blobs.first() {
            self.session.view().index.lookup(id, &mut copies);
        }
        if copies.len() < 2 {
            return true;
        }
        // What packs say of a frame is part of it: another may say it falsely.
        let HeaderOrigin { origin: Origin { writer, session, salt }, graph, content, stanza } = origin;
        let mut said = [&writer.as_bytes()[..], salt, graph, content, &stanza.to_bytes()].concat();
        said.extend([session.n, session.random, u64::from(frame.ordinal)].iter().flat_map(|n| n.to_le_bytes()));
        said.push(frame.kind as u8);
        frame.blobs.iter().for_each(|(id, len)| said.extend(id.as_bytes().iter().chain(&len.to_le_bytes())));
        self.copied.insert(hash::blake3(&[&hash::blake3(&[&said]), sealed]))
    }

    fn frame(&mut self, origin: &HeaderOrigin, frame: Frame, sealed: &[u8]) -> Result<()> {
        let class = usize::from(frame.kind != BlobKind::Data);
        let known = |output: &Output| output.origins.iter().position(|o| o.origin == origin.origin);
        let out = &self.open[class];
        let full = out.bytes.len() + sealed.len() > FULL[class] || out.blobs >= PACK_BLOBS;
        if full || (known(out).is_none() && out.origins.len() == ORIGINS_MAX) {
            self.write(class, false)?;
        }
        let out = &mut self.open[class];
        let at = known(out).unwrap_or_else(|| {
            out.origins.push(origin.clone());
            out.origins.len() - 1
        });
        self.moved.bytes += sealed.len() as u64;
        out.blobs += frame.blobs.len();
        out.bytes.extend_from_slice(sealed);
        out.table.frames.push(Frame { origin: at as u8, ..frame });
        Ok(())
    }

    fn write(&mut self, class: usize, last: bool) -> Result<()> {
        let Output { origins, table, bytes: frames, .. } = std::mem::take(&mut self.open[class]);
        if table.frames.is_empty() {
            return Ok(());
        }
        let (repo, keys, ledger) = (&self.session.repo, &self.session.keys, &self.session.ledger);
        let (writer, session, seq) = (keys.writer, keys.session, self.next_seq);
        let header = Header { repository: repo.id(), writer, session, seq, origins };
        let mut bytes = header.encode();
        let start = bytes.len() as u32;
        bytes.extend_from_slice(&frames);
        drop(frames);
        let padding = PackKey::graph(&repo.graph, repo.id(), &header.origins[0].origin);
        pack::finish(&mut bytes, &header, &table, &repo.graph, &padding, &keys.signer, last);
        let id = PackId::from_bytes(hash::blake3(&[&bytes]));
        let origins = header.origins.iter().map(|o| o.origin).collect();
        let info = PackInfo { id, writer, session, seq, size: bytes.len() as u64, origins };
        ledger.leaves(id);
        repo.bridge.wait(repo.store.put(&key(objects::pack(writer, session, seq, id)), bytes.into()))?;
        for o in &header.origins {
            ledger.knows((o.origin.writer, o.origin.session), &o.stanza);
        }
        ledger.durable(info, table.entries(0, start))?;
        self.next_seq += 1;
        self.moved.written.push(id);
        Ok(())
    }

    /// Makes everything durable and commits, without a tree: from now on the moved copies count.
    pub fn commit(mut self) -> Result<Moved> {
        self.write(0, true)?;
        self.write(1, true)?;
        let time = self.session.repo.options.clock.now();
        self.session.commit(without_tree(time), |_| NamesPart::default())?;
        Ok(self.moved)
    }
}

/// What a session commits that only moves blobs: no tree.
pub fn without_tree(time: Timestamp) -> GraphPart {
    GraphPart {
        kind: SnapshotKind::None,
        time,
        epoch: 0,
        root: None,
        source: [0; 32],
        host: [0; 32],
        paths: Vec::new(),
        labels: Vec::new(),
        previous: None,
        original: None,
        run: None,
        parts: Vec::new(),
        view: Default::default(),
        segments: Vec::new(),
        packs: 0,
        pack_bytes: 0,
        inline: None,
    }
}
