//! Sealing: one function for frames, one for everything else (docs/format.md "Sealing").
//!
//! Both derive the key of one AEAD call from a keyed digest of the very text it seals, so one key never seals two texts,
//! also after a clone of the machine or with a dead random generator, and no nonce is coordinated among writers.

use crate::compress::{Compressor, Decompressor};
use crate::crypto::secret::Secret;
use crate::crypto::{aead, hash};
use crate::id::BlobId;

use super::blob::{BlobKind, RAW_BYTES_MAX};
use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::PackKey;

/// Bytes of a frame beside its (compressed) text: tag, header, AEAD tag.
pub const FRAME_OVERHEAD: usize = TAG + FRAME_HEADER + aead::TAG_LEN;
/// Bytes of a record beside its text.
pub const RECORD_OVERHEAD: usize = TAG + aead::TAG_LEN;

const TAG: usize = 32;
/// `kind 1 | codec 1 | level 1 | count 2 | raw length 4`.
const FRAME_HEADER: usize = 9;

/// What stands in front of a frame's text, inside the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Kind of all its blobs.
    pub kind: BlobKind,
    /// Whether the text is compressed with zstd.
    pub compressed: bool,
    /// The level it was compressed with, 0 = not; for `stats` only.
    pub level: i8,
    /// How many blobs stand in it, 1 or more.
    pub count: u16,
    /// Length of the text when decompressed, in bytes.
    pub raw_len: u32,
}

/// Seals frames of one worker: keeps the buffers and contexts that every frame needs.
pub struct FrameSealer {
    level: i32,
    compressor: Compressor,
    decompressor: Decompressor,
    packed: Vec<u8>,
    proof: Vec<u8>,
}

impl FrameSealer {
    /// Compresses at `level`; 0 = not at all.
    pub fn new(level: i32) -> Self {
        Self {
            level,
            compressor: Compressor::new(),
            decompressor: Decompressor::new(),
            packed: Vec::new(),
            proof: Vec::new(),
        }
    }

    /// The one road from plaintext to sealed bytes: compress, encrypt, then open, decompress and compare.
    ///
    /// `raw` is the concatenation of the blobs `ids`, all of `kind`. `ordinal` is the frame's number in its pack, never
    /// used twice under `key`. Appends the frame to `out`.
    ///
    /// # Panics
    /// If what was sealed does not open to what was given: then this machine's memory or code is broken, and storing
    /// the frame would lose data.
    pub fn seal(&mut self, key: &PackKey, ordinal: u32, kind: BlobKind, ids: &[BlobId], raw: &[u8], out: &mut Vec<u8>) {
        assert!(raw.len() <= RAW_BYTES_MAX as usize && !ids.is_empty() && ids.len() <= usize::from(u16::MAX));
        self.packed.clear();
        let compressed = self.level != 0 && self.compressor.compress(raw, self.level, &mut self.packed);
        let text: &[u8] = if compressed { &self.packed } else { raw };
        let level = if compressed { self.level as i8 } else { 0 };
        let header = FrameHeader { kind, compressed, level, count: ids.len() as u16, raw_len: raw.len() as u32 };

        let start = out.len();
        let tag = frame_tag(key, ordinal, ids, &header, text.len());
        out.extend_from_slice(&tag);
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(text);
        let mac = aead::seal_in_place(&frame_key(key, &tag), &mut out[start + TAG..]);
        out.extend_from_slice(&mac);
        self.prove(key, &header, raw, &out[start..]);
    }

    fn prove(&mut self, key: &PackKey, header: &FrameHeader, raw: &[u8], frame: &[u8]) {
        self.packed.clear();
        self.packed.extend_from_slice(frame);
        let opened = open_frame(key, &mut self.packed).expect("a frame just sealed opens");
        assert!(opened.0 == *header, "a frame just sealed has its header");
        if header.compressed {
            self.proof.clear();
            self.decompressor
                .decompress(opened.1, raw.len(), &mut self.proof)
                .expect("a frame just compressed decompresses");
            assert!(self.proof == raw, "a frame just compressed gives its text back");
        } else {
            assert!(opened.1 == raw, "a frame just sealed gives its text back");
        }
    }
}

/// Opens and decompresses frames of one worker.
#[derive(Default)]
pub struct FrameOpener {
    decompressor: Decompressor,
}

