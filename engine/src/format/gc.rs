//! What maintenance and sessions tell each other while packs are given up: condemn, fence, sweep, forget, tombstone and ack
//! (docs/format.md "Maintenance", docs/protocol.md).
//!
//! All of them are one signed record of the graph class. A maintainer signs them, or ROOT; an ack its session's writer.

use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::id::{PackId, SessionId, WriterId};

use super::codec::{Reader, Result, Writer};
use super::node::Timestamp;
use super::seal;
use super::signed::{AROUND, Envelope};
use super::snapshot::{SnapshotRef, read_ref, write_ref};

pub use super::signed::At;

/// Longest object of these kinds that a reader accepts, in bytes.
pub const GC_BYTES_MAX: u64 = 1 << 30;
/// Longest record of forgotten snapshots, in bytes.
pub const FORGET_BYTES_MAX: u64 = 16 << 20;
/// Longest tombstone, in bytes.
pub const TOMBSTONE_BYTES_MAX: u64 = 64 << 10;
const PACKS_MAX: usize = 1 << 22;
const SESSIONS_MAX: usize = 1 << 22;
const WRITERS_MAX: usize = 65_536;

/// A pack that is given up, as `gc/` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackRef {
    /// Hash of its bytes.
    pub id: PackId,
    /// Who stored it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Number within the session.
    pub seq: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// What shall go: `gc/<generation>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condemn {
    /// The floors that are proposed: sessions of a writer with a lower number give way. Sorted by writer.
    pub floors: Vec<(WriterId, u64)>,
    /// Sorted by id.
    pub packs: Vec<PackRef>,
}

/// What goes, claims and live blobs left out: `gc/<generation>.sweep`. From here on it counts in place of the condemn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Sessions that the generation's fence found without a snapshot. Sorted.
    pub dead: Vec<(WriterId, SessionId)>,
    /// Sorted by id.
    pub packs: Vec<PackRef>,
}

/// Sessions that must not commit, where tombstones cannot be created: `gc/<generation>.fence`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fence {
    /// Sorted.
    pub sessions: Vec<(WriterId, SessionId)>,
}

/// Snapshots that nobody wants any more: `forget/<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forget {
    /// When it was asked for.
    pub time: Timestamp,
    /// Sorted.
    pub snapshots: Vec<SnapshotRef>,
}

/// Ends a session: it stands at the key of the snapshot that the session would have made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tombstone {
    /// The generation that the session held up; 0: none.
    pub generation: u64,
}

/// A session's answer to a condemn: `pin/<writer>/<session>.<generation>`. It reuses none of the condemned packs from now on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ack {
    /// The condemned packs that it has reused, adopted or written. Sorted.
    pub claims: Vec<PackId>,
}

/// One of the kinds of this module.
pub trait Kind: Sized {
    /// First bytes of the object.
    const MAGIC: &'static [u8; 8];
    /// Kind of its record.
    const KIND: &'static str;

    /// Appends its fields.
    fn write(&self, w: &mut Writer);
    /// Takes them.
    fn read(r: &mut Reader<'_>) -> Result<Self>;

    /// The stored bytes, signed by `who`.
    fn encode(&self, at: At<'_>, who: WriterId, signer: &SigningKey) -> Vec<u8> {
        let mut text = Writer::new();
        self.write(&mut text);
        envelope::<Self>().seal(at, text, who, signer)
    }

    /// The reverse; `signer_of` gives the key of who may sign this object.
    fn decode(bytes: &[u8], at: At<'_>, signer_of: impl FnOnce(WriterId) -> Option<VerifyingKey>) -> Result<Self> {
        let text = envelope::<Self>().open(bytes, at, signer_of)?;
        let mut r = Reader::new(Self::KIND, &text);
        let value = Self::read(&mut r)?;
        let used = text.len() - r.left() + AROUND;
        if bytes.len() as u64 != seal::padme(used as u64) || r.rest().iter().any(|&b| b != 0) {
            return r.fail("padding is not as it must be");
        }
        Ok(value)
    }
}

fn envelope<K: Kind>() -> Envelope {
    Envelope { magic: K::MAGIC, kind: K::KIND, context: "copal 1 maintenance", signers: "anybody who may" }
}

impl Kind for Condemn {
    const MAGIC: &'static [u8; 8] = b"copalgc1";
    const KIND: &'static str = "condemn";

