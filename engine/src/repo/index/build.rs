//! Building a run from decoded segments with bounded heap: entries are sorted in stretches, spilled, and merged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use crate::format::blob::{ENTRY_BYTES, Entry, ORIGINS_MAX, PackInfo};
use crate::id::{SegmentId, SessionId, WriterId};

use super::files::{Output, Place, Scratch};
use super::filter::{FilterBuilder, bits_for, prefix};
use super::map::Bytes;
use super::merge::Merge;
use super::run::{Counts, FAN_BITS_MAX, PACKS_MAX, Run, Trust};
use super::{Error, Result, Segment, Stanza};

/// Heap that a build may take, in bytes, unless the caller says otherwise.
pub const BUILD_BYTES: usize = 64 << 20;
/// Least heap of a build, in bytes: buffers and one part of the filter.
const BUILD_BYTES_MIN: usize = 8 << 20;

/// Collects segments and writes one run of them.
pub struct RunBuilder {
    place: Place,
    tables: Tables,
    /// Entries since the last spill, with pack positions of the run.
    buffer: Vec<Entry>,
    buffer_max: usize,
    spill: Scratch,
    /// Where in `spill` each sorted stretch ends, in bytes.
    ends: Vec<usize>,
    entries: u64,
}

impl RunBuilder {
    /// `heap` bounds what the build holds at once, in bytes; what does not fit goes through unlinked files in the
    /// directory of `place`. Beside it come the segment that is added and 60 bytes a distinct session.
    pub fn new(place: &Place, heap: usize) -> Self {
        // Half: the vector takes up to a quarter more while it grows; the rest serves the buffers and the filter.
        let buffer_max = heap.max(BUILD_BYTES_MIN) / 2 / size_of::<Entry>();
        let (tables, spill) = (Tables::new(place.dir()), Scratch::new(place.dir()));
        Self { place: place.clone(), tables, buffer: Vec::new(), buffer_max, spill, ends: Vec::new(), entries: 0 }
    }

    /// Whether a run can also list the packs of `segment`.
    pub(super) fn has_room(&self, segment: &Segment) -> bool {
        self.tables.counts.packs + segment.packs.len() as u64 <= PACKS_MAX
    }

    /// Adds a segment. An error `Segment` leaves the builder as it was.
    pub fn add(&mut self, segment: &Segment) -> Result<()> {
        check(segment)?;
        if !self.has_room(segment) {
            return Err(malformed(segment, "its packs do not fit into a run"));
        }
        let first = self.tables.counts.packs as u32;
        for pack in &segment.packs {
            self.tables.add_pack(pack)?;
        }
        for (session, stanza) in &segment.stanzas {
            self.tables.add_stanza(*session, stanza)?;
        }
        self.tables.add_segment(segment.id, segment.packs.len() as u32, segment.entries.len() as u64);
        self.entries += segment.entries.len() as u64;
        for entry in &segment.entries {
            self.push(Entry { pack: first + entry.pack, ..*entry })?;
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        if self.buffer.len() == self.buffer.capacity() {
            // Twice the length, but from a quarter of the bound at once to the bound: both copies exist while it moves.
            let (len, room) = (self.buffer.len(), self.buffer_max - self.buffer.len());
            self.buffer.reserve_exact(if len < self.buffer_max / 4 { len.max(1024).min(room) } else { room });
        }
        self.buffer.push(entry);
        if self.buffer.len() < self.buffer_max { Ok(()) } else { self.spill() }
    }

    /// Writes the buffered entries as one sorted stretch.
    fn spill(&mut self) -> Result<()> {
        self.buffer.par_sort_unstable();
        for entry in &self.buffer {
            self.spill.write(&entry.to_bytes())?;
        }
        self.buffer.clear();
        self.ends.push(self.spill.len() as usize);
        Ok(())
    }

    /// Writes the run. In a cache it is durable when this returns.
    pub fn finish(mut self) -> Result<Run> {
        if self.ends.is_empty() {
            self.buffer.par_sort_unstable();
            return write_run(&self.place, self.tables, self.buffer.iter().copied(), self.entries);
        }
        if !self.buffer.is_empty() {
            self.spill()?;
        }
        self.buffer = Vec::new();
        let bytes = Arc::new(self.spill.finish()?);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let stretches =
            starts.zip(&self.ends).map(|(start, end)| Stretch { bytes: Arc::clone(&bytes), rest: start..*end });
        let merged = Merge::new(stretches.collect()).map(|(_, entry)| entry);
        write_run(&self.place, self.tables, merged, self.entries)
    }
}

/// Refuses a segment whose parts do not fit together.
fn check(segment: &Segment) -> Result<()> {
    if segment.packs.iter().any(|pack| pack.origins.is_empty() || pack.origins.len() > ORIGINS_MAX) {
        return Err(malformed(segment, "a pack with no origin or too many"));
    }
    for entry in &segment.entries {
        let Some(pack) = segment.packs.get(entry.pack as usize) else {
            return Err(malformed(segment, "an entry in a pack that it does not list"));
        };
        if usize::from(entry.origin) >= pack.origins.len() {
            return Err(malformed(segment, "an entry with an origin that its pack does not list"));
        }
        if u64::from(entry.offset) + u64::from(entry.stored) > pack.size {
            return Err(malformed(segment, "an entry behind the end of its pack"));
        }
        // The decoder's ranges. What is wider than its field would not come back, or not fit at all.
        if entry.pack >= 1 << 24 || entry.at >= 1 << 24 || Entry::from_bytes(&entry.to_bytes()).is_err() {
            return Err(malformed(segment, "an entry with numbers out of range"));
        }
    }
    Ok(())
}

fn malformed(segment: &Segment, how: &'static str) -> Error {
    Error::Segment { id: segment.id, how }
}

/// One sorted stretch of spilled entries.
struct Stretch {
    bytes: Arc<Bytes>,
    rest: Range<usize>,
}

impl Iterator for Stretch {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let record = self.bytes.get(self.rest.clone())?.first_chunk::<ENTRY_BYTES>()?;
        self.rest.start += ENTRY_BYTES;
        Some(Entry::from_bytes(record).expect("checked before it was spilled"))
    }
}