impl FrameOpener {
    /// The text of a frame: the concatenation of its blobs. Whether each blob has its id is the caller's to verify.
    ///
    /// `frame` is overwritten; the text is written to `out` (cleared first).
    pub fn open(&mut self, key: &PackKey, frame: &mut [u8], out: &mut Vec<u8>) -> Result<FrameHeader> {
        let (header, text) = open_frame(key, frame)?;
        out.clear();
        if header.compressed {
            self.decompressor
                .decompress(text, header.raw_len as usize, out)
                .map_err(|e| Malformed { what: "frame", how: e.to_string() })?;
        } else {
            out.extend_from_slice(text);
        }
        Ok(header)
    }
}

impl FrameHeader {
    fn to_bytes(self) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[0] = self.kind as u8;
        out[1] = u8::from(self.compressed);
        out[2] = self.level as u8;
        out[3..5].copy_from_slice(&self.count.to_le_bytes());
        out[5..].copy_from_slice(&self.raw_len.to_le_bytes());
        out
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let kind = BlobKind::read(r)?;
        let compressed = match r.u8()? {
            0 => false,
            1 => true,
            other => return r.fail(format!("codec {other} is unknown")),
        };
        let level = r.u8()? as i8;
        let count = u16::from_le_bytes(r.array()?);
        let raw_len = r.u32()?;
        if raw_len > RAW_BYTES_MAX || count == 0 {
            return r.fail("length or count out of range");
        }
        Ok(Self { kind, compressed, level, count, raw_len })
    }
}

fn open_frame<'a>(key: &PackKey, frame: &'a mut [u8]) -> Result<(FrameHeader, &'a [u8])> {
    let fail = |how: &str| Malformed { what: "frame", how: how.into() };
    if frame.len() < FRAME_OVERHEAD {
        return Err(fail("shorter than a frame can be"));
    }
    let (tag, sealed) = frame.split_at_mut(TAG);
    let tag: [u8; TAG] = (&*tag).try_into().expect("split at its length");
    let plain = aead::open_in_place(&frame_key(key, &tag), sealed).map_err(|_| fail("does not open with its key"))?;
    let mut r = Reader::new("frame", plain);
    let header = FrameHeader::read(&mut r)?;
    let text = r.rest();
    if !header.compressed && text.len() != header.raw_len as usize {
        return Err(fail("text is not as long as its header says"));
    }
    Ok((header, text))
}

fn frame_tag(key: &PackKey, ordinal: u32, ids: &[BlobId], header: &FrameHeader, text_len: usize) -> [u8; TAG] {
    let digest = match ids {
        [one] => *one.as_bytes(),
        many => {
            let parts: Vec<&[u8]> =
                std::iter::once(&b"group"[..]).chain(many.iter().map(|id| &id.as_bytes()[..])).collect();
            hash::keyed(&key.0, &parts)
        }
    };
    let lengths = (text_len as u32).to_le_bytes();
    hash::keyed(&key.0, &[b"frame", &ordinal.to_le_bytes(), &digest, &header.to_bytes(), &lengths])
}

fn frame_key(key: &PackKey, tag: &[u8; TAG]) -> Secret {
    hash::keyed_secret(&key.0, &[b"key", tag])
}

/// Where a record stands, so that it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What it is, e.g. `segment page`.
    pub kind: &'static str,
    /// In which repository.
    pub repository: &'a [u8; 32],
    /// Key of the object without its hash.
    pub object: &'a str,
    /// Number among the records of its kind in that object.
    pub ordinal: u32,
}

/// Seals everything that is no frame: `digest 32 | AES-256-GCM(text)`.
pub fn seal_record(class_key: &Secret, place: &Place<'_>, text: &[u8]) -> Vec<u8> {
    let digest = record_digest(class_key, place, text);
    let mut out = Vec::with_capacity(text.len() + RECORD_OVERHEAD);
    out.extend_from_slice(&digest);
    out.extend_from_slice(text);
    let mac = aead::seal_in_place(&hash::keyed_secret(class_key, &[b"key", &digest]), &mut out[TAG..]);
    out.extend_from_slice(&mac);
    out
}