    fn write(&self, w: &mut Writer) {
        assert!(self.floors.is_sorted_by(|a, b| a.0 < b.0), "writers are sorted and unique");
        w.list(&self.floors, |w, (writer, n)| {
            w.raw(writer.as_bytes()).varint(*n);
        });
        write_packs(w, &self.packs);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let floors = r.list(WRITERS_MAX, 17, "floors", |r| Ok((r.writer()?, r.varint()?)))?;
        if !floors.is_sorted_by(|a, b| a.0 < b.0) {
            return r.fail("floors are not in order");
        }
        Ok(Self { floors, packs: read_packs(r)? })
    }
}

impl Kind for Sweep {
    const MAGIC: &'static [u8; 8] = b"copalsw1";
    const KIND: &'static str = "sweep";

    fn write(&self, w: &mut Writer) {
        write_sessions(w, &self.dead);
        write_packs(w, &self.packs);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { dead: read_sessions(r)?, packs: read_packs(r)? })
    }
}

impl Kind for Fence {
    const MAGIC: &'static [u8; 8] = b"copalfe1";
    const KIND: &'static str = "fence";

    fn write(&self, w: &mut Writer) {
        write_sessions(w, &self.sessions);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { sessions: read_sessions(r)? })
    }
}

impl Kind for Forget {
    const MAGIC: &'static [u8; 8] = b"copalfo1";
    const KIND: &'static str = "forget";

    fn write(&self, w: &mut Writer) {
        assert!(self.snapshots.is_sorted_by(|a, b| a < b), "snapshots are sorted and unique");
        w.time(self.time).list(&self.snapshots, write_ref);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let time = r.time()?;
        let snapshots = r.list(SESSIONS_MAX, 64, "snapshots", read_ref)?;
        if !snapshots.is_sorted_by(|a, b| a < b) {
            return r.fail("snapshots are not in order");
        }
        Ok(Self { time, snapshots })
    }
}

impl Kind for Tombstone {
    const MAGIC: &'static [u8; 8] = b"copalto1";
    const KIND: &'static str = "tombstone";

    fn write(&self, w: &mut Writer) {
        w.varint(self.generation);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { generation: r.varint()? })
    }
}

impl Kind for Ack {
    const MAGIC: &'static [u8; 8] = b"copalak1";
    const KIND: &'static str = "ack";

    fn write(&self, w: &mut Writer) {
        assert!(self.claims.is_sorted_by(|a, b| a < b), "claims are sorted and unique");
        w.list(&self.claims, |w, id| {
            w.raw(id.as_bytes());
        });
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let claims = r.list(PACKS_MAX, 32, "claims", |r| Ok(PackId::from_bytes(r.array()?)))?;
        if !claims.is_sorted_by(|a, b| a < b) {
            return r.fail("claims are not in order");
        }
        Ok(Self { claims })
    }
}

fn write_packs(w: &mut Writer, packs: &[PackRef]) {
    assert!(packs.is_sorted_by(|a, b| a.id < b.id), "packs are sorted and unique");
    w.list(packs, |w, p| {
        w.raw(p.id.as_bytes()).raw(p.writer.as_bytes()).session(p.session).varint(p.seq).varint(p.size);
    });
}

fn read_packs(r: &mut Reader<'_>) -> Result<Vec<PackRef>> {
    let packs = r.list(PACKS_MAX, 66, "packs", |r| {
        Ok(PackRef {
            id: PackId::from_bytes(r.array()?),
            writer: r.writer()?,
            session: r.session()?,
            seq: r.varint()?,
            size: r.varint()?,
        })
    })?;
    if packs.is_sorted_by(|a, b| a.id < b.id) { Ok(packs) } else { r.fail("packs are not in order") }
}

fn write_sessions(w: &mut Writer, sessions: &[(WriterId, SessionId)]) {
    assert!(sessions.is_sorted_by(|a, b| a < b), "sessions are sorted and unique");
    w.list(sessions, |w, (writer, session)| {
        w.raw(writer.as_bytes()).session(*session);
    });
}

fn read_sessions(r: &mut Reader<'_>) -> Result<Vec<(WriterId, SessionId)>> {
    let sessions = r.list(SESSIONS_MAX, 32, "sessions", |r| Ok((r.writer()?, r.session()?)))?;
    if sessions.is_sorted_by(|a, b| a < b) { Ok(sessions) } else { r.fail("sessions are not in order") }
}

