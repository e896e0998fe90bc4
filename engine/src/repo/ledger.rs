//! What a session has stored and adopted so far, and what it has to publish.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::crypto::kem::Stanza;
use crate::error::{Error, Result};
use crate::format::blob::{BlobKind, Entry, PackInfo};
use crate::format::objects;
use crate::format::segment::{Segment, SegmentPlace, SessionStanza};
use crate::id::{PackId, SegmentId, SessionId, WriterId};
use crate::store::{StoreError, list_all};

use super::condemned::Condemned;
use super::index::Index;
use super::open::{Repository, key};
use super::packer::{OnDurable, SMALL_SESSION, SessionKeys};

/// Entries that wait for a segment before one is written: about 5 MB of heap.
const SEGMENT_ENTRIES: usize = 64 << 10;

/// What a session stored, in numbers. What it adopted is not among it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// New data blobs.
    pub data_blobs: u64,
    /// New blobs of other kinds.
    pub other_blobs: u64,
    /// Their plaintext, in bytes.
    pub raw_bytes: u64,
    /// Their frames, in bytes.
    pub frame_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Their sizes together, in bytes.
    pub pack_bytes: u64,
}

/// The book of one session; told of each pack once it is durable.
pub(super) struct Ledger {
    repo: Arc<Repository>,
    index: Arc<Index>,
    writer: WriterId,
    session: SessionId,
    /// Of this session, and of those whose packs were adopted.
    stanzas: Mutex<BTreeMap<(WriterId, SessionId), Stanza>>,
    book: Mutex<Book>,
    condemned: Arc<Condemned>,
}

#[derive(Default)]
struct Book {
    /// Packs whose entries wait to be published.
    packs: Vec<PackInfo>,
    entries: Vec<Entry>,
    segments: Vec<(u64, SegmentId)>,
    /// Every object that the snapshot will rely on, with its size.
    expected: Vec<(String, u64)>,
    stored: Stored,
}

impl OnDurable for Ledger {
    fn leaves(&self, pack: PackId) {
        self.condemned.writes(pack);
    }

    fn durable(&self, pack: PackInfo, entries: Vec<Entry>) -> Result<()> {
        self.index.publish(pack.clone(), &entries)?;
        let mut book = self.book();
        book.stored.packs += 1;
        book.stored.pack_bytes += pack.size;
        let full = book.enter(pack, entries);
        drop(book);
        if full { self.write_segment() } else { Ok(()) }
    }
}

impl Book {
    /// Whether enough waits for a segment.
    fn enter(&mut self, pack: PackInfo, mut entries: Vec<Entry>) -> bool {
        self.expected.push((objects::pack(pack.writer, pack.session, pack.seq, pack.id), pack.size));
        let at = self.packs.len() as u32;
        entries.iter_mut().for_each(|e| e.pack = at);
        self.packs.push(pack);
        self.entries.extend(entries);
        self.entries.len() >= SEGMENT_ENTRIES
    }
}