/// Opens what [`seal_record`] sealed at the same place.
pub fn open_record(class_key: &Secret, place: &Place<'_>, sealed: &[u8]) -> Result<Vec<u8>> {
    let fail = |how: &str| Malformed { what: place.kind, how: how.into() };
    if sealed.len() < RECORD_OVERHEAD {
        return Err(fail("shorter than a sealed record can be"));
    }
    let (digest, body) = sealed.split_at(TAG);
    let mut body = body.to_vec();
    let key = hash::keyed_secret(class_key, &[b"key", digest]);
    let len = aead::open_in_place(&key, &mut body).map_err(|_| fail("does not open with this key"))?.len();
    body.truncate(len);
    if record_digest(class_key, place, &body) != *digest {
        return Err(fail("stood somewhere else when it was sealed"));
    }
    Ok(body)
}

fn record_digest(class_key: &Secret, place: &Place<'_>, text: &[u8]) -> [u8; TAG] {
    let mut head = Writer::new();
    head.bytes(place.kind.as_bytes()).raw(place.repository).bytes(place.object.as_bytes()).u32(place.ordinal);
    hash::keyed(class_key, &[&head.finish(), text])
}

/// Length to pad `len` to, so that it tells at most log log of itself: PADME (Nikitin et al., "Reducing Metadata Leakage
/// from Encrypted Files and Communication with PURBs", PoPETs 2019, section 4). At most 12 % more.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let e = len.ilog2();
    let s = e.ilog2() + 1;
    let mask = (1u64 << e.saturating_sub(s)) - 1;
    (len + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blob::Origin;
    use crate::format::keys::{GraphKeys, SessionSecret};
    use crate::id::{RepositoryId, SessionId, WriterId};
    use proptest::prelude::*;

    fn key(salt: u8) -> PackKey {
        let origin =
            Origin { writer: WriterId::from_bytes([1; 16]), session: SessionId { n: 1, random: 2 }, salt: [salt; 32] };
        PackKey::content(&SessionSecret(Secret::from_bytes([9; 32])), RepositoryId::from_bytes([3; 32]), &origin)
    }

    proptest! {
        #[test]
        fn frames_come_back(raw in proptest::collection::vec(0u8..4, 0..5000), level in 0i32..4, salt: u8) {
            let ids = [BlobId::from_bytes([5; 32]), BlobId::from_bytes([6; 32])];
            let mut frame = Vec::new();
            FrameSealer::new(level).seal(&key(salt), 7, BlobKind::Data, &ids, &raw, &mut frame);
            let mut again = Vec::new();
            FrameSealer::new(level).seal(&key(salt), 7, BlobKind::Data, &ids, &raw, &mut again);
            prop_assert_eq!(&frame, &again);
            let mut out = Vec::new();
            let header = FrameOpener::default().open(&key(salt), &mut frame.clone(), &mut out).unwrap();
            prop_assert_eq!(header.count, 2);
            prop_assert_eq!(out, raw);
            prop_assert!(FrameOpener::default().open(&key(!salt), &mut frame, &mut Vec::new()).is_err());
        }

        #[test]
        fn any_flipped_bit_is_noticed(raw in proptest::collection::vec(any::<u8>(), 0..500), at: prop::sample::Index, bit in 0u8..8) {
            let mut frame = Vec::new();
            FrameSealer::new(1).seal(&key(1), 0, BlobKind::Meta, &[BlobId::from_bytes([5; 32])], &raw, &mut frame);
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            prop_assert!(FrameOpener::default().open(&key(1), &mut frame, &mut Vec::new()).is_err());
        }

        #[test]
        fn padme_is_small_and_monotone(len in 0u64..1 << 40) {
            let padded = padme(len);
            prop_assert!(padded >= len && padded - len <= len / 8);
            prop_assert_eq!(padme(padded), padded);
        }
    }

    #[test]
    fn records_open_only_where_they_were_sealed() {
        let keys = GraphKeys::new(&Secret::from_bytes([4; 32]));
        let place = Place { kind: "page", repository: &[1; 32], object: "idx/a", ordinal: 3 };
        let sealed = seal_record(keys.records(), &place, b"text");
        assert_eq!(open_record(keys.records(), &place, &sealed).unwrap(), b"text");
        for wrong in [
            Place { kind: "head", ..place },
            Place { repository: &[2; 32], ..place },
            Place { object: "idx/b", ..place },
            Place { ordinal: 4, ..place },
        ] {
            assert!(open_record(keys.records(), &wrong, &sealed).is_err());
        }
    }
}
