//! A pack: header in clear, frames, padding, sealed table, sealed trailer (docs/format.md "Packs").
//!
//! The header lets whoever holds a class secret derive the frames' keys; the table says what each frame holds, so that
//! the index can be rebuilt from packs alone; the trailer's signature ties both to the writer.

use crate::crypto::hash;
use crate::crypto::kem::Stanza;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::id::{BlobId, RepositoryId, SessionId, WriterId};

use super::blob::{BlobKind, Entry, GROUP_BLOBS_MAX, ORIGINS_MAX, Origin, RAW_BYTES_MAX};
use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::{GraphKeys, PackKey, SUITE};
use super::objects;
use super::seal::{self, FRAME_OVERHEAD, Place, RECORD_OVERHEAD};

const MAGIC: &[u8; 8] = b"copalpk1";
/// Packs are padded to multiples of this many bytes; the last of a session by PADME.
pub const PACK_STEP: u64 = 256 << 10;
/// The table's text is padded to multiples of this many bytes.
pub const TABLE_STEP: usize = 4 << 10;
/// Longest pack that a reader accepts, in bytes.
pub const PACK_BYTES_MAX: u64 = 1 << 30;
const TRAILER_TEXT: usize = 8 + 8 + 4 + 32 + 32 + 64;
/// Bytes of the sealed trailer: the last of every pack.
pub const TRAILER_BYTES: usize = TRAILER_TEXT + RECORD_OVERHEAD;
const TABLE_BYTES_MAX: u32 = 64 << 20;
const FRAMES_MAX: usize = 1 << 20;
const ORIGIN_BYTES: usize = 16 + 16 + 32 + 32 + 32 + Stanza::LEN;

/// One session whose frames a pack holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderOrigin {
    /// Gives the keys, with a class secret.
    pub origin: Origin,
    /// Commitment to the graph class key.
    pub graph: [u8; 32],
    /// Commitment to the content class key.
    pub content: [u8; 32],
    /// The session's secret, sealed to READ.
    pub stanza: Stanza,
}

/// What stands in clear at the start of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// In which repository.
    pub repository: RepositoryId,
    /// Who stored it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Number within the session, from 0.
    pub seq: u64,
    /// 1 to [`ORIGINS_MAX`].
    pub origins: Vec<HeaderOrigin>,
}

/// Longest header in bytes.
pub const HEADER_BYTES_MAX: usize = 8 + 1 + 32 + 16 + 16 + 8 + 1 + ORIGINS_MAX * ORIGIN_BYTES;

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        assert!((1..=ORIGINS_MAX).contains(&self.origins.len()));
        let mut w = Writer::new();
        w.raw(MAGIC).u8(SUITE).raw(self.repository.as_bytes()).raw(self.writer.as_bytes());
        w.session(self.session).u64(self.seq).u8(self.origins.len() as u8);
        for o in &self.origins {
            write_origin(&mut w, &o.origin);
            w.raw(&o.graph).raw(&o.content).raw(&o.stanza.to_bytes());
        }
        w.finish()
    }

    /// Reads the header at the start of `bytes`; also its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut r = Reader::new("pack header", bytes);
        if r.array()? != *MAGIC {
            return r.fail("not a pack of version 1");
        }
        if r.u8()? != SUITE {
            return r.fail("made with algorithms that this version does not know; use a newer one");
        }
        let repository = RepositoryId::from_bytes(r.array()?);
        let (writer, session, seq) = (r.writer()?, r.session()?, r.u64()?);
        let count = usize::from(r.u8()?);
        if !(1..=ORIGINS_MAX).contains(&count) {
            return r.fail(format!("{count} origins"));
        }
        let mut origins = Vec::with_capacity(count);
        for _ in 0..count {
            let origin = read_origin(&mut r)?;
            let (graph, content) = (r.array()?, r.array()?);
            let stanza = Stanza::from_bytes(&r.array()?);
            origins.push(HeaderOrigin { origin, graph, content, stanza });
        }
        Ok((Self { repository, writer, session, seq, origins }, bytes.len() - r.left()))
    }

    fn place(&self) -> String {
        objects::pack_place(self.writer, self.session, self.seq)
    }
}

pub(super) fn write_origin(w: &mut Writer, o: &Origin) {
    w.raw(o.writer.as_bytes()).session(o.session).raw(&o.salt);
}

pub(super) fn read_origin(r: &mut Reader<'_>) -> Result<Origin> {
    Ok(Origin { writer: r.writer()?, session: r.session()?, salt: r.array()? })
}

