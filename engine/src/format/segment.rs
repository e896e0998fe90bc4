//! An index segment: which blobs a session's packs hold, sorted, in sealed pages (docs/format.md "Index segments").

use std::collections::BTreeSet;

use crate::crypto::hash;
use crate::crypto::kem::Stanza;
use crate::id::{BlobId, PackId, RepositoryId, SegmentId, SessionId, WriterId};

use super::blob::{ENTRY_BYTES, Entry, ORIGINS_MAX, PackInfo};
use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::{GraphKeys, SUITE};
use super::objects;
use super::pack::{read_origin, write_origin};
use super::seal::{self, Place, RECORD_OVERHEAD};

const MAGIC: &[u8; 8] = b"copalix1";
/// Most entries of one page: 64 KiB of text.
pub const PAGE_ENTRIES: usize = (64 << 10) / ENTRY_BYTES;
/// Most packs of one segment.
pub const PACKS_MAX: usize = 1 << 20;
/// Longest segment that a reader accepts, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const HEAD_BYTES_MAX: usize = 256 << 20;

/// A session's secret, sealed to READ: what a reader needs beside a segment's entries to open their frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStanza {
    /// Who.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Its secret.
    pub stanza: Stanza,
}

/// What a segment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segment {
    /// The packs; entries name them by position.
    pub packs: Vec<PackInfo>,
    /// One for each session among the packs' origins, sorted by writer and session.
    pub stanzas: Vec<SessionStanza>,
    /// Sorted by id, then pack, then offset; no two equal.
    pub entries: Vec<Entry>,
}

/// Which segment: its key without the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlace {
    /// In which repository.
    pub repository: RepositoryId,
    /// Who stored it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Number within the session, from 0.
    pub n: u64,
}

struct PageInfo {
    first: BlobId,
    entries: u32,
}

impl Segment {
    /// The stored bytes. Their BLAKE3 is the segment's id.
    pub fn encode(&self, place: &SegmentPlace, graph: &GraphKeys) -> Vec<u8> {
        assert!(self.entries.is_sorted_by(|a, b| a < b), "entries are sorted and unique");
        let object = objects::segment_place(place.writer, place.session, place.n);
        let at = |kind, ordinal| Place { kind, repository: place.repository.as_bytes(), object: &object, ordinal };
        let pages: Vec<&[Entry]> = self.entries.chunks(PAGE_ENTRIES).collect();
        let head = seal::seal_record(graph.records(), &at("segment head", 0), &self.encode_head(&pages));
        let mut w = Writer::new();
        w.raw(MAGIC).u8(SUITE).raw(place.repository.as_bytes()).raw(place.writer.as_bytes());
        w.session(place.session).u64(place.n).u32(head.len() as u32).raw(&head);
        for (n, page) in pages.iter().enumerate() {
            let text: Vec<u8> = page.iter().flat_map(Entry::to_bytes).collect();
            w.raw(&seal::seal_record(graph.records(), &at("segment page", n as u32), &text));
        }
        let mut out = w.finish();
        out.resize(seal::padme(out.len() as u64) as usize, 0);
        out
    }

    fn encode_head(&self, pages: &[&[Entry]]) -> Vec<u8> {
        let mut w = Writer::new();
        self.write_lists(&mut w);
        w.list(pages, |w, page| {
            w.raw(page[0].id.as_bytes()).varint(page.len() as u64);
        });
        w.finish()
    }

    fn write_lists(&self, w: &mut Writer) {
        assert!(self.packs.len() <= PACKS_MAX && self.packs.iter().all(|p| p.origins.len() <= ORIGINS_MAX));
        w.list(&self.packs, |w, p| {
            w.raw(p.id.as_bytes()).raw(p.writer.as_bytes()).session(p.session).varint(p.seq).varint(p.size);
            w.list(&p.origins, write_origin);
        });
        w.list(&self.stanzas, |w, s| {
            w.raw(s.writer.as_bytes()).session(s.session).raw(&s.stanza.to_bytes());
        });
    }

    fn read_lists(r: &mut Reader<'_>) -> Result<Self> {
        let packs = r.list(PACKS_MAX, 66, "packs", |r| {
            Ok(PackInfo {
                id: PackId::from_bytes(r.array()?),
                writer: r.writer()?,
                session: r.session()?,
                seq: r.varint()?,
                size: r.at_most(u64::from(u32::MAX), "pack size")?,
                origins: r.list(ORIGINS_MAX, 64, "origins", read_origin)?,
            })
        })?;
        let stanzas = r.list(PACKS_MAX * ORIGINS_MAX, 32 + Stanza::LEN, "stanzas", |r| {
            Ok(SessionStanza { writer: r.writer()?, session: r.session()?, stanza: Stanza::from_bytes(&r.array()?) })
        })?;
        if !stanzas.is_sorted_by(|a, b| (a.writer, a.session) < (b.writer, b.session)) {
            return r.fail("stanzas are not sorted");
        }
        let origins: BTreeSet<_> = packs.iter().flat_map(|p| &p.origins).map(|o| (o.writer, o.session)).collect();
        if !stanzas.iter().map(|s| (s.writer, s.session)).eq(origins) {
            return r.fail("its stanzas are not those of its packs' origins");
        }
        Ok(Self { packs, stanzas, entries: Vec::new() })
    }

