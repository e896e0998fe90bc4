//! Whole objects as a store may give them back, under the keys that open them: as they are, and with hostile texts sealed
//! and signed as a lying writer or maintainer would, so that the decoders behind the seals are reached.

use std::sync::LazyLock;

use copal_engine::crypto::kem::Stanza;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::crypto::{hash, secret::Secret};
use copal_engine::format::base::{Base, SIGNED_BY_ROOT};
use copal_engine::format::blob::{ENTRY_BYTES, Origin};
use copal_engine::format::config::Config;
use copal_engine::format::keys::{GraphKeys, SUITE};
use copal_engine::format::objects;
use copal_engine::format::pack::{self, HeaderOrigin};
use copal_engine::format::pin::Pin;
use copal_engine::format::seal::{self, Place, RECORD_OVERHEAD};
use copal_engine::format::segment::{PAGE_ENTRIES, Segment};
use copal_engine::format::slot::Slot;
use copal_engine::format::snapshot::Stored;
use copal_engine::format::verdict::Verdict;
use copal_engine::id::{RepositoryId, SessionId, WriterId};

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 32]);
const WRITER: WriterId = WriterId::from_bytes([2; 16]);
const SESSION: SessionId = SessionId { n: 3, random: 4 };
const NUMBER: u64 = 5;

static KEYS: LazyLock<GraphKeys> = LazyLock::new(|| GraphKeys::new(&Secret::from_bytes([1; 32])));
static ROOT: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed(Secret::from_bytes([2; 32])));

/// The first byte says what the rest is: an object, or what is sealed into one.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    match how % 6 {
        0 => open_all(bytes),
        1 => open_segment(&segment_of(bytes)),
        2 => pack_of(bytes).as_deref().into_iter().for_each(open_pack),
        3 => open_base(&base_of(bytes)),
        4 => open_verdict(&verdict_of(bytes)),
        _ => open_pin(&pin_of(bytes)),
    }
}

fn open_all(bytes: &[u8]) {
    open_segment(bytes);
    open_pack(bytes);
    open_base(bytes);
    open_verdict(bytes);
    open_pin(bytes);
    let _ = Config::decode(bytes, &ROOT.verifying().fingerprint());
    let _ = Config::peek_repository(bytes);
    if let Ok(slot) = Slot::decode(bytes) {
        assert_eq!(slot.encode(), bytes);
        assert!(slot.open(&Secret::from_bytes([9; 32])).is_none_or(|bundle| bundle.is_ok() || bundle.is_err()));
    }
    if let Ok(stored) = Stored::decode(bytes) {
        let _ = (stored.verify(bytes, &ROOT.verifying()), stored.graph(&KEYS), stored.names(KEYS.records()));
    }
}

fn open_segment(bytes: &[u8]) {
    if let Ok((place, segment)) = Segment::decode(bytes, &KEYS) {
        assert_eq!(segment.encode(&place, &KEYS), bytes);
    }
}

fn open_pack(bytes: &[u8]) {
    if let Ok((header, table, trailer, start)) = pack::open(bytes, &KEYS) {
        for entry in table.entries(0, start) {
            assert!(u64::from(entry.offset) + u64::from(entry.stored) <= trailer.frames_end);
        }
        pack::padding_fits(bytes, &header, &trailer, &KEYS);
        let _ = trailer.verify(&header, bytes, &ROOT.verifying());
    }
}

fn open_base(bytes: &[u8]) {
    let _ = Base::decode(bytes, REPOSITORY, NUMBER, &KEYS, |_| Some(ROOT.verifying()));
}

fn open_verdict(bytes: &[u8]) {
    if let Ok(verdict) = Verdict::decode(bytes, REPOSITORY, NUMBER, &KEYS, &ROOT.verifying()) {
        assert_eq!(verdict.encode(REPOSITORY, NUMBER, &KEYS, &ROOT), bytes);
    }
}

fn open_pin(bytes: &[u8]) {
    if let Ok(pin) = Pin::decode(bytes, REPOSITORY, WRITER, SESSION, &KEYS) {
        let again = pin.encode(REPOSITORY, WRITER, SESSION, &KEYS);
        assert_eq!(Pin::decode(&again, REPOSITORY, WRITER, SESSION, &KEYS), Ok(pin));
    }
}

fn sealed(kind: &'static str, object: &str, ordinal: u32, text: &[u8]) -> Vec<u8> {
    let place = Place { kind, repository: REPOSITORY.as_bytes(), object, ordinal };
    seal::seal_record(KEYS.records(), &place, text)
}