/// One frame as the table tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Position in the header's origins.
    pub origin: u8,
    /// Its number under the origin's key.
    pub ordinal: u32,
    /// Kind of all its blobs.
    pub kind: BlobKind,
    /// Its length in the pack, in bytes.
    pub stored: u32,
    /// Its blobs in order, with their lengths in bytes.
    pub blobs: Vec<(BlobId, u32)>,
}

/// A pack's table: all frames, in the order in which they lie one behind another after the header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// In order of their place.
    pub frames: Vec<Frame>,
}

impl Table {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.list(&self.frames, |w, f| {
            w.u8(f.origin).varint(u64::from(f.ordinal)).u8(f.kind as u8).varint(u64::from(f.stored));
            w.list(&f.blobs, |w, (id, len)| {
                w.raw(id.as_bytes()).varint(u64::from(*len));
            });
        });
        let text = w.finish();
        let mut padded = Writer::new();
        padded.u32(text.len() as u32).raw(&text);
        let len = padded.len().next_multiple_of(TABLE_STEP);
        let mut out = padded.finish();
        out.resize(len, 0);
        out
    }

    pub(super) fn decode(text: &[u8], origins: usize) -> Result<Self> {
        let mut padded = Reader::new("pack table", text);
        let len = padded.u32()? as usize;
        let mut r = Reader::new("pack table", padded.raw(len)?);
        let padding = padded.rest();
        if padding.len() >= TABLE_STEP || !text.len().is_multiple_of(TABLE_STEP) || padding.iter().any(|&b| b != 0) {
            return r.fail("padding is not as it must be");
        }
        let frames = r.list(FRAMES_MAX, 4 + 33, "frames", |r| {
            let origin = r.u8()?;
            if usize::from(origin) >= origins {
                return r.fail("origin out of range");
            }
            let ordinal = r.at_most(u64::from(u32::MAX), "ordinal")? as u32;
            let kind = BlobKind::read(r)?;
            let stored = r.at_most(u64::from(RAW_BYTES_MAX) + 65_536, "frame length")? as u32;
            let blobs = r.list(GROUP_BLOBS_MAX, 33, "blobs", |r| {
                Ok((r.blob()?, r.at_most(u64::from(RAW_BYTES_MAX), "blob length")? as u32))
            })?;
            let raw: u64 = blobs.iter().map(|(_, len)| u64::from(*len)).sum();
            if (stored as usize) < FRAME_OVERHEAD || blobs.is_empty() || raw > u64::from(RAW_BYTES_MAX) {
                return r.fail("frame of impossible size");
            }
            Ok(Frame { origin, ordinal, kind, stored, blobs })
        })?;
        r.finish()?;
        Ok(Self { frames })
    }

    /// The index entries of all blobs, as pack number `pack`, the first frame starting at `start`.
    pub fn entries(&self, pack: u32, start: u32) -> Vec<Entry> {
        let mut out = Vec::new();
        let mut offset = start;
        for f in &self.frames {
            let mut at = 0;
            for &(id, len) in &f.blobs {
                out.push(Entry { id, pack, offset, kind: f.kind, stored: f.stored, len, at, origin: f.origin });
                at += len;
            }
            offset += f.stored;
        }
        out
    }
}

/// Where the parts of a pack lie, from its trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Where the frames end and the padding starts, in bytes.
    pub frames_end: u64,
    /// Where the sealed table starts, in bytes.
    pub table_at: u64,
    /// Length of the sealed table, in bytes.
    pub table_len: u32,
    header_hash: [u8; 32],
    table_hash: [u8; 32],
    signature: [u8; 64],
}

/// Completes a pack whose header and frames stand in `pack`: adds padding, table and trailer.
///
/// `last`: padded by PADME instead of to [`PACK_STEP`]. The name of the pack is the BLAKE3 of the result.
pub fn finish(
    pack: &mut Vec<u8>,
    header: &Header,
    table: &Table,
    graph: &GraphKeys,
    padding: &PackKey,
    signer: &SigningKey,
    last: bool,
) {
    let place = header.place();
    let at = |kind| Place { kind, repository: header.repository.as_bytes(), object: &place, ordinal: 0 };
    let header_bytes = header.encode();
    assert!(pack.starts_with(&header_bytes), "a pack starts with its header");
    let frames: u64 = table.frames.iter().map(|f| u64::from(f.stored)).sum();
    assert_eq!(pack.len() as u64, header_bytes.len() as u64 + frames, "the table tells of every byte");

    let sealed_table = seal::seal_record(graph.records(), &at("pack table"), &table.encode());
    let tail = (sealed_table.len() + TRAILER_BYTES) as u64;
    let frames_end = pack.len() as u64;
    let total = if last { seal::padme(frames_end + tail) } else { (frames_end + tail).next_multiple_of(PACK_STEP) };
    let table_at = total - tail;
    pack.resize(table_at as usize, 0);
    hash::keystream(&padding.0, b"padding", &mut pack[frames_end as usize..]);
    let mut trailer = Trailer {
        frames_end,
        table_at,
        table_len: sealed_table.len() as u32,
        header_hash: hash::blake3(&[&header_bytes]),
        table_hash: hash::blake3(&[&sealed_table]),
        signature: [0; 64],
    };
    trailer.signature = signer.sign(SIGNED, &trailer.signed());
    pack.extend_from_slice(&sealed_table);
    pack.extend_from_slice(&seal::seal_record(graph.records(), &at("pack trailer"), &trailer.encode()));
}

