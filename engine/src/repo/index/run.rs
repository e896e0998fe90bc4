//! A run: one immutable file that says for many segments which blob lies where, queried from its mapped bytes.
//!
//! Front to back, all numbers little-endian:
//!
//! | section | records |
//! |---|---|
//! | packs | 88 bytes: id 32, writer 16, session number 8, session random 8, seq 8, size 8, first origin 4, origins 4 |
//! | origins | 64 bytes: writer 16, session number 8, session random 8, salt 32 |
//! | stanzas | 1232 bytes: writer 16, session number 8, session random 8, stanza 1200; sorted, distinct |
//! | segments | 48 bytes: id 32, packs 4, zero 4, entries 8; their packs follow each other in this order |
//! | entries | 52 bytes ([`Entry::to_bytes`]), sorted by id, pack, offset |
//! | fan-out | `2^fan_bits + 1` positions of 8 bytes: where the entries of each prefix start, and the end |
//! | filter | `2^part_bits + 1` positions of 8 bytes, then the parts (see `filter`) |
//! | foot | 96 bytes: magic 8, version 4, fan_bits 1, part_bits 1, zero 2, counts of packs, origins, stanzas, segments, entries and bytes of the filter's parts 8 each, BLAKE3 of everything before it 32 |
//!
//! A pack that two segments list stands there twice, so a segment that is no longer wanted goes by hiding its packs:
//! nothing has to be fetched again. Opening checks the hash and that the sections fill the file; every later read copes
//! with any bytes, so that even a file that was made up under a right hash costs answers, not the process.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::blob::{ENTRY_BYTES, Entry, ORIGINS_MAX, Origin, PackInfo};
use crate::id::{BlobId, PackId, SegmentId, SessionId, WriterId};

use super::filter::{PART_BITS_MAX, may_contain, prefix};
use super::map::Bytes;
use super::{Error, Result, STANZA_BYTES, Stanza, files};

pub(super) const PACK_BYTES: usize = 32 + 16 + 16 + 8 + 8 + 4 + 4;
pub(super) const ORIGIN_BYTES: usize = 16 + 16 + 32;
pub(super) const KEYED_STANZA_BYTES: usize = 16 + 16 + STANZA_BYTES;
pub(super) const SEGMENT_BYTES: usize = 32 + 4 + 4 + 8;
const HASH_BYTES: usize = 32;
const FOOT_BYTES: usize = 8 + 4 + 4 + 6 * 8 + HASH_BYTES;
const MAGIC: &[u8; 8] = b"copalidx";
const VERSION: u32 = 1;
/// Most top bits of an id that select a stretch of the entries; the table of a build is on the heap.
pub(super) const FAN_BITS_MAX: u32 = 20;
/// Most packs in a run: their positions have 24 bits in an entry.
pub(super) const PACKS_MAX: u64 = 1 << 24;

/// How many records stand in each section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub packs: u64,
    pub origins: u64,
    pub stanzas: u64,
    pub segments: u64,
    pub entries: u64,
    pub filter_bytes: u64,
    pub fan_bits: u8,
    pub part_bits: u8,
}

impl Counts {
    /// The foot without the hash.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOT_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.fan_bits, self.part_bits, 0, 0]);
        for count in [self.packs, self.origins, self.stanzas, self.segments, self.entries, self.filter_bytes] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out
    }

    fn from_foot(foot: &[u8]) -> Result<Self, String> {
        if foot.len() != FOOT_BYTES || foot[..8] != *MAGIC {
            return Err("not an index file".into());
        }
        let version = u32_at(foot, 8);
        if version != VERSION {
            return Err(format!("version {version}, this program reads {VERSION}"));
        }
        let [fan_bits, part_bits, zero, null] = [foot[12], foot[13], foot[14], foot[15]];
        let counts = Self {
            packs: u64_at(foot, 16),
            origins: u64_at(foot, 24),
            stanzas: u64_at(foot, 32),
            segments: u64_at(foot, 40),
            entries: u64_at(foot, 48),
            filter_bytes: u64_at(foot, 56),
            fan_bits,
            part_bits,
        };
        let sane = (zero, null) == (0, 0)
            && u32::from(fan_bits) <= FAN_BITS_MAX
            && u32::from(part_bits) <= PART_BITS_MAX
            && counts.packs <= PACKS_MAX;
        if sane { Ok(counts) } else { Err("numbers out of range".into()) }
    }
}

/// Where each section lies in the file.
#[derive(Debug, Clone)]
struct Layout {
    counts: Counts,
    packs: Range<usize>,
    origins: Range<usize>,
    stanzas: Range<usize>,
    segments: Range<usize>,
    entries: Range<usize>,
    fan: Range<usize>,
    parts: Range<usize>,
    filter: Range<usize>,
}