    /// Opens stored bytes. That they have the wanted hash is the caller's to verify.
    pub fn decode(bytes: &[u8], graph: &GraphKeys) -> Result<(SegmentPlace, Self)> {
        let mut r = Reader::new("segment", bytes);
        if r.array()? != *MAGIC {
            return r.fail("not an index segment of version 1");
        }
        if r.u8()? != SUITE {
            return r.fail("made with algorithms that this version does not know; use a newer one");
        }
        let repository = RepositoryId::from_bytes(r.array()?);
        let place = SegmentPlace { repository, writer: r.writer()?, session: r.session()?, n: r.u64()? };
        let object = objects::segment_place(place.writer, place.session, place.n);
        let at = |kind, ordinal| Place { kind, repository: place.repository.as_bytes(), object: &object, ordinal };
        let head_len = r.u32()? as usize;
        if head_len > HEAD_BYTES_MAX {
            return r.fail("head is too long");
        }
        let head = seal::open_record(graph.records(), &at("segment head", 0), r.raw(head_len)?)?;
        let (mut segment, pages) = Self::decode_head(&head)?;
        for (n, page) in pages.iter().enumerate() {
            let sealed = r.raw(page.entries as usize * ENTRY_BYTES + RECORD_OVERHEAD)?;
            let text = seal::open_record(graph.records(), &at("segment page", n as u32), sealed)?;
            segment.read_page(page, &text)?;
        }
        if bytes.len() as u64 != seal::padme((bytes.len() - r.left()) as u64) || r.rest().iter().any(|&b| b != 0) {
            return Err(Malformed { what: "segment", how: "padding is not as it must be".into() });
        }
        Ok((place, segment))
    }

    fn decode_head(head: &[u8]) -> Result<(Self, Vec<PageInfo>)> {
        let mut r = Reader::new("segment head", head);
        let segment = Self::read_lists(&mut r)?;
        let pages = r.list(1 << 24, 33, "pages", |r| {
            let first = r.blob()?;
            Ok(PageInfo { first, entries: r.at_most(PAGE_ENTRIES as u64, "entries")? as u32 })
        })?;
        let full = |(n, p): (usize, &PageInfo)| p.entries as usize == PAGE_ENTRIES || n + 1 == pages.len();
        if pages.iter().any(|p| p.entries == 0) || !pages.iter().enumerate().all(full) {
            return r.fail("a page that is not full before the last");
        }
        r.finish()?;
        Ok((segment, pages))
    }

    fn read_page(&mut self, page: &PageInfo, text: &[u8]) -> Result<()> {
        let fail = |how: &str| Err(Malformed { what: "segment page", how: how.into() });
        for (n, bytes) in text.chunks_exact(ENTRY_BYTES).enumerate() {
            let entry = Entry::from_bytes(bytes.try_into().expect("chunks are that long"))?;
            if n == 0 && entry.id != page.first {
                return fail("does not start where the head says");
            }
            self.push(entry)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        let fail = |how: &str| Err(Malformed { what: "segment page", how: how.into() });
        let Some(pack) = self.packs.get(entry.pack as usize) else {
            return fail("names a pack that the head does not list");
        };
        if usize::from(entry.origin) >= pack.origins.len()
            || u64::from(entry.offset) + u64::from(entry.stored) > pack.size
        {
            return fail("names a place outside its pack");
        }
        if self.entries.last().is_some_and(|last| *last >= entry) {
            return fail("entries are not sorted");
        }
        self.entries.push(entry);
        Ok(())
    }

    /// As it stands inside a small snapshot: lists, then entries, in one text.
    pub(super) fn write_inline(&self, w: &mut Writer) {
        assert!(self.entries.is_sorted_by(|a, b| a < b), "entries are sorted and unique");
        self.write_lists(w);
        w.list(&self.entries, |w, e| {
            w.raw(&e.to_bytes());
        });
    }

    /// The reverse of [`Segment::write_inline`].
    pub(super) fn read_inline(r: &mut Reader<'_>) -> Result<Self> {
        let mut segment = Self::read_lists(r)?;
        let entries = r.list(1 << 20, ENTRY_BYTES, "entries", |r| Entry::from_bytes(&r.array()?))?;
        for entry in entries {
            segment.push(entry)?;
        }
        Ok(segment)
    }

    /// Id of stored bytes.
    pub fn id(stored: &[u8]) -> SegmentId {
        SegmentId::from_bytes(hash::blake3(&[stored]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::format::blob::Origin;

    #[test]
    fn stanzas_are_those_of_the_origins_and_no_others() {
        let graph = GraphKeys::new(&Secret::from_bytes([1; 32]));
        let writer = WriterId::from_bytes([2; 16]);
        let run = |n| SessionId { n, random: 7 };
        let origin = |n| Origin { writer, session: run(n), salt: [3; 32] };
        let stanza = |n| {
            let stanza = Stanza::from_bytes(&[n as u8; Stanza::LEN]);
            SessionStanza { writer, session: run(n), stanza }
        };
        let pack = |n: u64, origins| {
            let id = PackId::from_bytes([n as u8; 32]);
            PackInfo { id, writer, session: run(n), seq: 0, size: 4000, origins }
        };
        let place = SegmentPlace { repository: RepositoryId::from_bytes([4; 32]), writer, session: run(1), n: 0 };
        let read = |stanzas| {
            let packs = vec![pack(1, vec![origin(1)]), pack(2, vec![origin(1), origin(3)])];
            let stored = Segment { packs, stanzas, entries: Vec::new() }.encode(&place, &graph);
            Segment::decode(&stored, &graph).map(drop).map_err(|e| e.to_string())
        };
        read(vec![stanza(1), stanza(3)]).unwrap();
        for wrong in [vec![], vec![stanza(1)], vec![stanza(1), stanza(2), stanza(3)], vec![stanza(1), stanza(4)]] {
            assert!(read(wrong).unwrap_err().contains("stanzas"));
        }
    }
}