const SIGNED: &str = "copal 1 pack";

impl Trailer {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.signed()).raw(&self.signature);
        w.finish()
    }

    fn signed(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.frames_end).u64(self.table_at).u32(self.table_len).raw(&self.header_hash).raw(&self.table_hash);
        w.finish()
    }

    /// Opens the last [`TRAILER_BYTES`] of the pack with this header and `size`, and checks that its parts lie in order.
    pub fn open(sealed: &[u8], header: &Header, size: u64, graph: &GraphKeys) -> Result<Self> {
        let place = header.place();
        let at = Place { kind: "pack trailer", repository: header.repository.as_bytes(), object: &place, ordinal: 0 };
        let text = seal::open_record(graph.records(), &at, sealed)?;
        let mut r = Reader::new("pack trailer", &text);
        let trailer = Self {
            frames_end: r.u64()?,
            table_at: r.u64()?,
            table_len: r.u32()?,
            header_hash: r.array()?,
            table_hash: r.array()?,
            signature: r.array()?,
        };
        let table_end = trailer.table_at.checked_add(u64::from(trailer.table_len));
        let fits = trailer.frames_end <= trailer.table_at
            && trailer.table_len <= TABLE_BYTES_MAX
            && table_end.and_then(|end| end.checked_add(TRAILER_BYTES as u64)) == Some(size);
        if !fits {
            return r.fail("its parts do not fit the pack's size");
        }
        r.finish()?;
        Ok(trailer)
    }

    /// Whether the writer signed this header and table, and nobody changed either.
    pub fn verify(&self, header: &Header, sealed_table: &[u8], writer: &VerifyingKey) -> Result<()> {
        let fail = |how: &str| Err(Malformed { what: "pack trailer", how: how.into() });
        if hash::blake3(&[&header.encode()]) != self.header_hash || hash::blake3(&[sealed_table]) != self.table_hash {
            return fail("header or table is not the one that was signed");
        }
        if writer.verify(SIGNED, &self.signed(), &self.signature).is_err() {
            return fail("not signed by its writer");
        }
        Ok(())
    }
}

/// Whether the bytes between frames and table are the padding that [`finish`] puts there.
pub fn padding_fits(bytes: &[u8], header: &Header, trailer: &Trailer, graph: &GraphKeys) -> bool {
    let first = &header.origins[0].origin;
    let key = PackKey::graph(graph, header.repository, first);
    let Some(stored) = bytes.get(trailer.frames_end as usize..trailer.table_at as usize) else { return false };
    let mut padding = vec![0; stored.len()];
    hash::keystream(&key.0, b"padding", &mut padding);
    padding == stored
}

/// Opens a pack's sealed table.
pub fn open_table(sealed: &[u8], header: &Header, graph: &GraphKeys) -> Result<Table> {
    let place = header.place();
    let at = Place { kind: "pack table", repository: header.repository.as_bytes(), object: &place, ordinal: 0 };
    Table::decode(&seal::open_record(graph.records(), &at, sealed)?, header.origins.len())
}