impl Ledger {
    pub(super) fn new(
        repo: &Arc<Repository>,
        keys: &SessionKeys,
        index: Arc<Index>,
        condemned: Arc<Condemned>,
    ) -> Self {
        let stanzas = BTreeMap::from([((keys.writer, keys.session), keys.stanza.clone())]);
        Self {
            repo: Arc::clone(repo),
            index,
            writer: keys.writer,
            session: keys.session,
            stanzas: Mutex::new(stanzas),
            book: Mutex::default(),
            condemned,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no panic while held")
    }

    /// Takes over a pack of an interrupted session: from now on its blobs are stored. Not if it is condemned.
    pub(super) fn adopt(
        &self,
        pack: PackInfo,
        entries: Vec<Entry>,
        stanzas: &[((WriterId, SessionId), Stanza)],
    ) -> Result<bool> {
        if !self.condemned.adopts(pack.id) {
            return Ok(false);
        }
        self.index.publish(pack.clone(), &entries)?;
        stanzas.iter().for_each(|(session, stanza)| self.knows(*session, stanza));
        let full = self.book().enter(pack, entries);
        if full {
            self.write_segment()?;
        }
        Ok(true)
    }

    /// What opens frames of that session, which a pack of this one is about to hold.
    pub(super) fn knows(&self, (writer, session): (WriterId, SessionId), stanza: &Stanza) {
        let mut stanzas = self.stanzas.lock().expect("no panic while held");
        stanzas.entry((writer, session)).or_insert_with(|| stanza.clone());
    }

    /// Whether the snapshot would rely on nothing that this session stored or adopted.
    pub(super) fn is_empty(&self) -> bool {
        let book = self.book();
        book.expected.is_empty() && book.stored.data_blobs + book.stored.other_blobs == 0
    }

    pub(super) fn stored(&self) -> Stored {
        self.book().stored
    }

    pub(super) fn segments(&self) -> Vec<(u64, SegmentId)> {
        self.book().segments.clone()
    }

    pub(super) fn count(&self, kind: BlobKind, raw: u64) {
        let stored = &mut self.book().stored;
        match kind {
            BlobKind::Data => stored.data_blobs += 1,
            _ => stored.other_blobs += 1,
        }
        stored.raw_bytes += raw;
    }

    pub(super) fn count_frame(&self, bytes: u64) {
        self.book().stored.frame_bytes += bytes;
    }

    /// What waits to be published, as a segment's content.
    fn take(&self, book: &mut Book) -> Segment {
        let mut entries = std::mem::take(&mut book.entries);
        entries.sort_unstable();
        entries.dedup();
        let packs = std::mem::take(&mut book.packs);
        let origins: BTreeSet<_> = packs.iter().flat_map(|p| &p.origins).map(|o| (o.writer, o.session)).collect();
        let stanzas = self.stanzas.lock().expect("no panic while held");
        let stanzas = origins
            .into_iter()
            .map(|(writer, session)| SessionStanza { writer, session, stanza: stanzas[&(writer, session)].clone() })
            .collect();
        Segment { packs, stanzas, entries }
    }

    /// The entries of a small session, to stand in its snapshot.
    pub(super) fn take_inline(&self) -> Option<Segment> {
        let mut book = self.book();
        let bytes: u64 = book.packs.iter().map(|p| p.size).sum();
        // PADME and the last frame may take a small pack a little over the limit.
        let small = book.segments.is_empty() && bytes <= (SMALL_SESSION + SMALL_SESSION / 4) as u64;
        (small && !book.packs.is_empty()).then(|| self.take(&mut book))
    }

    /// Publishes what waits, if anything does. Blocks on the store.
    pub(super) fn write_segment(&self) -> Result<()> {
        let mut book = self.book();
        if book.packs.is_empty() {
            return Ok(());
        }
        let segment = self.take(&mut book);
        let n = book.segments.len() as u64;
        let place = SegmentPlace { repository: self.repo.id(), writer: self.writer, session: self.session, n };
        let stored = segment.encode(&place, &self.repo.graph);
        let id = Segment::id(&stored);
        let object = key(objects::segment(self.writer, self.session, n, id));
        book.segments.push((n, id));
        book.expected.push((object.as_str().to_owned(), stored.len() as u64));
        drop(book);
        self.repo.bridge.wait(self.repo.store.put(&object, stored.into()))?;
        Ok(())
    }

    /// Everything that the snapshot will rely on and that this session wrote or adopted is in the store with its size
    /// (W5). Nothing written, nothing to look at.
    pub(super) fn verify_stored(&self) -> Result<()> {
        let expected = self.book().expected.clone();
        let folder =
            |object: &str| object.rsplit_once('/').expect("packs and segments lie in folders").0.to_owned() + "/";
        let folders: BTreeSet<String> = expected.iter().map(|(object, _)| folder(object)).collect();
        let mut listed = BTreeMap::new();
        for prefix in folders {
            for l in self.repo.bridge.wait(list_all(self.repo.store.as_ref(), &prefix))? {
                listed.insert(l.key.as_str().to_owned(), l.size);
            }
        }
        for (object, size) in expected {
            let found = match listed.get(&object) {
                Some(&found) => found,
                None => self.size_of(&object)?,
            };
            if found != size {
                return Err(lost(&object, &format!("has {found} bytes in the store where {size} were written")));
            }
        }
        Ok(())
    }

    /// Asks for what a LIST does not show: a LIST may lag behind, where the object is not lost.
    fn size_of(&self, object: &str) -> Result<u64> {
        match self.repo.bridge.wait(self.repo.store.head(&key(object.to_owned()))) {
            Err(StoreError::NotFound { .. }) => Err(lost(object, "was written and is not in the store")),
            answer => Ok(answer?),
        }
    }
}

/// Nothing in memory can be put again: the next session adopts what stands, and stores the rest anew.
fn lost(object: &str, how: &str) -> Error {
    Error::Fenced(format!("{object} {how}; run the backup again, what stands is used"))
}