fn length_and_rest(bytes: &[u8]) -> (usize, &[u8]) {
    match bytes.split_first_chunk() {
        Some((len, rest)) => (usize::from(u16::from_le_bytes(*len)).min(rest.len()), rest),
        None => (0, &[]),
    }
}

/// Two bytes that say how long its head is, the head, the texts of its pages.
fn segment_of(bytes: &[u8]) -> Vec<u8> {
    let (len, rest) = length_and_rest(bytes);
    let (head, pages) = rest.split_at(len);
    let object = objects::segment_place(WRITER, SESSION, NUMBER);
    let head = sealed("segment head", &object, 0, head);
    let mut out = [&b"copalix1"[..], &[SUITE], REPOSITORY.as_bytes(), WRITER.as_bytes()].concat();
    for number in [SESSION.n, SESSION.random, NUMBER] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    for (n, page) in pages.chunks(PAGE_ENTRIES * ENTRY_BYTES).enumerate() {
        out.extend_from_slice(&sealed("segment page", &object, n as u32, page));
    }
    out.resize(seal::padme(out.len() as u64) as usize, 0);
    out
}

/// Two bytes that say how long its frames are, the frames, the table's text, which is padded here. Its parts lie where the
/// trailer says, but for what the last byte adds to one of the three numbers.
fn pack_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&lie, bytes) = bytes.split_last()?;
    let (len, rest) = length_and_rest(bytes);
    let (frames, table) = rest.split_at(len);
    let origin = Origin { writer: WRITER, session: SESSION, salt: [6; 32] };
    let stanza = Stanza::from_bytes(&[7; Stanza::LEN]);
    let origins = vec![HeaderOrigin { origin, graph: [8; 32], content: [9; 32], stanza }];
    let header = pack::Header { repository: REPOSITORY, writer: WRITER, session: SESSION, seq: NUMBER, origins };
    let header = header.encode();
    let mut text = [&(table.len() as u32).to_le_bytes(), table].concat();
    text.resize(text.len().next_multiple_of(pack::TABLE_STEP), 0);
    let object = objects::pack_place(WRITER, SESSION, NUMBER);
    let table = sealed("pack table", &object, 0, &text);
    let mut out = [&header[..], frames].concat();
    let mut parts = [out.len() as u64, out.len() as u64, table.len() as u64];
    parts[usize::from(lie) % 3] = parts[usize::from(lie) % 3].wrapping_add(u64::from(lie) / 3);
    out.extend_from_slice(&table);
    let mut trailer = [&parts[0].to_le_bytes()[..], &parts[1].to_le_bytes(), &(parts[2] as u32).to_le_bytes()].concat();
    trailer.extend_from_slice(&hash::blake3(&[&header]));
    trailer.extend_from_slice(&hash::blake3(&[&table]));
    trailer.extend_from_slice(&ROOT.sign("copal 1 pack", &trailer));
    assert_eq!(trailer.len() + RECORD_OVERHEAD, pack::TRAILER_BYTES);
    out.extend_from_slice(&sealed("pack trailer", &object, 0, &trailer));
    Some(out)
}

fn base_of(text: &[u8]) -> Vec<u8> {
    let sealed = sealed("base", &objects::base(NUMBER), 0, text);
    let mut out = [&b"copalba1"[..], &[SUITE], SIGNED_BY_ROOT.as_bytes()].concat();
    out.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
    out.extend_from_slice(&sealed);
    let signature = ROOT.sign("copal 1 base", &out);
    out.extend_from_slice(&signature);
    out
}

/// The list is the text; its length, padding and signature are put around it.
fn verdict_of(list: &[u8]) -> Vec<u8> {
    let mut text = [&(list.len() as u32).to_le_bytes(), list].concat();
    let around = 9 + RECORD_OVERHEAD + 64;
    text.resize(seal::padme((text.len() + around) as u64) as usize - around, 0);
    let signed = [REPOSITORY.as_bytes(), &NUMBER.to_le_bytes()[..], list].concat();
    text.extend_from_slice(&ROOT.sign("copal 1 verdict", &signed));
    [&b"copalck1"[..], &[SUITE], &sealed("verdict", &objects::verdict(NUMBER), 0, &text)].concat()
}

fn pin_of(text: &[u8]) -> Vec<u8> {
    [&b"copalpn1"[..], &[SUITE], &sealed("pin", &objects::pin(WRITER, SESSION), 0, text)].concat()
}