impl Layout {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let body = bytes.len().checked_sub(FOOT_BYTES).ok_or("cut short")?;
        let counts = Counts::from_foot(&bytes[body..])?;
        let mut at = 0usize;
        let mut section = |count: u64, width: usize| -> Result<Range<usize>, String> {
            let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
            let end = len.and_then(|len| at.checked_add(len)).filter(|end| *end <= body);
            let start = at;
            at = end.ok_or("cut short")?;
            Ok(start..at)
        };
        let layout = Self {
            counts,
            packs: section(counts.packs, PACK_BYTES)?,
            origins: section(counts.origins, ORIGIN_BYTES)?,
            stanzas: section(counts.stanzas, KEYED_STANZA_BYTES)?,
            segments: section(counts.segments, SEGMENT_BYTES)?,
            entries: section(counts.entries, ENTRY_BYTES)?,
            fan: section((1 << counts.fan_bits) + 1, 8)?,
            parts: section((1 << counts.part_bits) + 1, 8)?,
            filter: section(counts.filter_bytes, 1)?,
        };
        if at == body { Ok(layout) } else { Err("its sections do not fill it".into()) }
    }
}

/// Whether the hash of a run must still be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Found on disk.
    Verify,
    /// Written by this process.
    Own,
}

/// One run file, mapped. Shared by everybody who found something in it.
pub struct Run {
    bytes: Bytes,
    layout: Layout,
    /// Its file, unless that is unlinked.
    path: Option<PathBuf>,
    /// One bit a pack: set for packs of unwanted segments and for excluded ones.
    hidden: Box<[AtomicU64]>,
    /// One bit a pack: set before a copy in it is taken for stored (docs/protocol.md W4c).
    reused: Box<[AtomicU64]>,
    /// Which segments are unwanted: a merge leaves them out.
    dropped: Box<[bool]>,
}

/// One segment of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Covered {
    pub id: SegmentId,
    pub packs: Range<u32>,
    pub entries: u64,
}