/// Reads stored bytes as each of the kinds, their signatures not asked for: for fuzzing.
#[doc(hidden)]
pub fn fuzz_texts(text: &[u8]) {
    fn again<K: Kind>(text: &[u8]) {
        let mut r = Reader::new(K::KIND, text);
        if let Ok(value) = K::read(&mut r) {
            let mut w = Writer::new();
            value.write(&mut w);
            assert_eq!(w.finish(), text[..text.len() - r.left()], "one value has one encoding");
        }
    }
    again::<Condemn>(text);
    again::<Sweep>(text);
    again::<Fence>(text);
    again::<Forget>(text);
    again::<Tombstone>(text);
    again::<Ack>(text);
}

#[cfg(test)]
mod tests {
    use super::super::{keys::GraphKeys, objects};
    use super::*;
    use crate::crypto::hash;
    use crate::crypto::secret::Secret;
    use crate::id::{RepositoryId, SnapshotId, hex};
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn setting() -> (GraphKeys, SigningKey, RepositoryId) {
        let keys = GraphKeys::new(&Secret::from_bytes([1; 32]));
        (keys, SigningKey::from_seed(Secret::from_bytes([2; 32])), RepositoryId::from_bytes([3; 32]))
    }

    const WHO: WriterId = WriterId::from_bytes([4; 16]);
    const RUN: SessionId = SessionId { n: 5, random: 6 };

    fn pack(n: u8) -> PackRef {
        PackRef { id: PackId::from_bytes([n; 32]), writer: WHO, session: RUN, seq: n.into(), size: 300 }
    }

    /// It comes back at its key and with its signer only, and one flipped bit anywhere ends it; the hash of its bytes.
    fn holds<K: Kind + Debug + PartialEq>(value: K, object: &str) -> String {
        let (keys, signer, repository) = setting();
        let at = At { repository, object, keys: &keys };
        let stored = value.encode(at, WHO, &signer);
        let read = |bytes: &[u8], at: At<'_>, key: Option<VerifyingKey>| {
            K::decode(bytes, at, |who| key.filter(|_| who == WHO)).ok()
        };
        assert_eq!(seal::padme(stored.len() as u64), stored.len() as u64);
        assert_eq!(read(&stored, at, Some(signer.verifying())), Some(value));
        assert_eq!(read(&stored, At { object: "gc/00000000000000ff", ..at }, Some(signer.verifying())), None);
        let other = SigningKey::from_seed(Secret::from_bytes([9; 32])).verifying();
        assert_eq!((read(&stored, at, Some(other)), read(&stored, at, None)), (None, None));
        for n in 0..stored.len() {
            let mut bad = stored.clone();
            bad[n] ^= 1;
            assert_eq!(read(&bad, at, Some(signer.verifying())), None, "byte {n}");
        }
        assert_eq!(read(&[&stored[..], &[0]].concat(), at, Some(signer.verifying())), None);
        hex(&hash::blake3(&[&stored])[..8])
    }

    #[test]
    fn every_kind_comes_back_and_its_bytes_are_fixed() {
        let condemn = Condemn { floors: vec![(WHO, 7)], packs: vec![pack(1), pack(2)] };
        let sweep = Sweep { dead: vec![(WHO, RUN)], packs: vec![pack(2)] };
        let forget = Forget {
            time: Timestamp { secs: 1_700_000_000, nanos: 8 },
            snapshots: vec![SnapshotRef { writer: WHO, session: RUN, id: SnapshotId::from_bytes([9; 32]) }],
        };
        let ack = Ack { claims: vec![PackId::from_bytes([1; 32])] };
        let got = [
            holds(condemn, &objects::condemn(1)),
            holds(sweep, &objects::sweep(1)),
            holds(Fence { sessions: vec![(WHO, RUN)] }, &objects::fence(1)),
            holds(forget, &objects::forget(1)),
            holds(Tombstone { generation: 1 }, &objects::snapshot(WHO, RUN)),
            holds(ack, &objects::ack(WHO, RUN, 1)),
        ];
        assert_eq!(got, VECTORS);
    }

    /// The first eight bytes of the hashes of what the test above stores, as a program made from docs/format.md gives them too.
    const VECTORS: [&str; 6] = [
        "0198edfe2e34c113",
        "cff92ff039891b3b",
        "fdafc2e83499d62f",
        "3493ad025fcb66c1",
        "0625d9f7ca4f2286",
        "50df9b717e54472a",
    ];

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_itself(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_texts(&text);
        }
    }
}