/// Takes a whole pack apart: header, table, and where the first frame starts. Its hash is the caller's to verify.
pub fn open(bytes: &[u8], graph: &GraphKeys) -> Result<(Header, Table, Trailer, u32)> {
    let (header, start) = Header::decode(bytes)?;
    let cut = bytes
        .len()
        .checked_sub(TRAILER_BYTES)
        .filter(|cut| *cut >= start)
        .ok_or_else(|| Malformed { what: "pack", how: "shorter than a pack can be".into() })?;
    let trailer = Trailer::open(&bytes[cut..], &header, bytes.len() as u64, graph)?;
    let table = open_table(&bytes[trailer.table_at as usize..cut], &header, graph)?;
    let frames: u64 = table.frames.iter().map(|f| u64::from(f.stored)).sum();
    if start as u64 + frames != trailer.frames_end {
        return Err(Malformed { what: "pack", how: "its table does not tell of every byte".into() });
    }
    Ok((header, table, trailer, start as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kem::ReadSecret;
    use crate::crypto::rng::SeededRng;
    use crate::crypto::secret::Secret;
    use crate::format::keys::SessionSecret;
    use crate::format::seal::{FrameOpener, FrameSealer};

    /// A pack of two frames, and what opens it.
    fn sample() -> (Vec<u8>, GraphKeys, PackKey, SigningKey) {
        let graph = GraphKeys::new(&Secret::from_bytes([1; 32]));
        let secret = SessionSecret(Secret::from_bytes([2; 32]));
        let (repository, writer) = (RepositoryId::from_bytes([3; 32]), WriterId::from_bytes([4; 16]));
        let session = SessionId { n: 5, random: 6 };
        let origin = Origin { writer, session, salt: [7; 32] };
        let content_key = PackKey::content(&secret, repository, &origin);
        let graph_key = PackKey::graph(&graph, repository, &origin);
        let mut rng = SeededRng::new([8; 32]);
        let read = ReadSecret::from_seed(Secret::from_bytes([9; 32]));
        let stanza = crate::crypto::kem::seal_to(read.public(), &mut rng, "copal 1 session", &secret.0);
        let header = Header {
            repository,
            writer,
            session,
            seq: 0,
            origins: vec![HeaderOrigin {
                origin,
                graph: graph_key.commitment(),
                content: content_key.commitment(),
                stanza,
            }],
        };
        let mut pack = header.encode();
        let mut sealer = FrameSealer::new(1);
        let mut table = Table::default();
        for (ordinal, raw) in [(1u32, &b"hello"[..]), (0, &[0; 9000])] {
            let before = pack.len();
            let id = BlobId::from_bytes([ordinal as u8; 32]);
            sealer.seal(&content_key, ordinal, BlobKind::Data, &[id], raw, &mut pack);
            table.frames.push(Frame {
                origin: 0,
                ordinal,
                kind: BlobKind::Data,
                stored: (pack.len() - before) as u32,
                blobs: vec![(id, raw.len() as u32)],
            });
        }
        let signer = SigningKey::from_seed(Secret::from_bytes([10; 32]));
        finish(&mut pack, &header, &table, &graph, &content_key, &signer, false);
        (pack, graph, content_key, signer)
    }

    #[test]
    fn packs_come_apart_again() {
        let (pack, graph, key, signer) = sample();
        assert_eq!(pack.len() as u64 % PACK_STEP, 0);
        let (header, table, trailer, start) = open(&pack, &graph).unwrap();
        let sealed_table = &pack[trailer.table_at as usize..pack.len() - TRAILER_BYTES];
        trailer.verify(&header, sealed_table, &signer.verifying()).unwrap();
        let entries = table.entries(0, start);
        let mut out = Vec::new();
        let frame = |e: &Entry| pack[e.offset as usize..(e.offset + e.stored) as usize].to_vec();
        FrameOpener::default().open(&key, &mut frame(&entries[0]), &mut out).unwrap();
        assert_eq!(out, b"hello");
        FrameOpener::default().open(&key, &mut frame(&entries[1]), &mut out).unwrap();
        assert_eq!(out, [0; 9000]);
    }

    #[test]
    fn another_signer_is_refused() {
        let (pack, graph, _, _) = sample();
        let (header, _, trailer, _) = open(&pack, &graph).unwrap();
        let sealed_table = &pack[trailer.table_at as usize..pack.len() - TRAILER_BYTES];
        let other = SigningKey::from_seed(Secret::from_bytes([11; 32])).verifying();
        assert!(trailer.verify(&header, sealed_table, &other).is_err());
    }

    #[test]
    fn damage_outside_frames_and_padding_is_noticed() {
        let (pack, graph, _, signer) = sample();
        let (_, _, trailer, start) = open(&pack, &graph).unwrap();
        let tail = trailer.table_at as usize..pack.len();
        for at in (0..start as usize).step_by(37).chain(tail.step_by(101)) {
            let mut bad = pack.clone();
            bad[at] ^= 1;
            let noticed = match open(&bad, &graph) {
                Err(_) => true,
                Ok((header, _, trailer, _)) => {
                    let table = &bad[trailer.table_at as usize..bad.len() - TRAILER_BYTES];
                    trailer.verify(&header, table, &signer.verifying()).is_err()
                }
            };
            assert!(noticed, "byte {at}");
        }
    }
}