/// Everything of a run except its entries, on its way.
pub(super) struct Tables {
    packs: Scratch,
    origins: Scratch,
    segments: Vec<u8>,
    stanzas: Scratch,
    /// Position in `stanzas` of each distinct stanza of each session: a writer may have named a wrong one.
    sessions: BTreeMap<(WriterId, SessionId, [u8; 16]), u32>,
    counts: Counts,
}

impl Tables {
    pub(super) fn new(dir: &Path) -> Self {
        let (packs, origins, stanzas) = (Scratch::new(dir), Scratch::new(dir), Scratch::new(dir));
        Self { packs, origins, segments: Vec::new(), stanzas, sessions: BTreeMap::new(), counts: Counts::default() }
    }

    /// Appends a pack and returns its position. It belongs to the segment that is added next.
    pub(super) fn add_pack(&mut self, pack: &PackInfo) -> Result<u32> {
        self.packs.write(pack.id.as_bytes())?;
        self.packs.write(&session_bytes(&pack.writer, pack.session))?;
        self.packs.write(&pack.seq.to_le_bytes())?;
        self.packs.write(&pack.size.to_le_bytes())?;
        self.packs.write(&(self.counts.origins as u32).to_le_bytes())?;
        self.packs.write(&(pack.origins.len() as u32).to_le_bytes())?;
        for origin in &pack.origins {
            self.origins.write(&session_bytes(&origin.writer, origin.session))?;
            self.origins.write(&origin.salt)?;
        }
        // At most 2^24 packs of 64 origins: 30 bits.
        self.counts.origins += pack.origins.len() as u64;
        self.counts.packs += 1;
        Ok(self.counts.packs as u32 - 1)
    }

    /// Ends a segment of the last `packs` packs.
    pub(super) fn add_segment(&mut self, id: SegmentId, packs: u32, entries: u64) {
        self.segments.extend_from_slice(id.as_bytes());
        self.segments.extend_from_slice(&packs.to_le_bytes());
        self.segments.extend_from_slice(&[0; 4]);
        self.segments.extend_from_slice(&entries.to_le_bytes());
        self.counts.segments += 1;
    }

    /// Keeps one of each distinct stanza of a session.
    pub(super) fn add_stanza(&mut self, (writer, session): (WriterId, SessionId), stanza: &Stanza) -> Result<()> {
        let hash = *blake3::hash(stanza).as_bytes().first_chunk().expect("32 bytes");
        let position = self.sessions.len() as u32;
        if let std::collections::btree_map::Entry::Vacant(place) = self.sessions.entry((writer, session, hash)) {
            place.insert(position);
            self.stanzas.write(stanza)?;
        }
        Ok(())
    }

    /// Writes the first four sections.
    fn write(self, out: &mut Output) -> Result<Counts> {
        out.write(&self.packs.finish()?)?;
        out.write(&self.origins.finish()?)?;
        let stanzas = self.stanzas.finish()?;
        let (stanzas, _) = stanzas.as_chunks::<{ super::STANZA_BYTES }>();
        for ((writer, session, _), position) in &self.sessions {
            out.write(&session_bytes(writer, *session))?;
            out.write(&stanzas[*position as usize])?;
        }
        out.write(&self.segments)?;
        Ok(Counts { stanzas: self.sessions.len() as u64, ..self.counts })
    }
}

fn session_bytes(writer: &WriterId, session: SessionId) -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(writer.as_bytes());
    out[16..24].copy_from_slice(&session.n.to_le_bytes());
    out[24..].copy_from_slice(&session.random.to_le_bytes());
    out
}

/// Entries that one stretch of the fan-out should hold: two or three pages.
const FAN_ENTRIES: u64 = 128;

/// Writes a run file (layout: see `run`) with `entries`, which are sorted and at most `count`.
pub(super) fn write_run(
    place: &Place,
    tables: Tables,
    entries: impl Iterator<Item = Entry>,
    count: u64,
) -> Result<Run> {
    let mut out = Output::create(place)?;
    let mut counts = tables.write(&mut out)?;
    let fan_bits = bits_for(count, FAN_ENTRIES, FAN_BITS_MAX);
    let mut fan = vec![0u64; 1 << fan_bits];
    let mut filter = FilterBuilder::new(place.dir(), count);
    for entry in entries {
        out.write(&entry.to_bytes())?;
        fan[prefix(entry.id.as_bytes(), fan_bits)] += 1;
        filter.add(&entry.id)?;
        counts.entries += 1;
    }
    let mut start = 0u64;
    for entries in fan {
        out.write(&start.to_le_bytes())?;
        start += entries;
    }
    out.write(&start.to_le_bytes())?;
    counts.fan_bits = fan_bits as u8;
    counts.part_bits = filter.bits() as u8;
    counts.filter_bytes = filter.finish(&mut out)?;
    out.write(&counts.to_bytes())?;
    let (bytes, path) = out.finish()?;
    Run::new(bytes, path, Trust::Own)
}