impl Run {
    /// Opens a run file; `None` if it is gone. `Corrupt` if it is not one or damaged.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::open(path)? else { return Ok(None) };
        Self::new(bytes, Some(path.to_owned()), Trust::Verify).map(Some)
    }

    /// Checks the bytes of a run file as [`Index::open`](super::Index::open) does, without a file.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Bytes::Owned(bytes), None, Trust::Verify)
    }

    pub(super) fn new(bytes: Bytes, path: Option<PathBuf>, trust: Trust) -> Result<Self> {
        let corrupt = |how: String| Error::Corrupt { path: path.clone().unwrap_or_default(), how };
        let layout = Layout::read(&bytes).map_err(corrupt)?;
        let (body, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
        if trust == Trust::Verify && blake3::hash(body) != *hash {
            return Err(corrupt("its bytes are not those that were written".into()));
        }
        let bits = || (0..layout.counts.packs.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (hidden, reused) = (bits(), bits());
        let run =
            Self { bytes, path, hidden, reused, dropped: vec![false; layout.counts.segments as usize].into(), layout };
        let last = run.segments().last().map_or(0, |segment| segment.packs.end);
        if u64::from(last) == run.layout.counts.packs {
            return Ok(run);
        }
        Err(Error::Corrupt { path: run.path.unwrap_or_default(), how: "its packs belong to no segment".into() })
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// How many packs it lists.
    pub(super) fn pack_count(&self) -> u32 {
        self.layout.counts.packs as u32
    }

    /// How many entries it holds, hidden ones included.
    pub(super) fn entry_count(&self) -> u64 {
        self.layout.counts.entries
    }

    /// Entries of segments that were not dropped.
    pub(super) fn live(&self) -> u64 {
        let live = self.segments().zip(&self.dropped).filter(|(_, dropped)| !**dropped);
        live.fold(0, |sum, (segment, _)| sum.saturating_add(segment.entries))
    }

    /// Its segments, dropped ones included.
    pub(super) fn segments(&self) -> impl Iterator<Item = Covered> {
        let mut first = 0u32;
        self.bytes[self.layout.segments.clone()].chunks_exact(SEGMENT_BYTES).map(move |record| {
            let packs = first..first.saturating_add(u32_at(record, 32));
            first = packs.end;
            Covered { id: SegmentId::from_bytes(array(record, 0)), packs, entries: u64_at(record, 40) }
        })
    }

    /// Whether a segment, by position, was dropped.
    pub(super) fn is_dropped(&self, segment: usize) -> bool {
        self.dropped[segment]
    }

    /// Hides all segments for which `keep` is false.
    pub(super) fn drop_segments(&mut self, mut keep: impl FnMut(&SegmentId) -> bool) {
        let segments: Vec<Covered> = self.segments().collect();
        for (at, segment) in segments.into_iter().enumerate() {
            if !keep(&segment.id) {
                self.dropped[at] = true;
                segment.packs.for_each(|pack| self.hide(pack));
            }
        }
    }

    /// Hides every copy in these packs.
    pub(super) fn hide_packs(&self, excluded: &HashSet<PackId>) {
        if !excluded.is_empty() {
            (0..self.pack_count()).filter(|pack| excluded.contains(&self.pack_id(*pack))).for_each(|p| self.hide(p));
        }
    }

    fn hide(&self, pack: u32) {
        if let Some(word) = self.hidden.get(pack as usize / 64) {
            word.fetch_or(1 << (pack % 64), Ordering::SeqCst);
        }
    }

    /// A copy of this blob that is not hidden, its pack noted as reused.
    ///
    /// The note comes first and the second look at what is hidden after it, both in one order with those of who hides a
    /// pack and then asks whether it was reused: one of the two always sees the other.
    pub(super) fn reuse(self: &Arc<Self>, id: &BlobId) -> Option<Found> {
        self.positions(id).find_map(|at| {
            let found = Found::new(self, self.entry(at)?)?;
            let (word, bit) = (&self.reused[found.entry.pack as usize / 64], 1 << (found.entry.pack % 64));
            if word.load(Ordering::SeqCst) & bit == 0 {
                word.fetch_or(bit, Ordering::SeqCst);
            }
            (!self.is_hidden(found.entry.pack)).then_some(found)
        })
    }

    /// Packs of which a copy was reused.
    pub(super) fn reused_packs(&self) -> impl Iterator<Item = PackId> {
        let reused = |pack: &u32| self.reused[*pack as usize / 64].load(Ordering::SeqCst) >> (pack % 64) & 1 == 1;
        (0..self.pack_count()).filter(reused).map(|pack| self.pack_id(pack))
    }

    /// Whether copies in this pack are hidden. Packs out of range are.
    pub(super) fn is_hidden(&self, pack: u32) -> bool {
        let word = self.hidden.get(pack as usize / 64);
        pack >= self.pack_count() || word.is_none_or(|word| word.load(Ordering::SeqCst) >> (pack % 64) & 1 == 1)
    }

    /// Positions of the entries with this id.
    pub(super) fn positions(&self, id: &BlobId) -> impl Iterator<Item = u64> {
        let fan = &self.bytes[self.layout.fan.clone()];
        let bucket = prefix(id.as_bytes(), self.layout.counts.fan_bits.into());
        let end = u64_at(fan, 8 * (bucket + 1)).min(self.entry_count());
        let mut start = end;
        if may_contain(self.filter_part(id), id) {
            start = u64_at(fan, 8 * bucket).min(end);
            let mut len = end - start;
            while len > 0 {
                let half = len / 2;
                if self.record(start + half)[..32] < id.as_bytes()[..] {
                    start += half + 1;
                    len -= half + 1;
                } else {
                    len = half;
                }
            }
        }
        let id = *id;
        (start..end).take_while(move |at| self.record(*at)[..32] == id.as_bytes()[..])
    }

    fn filter_part(&self, id: &BlobId) -> &[u8] {
        let parts = &self.bytes[self.layout.parts.clone()];
        let part = prefix(id.as_bytes(), self.layout.counts.part_bits.into());
        let (start, end) = (u64_at(parts, 8 * part) as usize, u64_at(parts, 8 * (part + 1)) as usize);
        // One byte lets everything pass.
        self.bytes[self.layout.filter.clone()].get(start..end).unwrap_or(&[1])
    }

    /// The stored entry at a position below [`Run::entry_count`].
    fn record(&self, at: u64) -> &[u8; ENTRY_BYTES] {
        let start = self.layout.entries.start + at as usize * ENTRY_BYTES;
        self.bytes[start..start + ENTRY_BYTES].try_into().expect("that many bytes")
    }

    /// The entry at a position below [`Run::entry_count`], unless it is hidden or makes no sense.
    pub(super) fn entry(&self, at: u64) -> Option<Entry> {
        Entry::from_bytes(self.record(at)).ok().filter(|entry| !self.is_hidden(entry.pack))
    }

    /// Whether a copy of this blob is here and not hidden.
    pub(super) fn contains(&self, id: &BlobId) -> bool {
        self.positions(id).any(|at| self.entry(at).is_some())
    }

    /// Appends all copies of this blob that are not hidden.
    pub(super) fn lookup(self: &Arc<Self>, id: &BlobId, out: &mut Vec<Found>) {
        out.extend(self.positions(id).filter_map(|at| self.entry(at)).filter_map(|entry| Found::new(self, entry)));
    }

    /// Id of a pack below [`Run::pack_count`].
    pub(super) fn pack_id(&self, pack: u32) -> PackId {
        PackId::from_bytes(array(self.pack_record(pack), 0))
    }

    fn pack_record(&self, pack: u32) -> &[u8] {
        let start = self.layout.packs.start + pack as usize * PACK_BYTES;
        &self.bytes[start..start + PACK_BYTES]
    }

    /// A pack below [`Run::pack_count`]; `None` if its record makes no sense.
    pub(super) fn pack(&self, pack: u32) -> Option<PackInfo> {
        let record = self.pack_record(pack);
        let (writer, session) = session_at(record, 32);
        let (seq, size) = (u64_at(record, 64), u64_at(record, 72));
        let origins = self.origins(pack)?.chunks_exact(ORIGIN_BYTES).map(origin_from).collect();
        Some(PackInfo { id: self.pack_id(pack), writer, session, seq, size, origins })
    }

    /// The stored origins of a pack below [`Run::pack_count`].
    fn origins(&self, pack: u32) -> Option<&[u8]> {
        let record = self.pack_record(pack);
        let (first, count) = (u32_at(record, 80) as usize, u32_at(record, 84) as usize);
        let start = first.checked_mul(ORIGIN_BYTES)?;
        let all = &self.bytes[self.layout.origins.clone()];
        if count == 0 || count > ORIGINS_MAX { None } else { all.get(start..start.checked_add(count * ORIGIN_BYTES)?) }
    }

    fn origin(&self, pack: u32, origin: u8) -> Option<Origin> {
        self.origins(pack)?.chunks_exact(ORIGIN_BYTES).nth(origin.into()).map(origin_from)
    }

    /// The distinct stanzas that segments name for a session.
    pub(super) fn stanzas(&self, writer: &WriterId, session: SessionId) -> impl Iterator<Item = &Stanza> {
        let (records, _) = self.bytes[self.layout.stanzas.clone()].as_chunks::<KEYED_STANZA_BYTES>();
        let key = (*writer, session);
        let start = records.partition_point(|record| session_at(record, 0) < key);
        let same = records[start..].iter().take_while(move |record| session_at(*record, 0) == key);
        same.map(|record| record[32..].try_into().expect("that many bytes"))
    }

    /// All stanzas with their sessions.
    pub(super) fn all_stanzas(&self) -> impl Iterator<Item = ((WriterId, SessionId), &Stanza)> {
        let records = self.bytes[self.layout.stanzas.clone()].chunks_exact(KEYED_STANZA_BYTES);
        records.map(|record| (session_at(record, 0), record[32..].try_into().expect("that many bytes")))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("path", &self.path).field("counts", &self.layout.counts).finish_non_exhaustive()
    }
}

/// One copy of a blob. Keeps the run that it was found in mapped.
#[derive(Clone)]
pub struct Found {
    /// Where it lies in its pack. Its `pack` is a position within a run: ask [`Found::pack`] instead.
    pub entry: Entry,
    run: Arc<Run>,
}

impl Found {
    /// `None` if pack or origin of a visible entry make no sense.
    pub(super) fn new(run: &Arc<Run>, entry: Entry) -> Option<Self> {
        run.origin(entry.pack, entry.origin)?;
        Some(Self { entry, run: Arc::clone(run) })
    }

    /// Id of the pack that it lies in.
    pub fn pack_id(&self) -> PackId {
        self.run.pack_id(self.entry.pack)
    }

    /// The pack that it lies in.
    pub fn pack(&self) -> PackInfo {
        self.run.pack(self.entry.pack).expect("its origins were read when it was found")
    }

    /// Who sealed its frame.
    pub fn origin(&self) -> Origin {
        self.run.origin(self.entry.pack, self.entry.origin).expect("read when it was found")
    }

    /// Whether both are the same bytes of the same pack.
    pub fn same_copy(&self, other: &Self) -> bool {
        self.place() == other.place()
    }

    pub(super) fn place(&self) -> (PackId, u32, u32) {
        (self.pack_id(), self.entry.offset, self.entry.at)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("entry", &self.entry).field("pack", &self.pack_id()).finish()
    }
}

/// All entries of a run that are not hidden, in order.
pub(super) struct Entries {
    pub run: Arc<Run>,
    at: u64,
}

impl Entries {
    pub(super) fn of(run: &Arc<Run>) -> Self {
        Self { run: Arc::clone(run), at: 0 }
    }
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while self.at < self.run.entry_count() {
            self.at += 1;
            if let Some(entry) = self.run.entry(self.at - 1) {
                return Some(entry);
            }
        }
        None
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn session_at(bytes: &[u8], at: usize) -> (WriterId, SessionId) {
    let session = SessionId { n: u64_at(bytes, at + 16), random: u64_at(bytes, at + 24) };
    (WriterId::from_bytes(array(bytes, at)), session)
}

fn origin_from(record: &[u8]) -> Origin {
    let (writer, session) = session_at(record, 0);
    Origin { writer, session, salt: array(record, 32) }
}
