//! A base: the folded state of the repository, so that nobody needs to read every segment since its beginning
//! (docs/format.md "Bases").

use crate::crypto::hash;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::id::{ObjectHash, PackId, RepositoryId, SegmentId, SessionId, WriterId};

use super::codec::{Reader, Result, Writer};
use super::keys::GraphKeys;
use super::objects;
use super::signed::{At, Envelope};
use super::snapshot::{SnapshotRef, read_ref, write_ref};

const ENVELOPE: Envelope =
    Envelope { magic: b"copalba1", kind: "base", context: "copal 1 base", signers: "an owner or maintainer" };
/// Longest base that a reader accepts, in bytes.
pub const BASE_BYTES_MAX: u64 = 1 << 30;
const SEGMENTS_MAX: usize = 1 << 20;
const SNAPSHOTS_MAX: usize = 1 << 24;
const PACKS_MAX: usize = 1 << 22;
const WRITERS_MAX: usize = 65_536;
const GENERATIONS_MAX: usize = 1 << 16;

/// A segment that a base lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentRef {
    /// Who stored it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Number within the session.
    pub n: u64,
    /// Hash of its bytes.
    pub id: SegmentId,
    /// Its size in bytes.
    pub size: u64,
}

/// What a base says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base {
    /// Hash of the base before.
    pub previous: Option<ObjectHash>,
    /// All segments of the snapshots below, or merged ones that hold the same entries. Sorted.
    pub segments: Vec<SegmentRef>,
    /// The snapshots whose segments are among those, forgotten ones included until the floor passes them. Sorted.
    pub snapshots: Vec<SnapshotRef>,
    /// Snapshots that were forgotten, as long as a kept one names them. Sorted.
    pub forgotten: Vec<SnapshotRef>,
    /// Packs that were given up and that a listed segment still mentions. Sorted.
    pub dropped: Vec<PackId>,
    /// Sessions of a writer below its number that are not among `snapshots` are dead. Sorted by writer.
    pub floors: Vec<(WriterId, u64)>,
    /// Sessions that a sweep has declared dead, until the floor passes them. Sorted.
    pub dead: Vec<(WriterId, SessionId)>,
    /// Generations that were executed: all that may still stand under `gc/`, and the highest ever. Sorted.
    pub done: Vec<u64>,
    /// All forgets up to this number are part of it; 0: none.
    pub forgets: u64,
}

/// Id of the signer when it is ROOT itself.
pub const SIGNED_BY_ROOT: WriterId = WriterId::from_bytes([0; 16]);

impl Base {
    /// The stored bytes of base number `n`, signed by `signer`: a maintainer's id, or [`SIGNED_BY_ROOT`].
    pub fn encode(
        &self,
        repository: RepositoryId,
        n: u64,
        keys: &GraphKeys,
        who: WriterId,
        signer: &SigningKey,
    ) -> Vec<u8> {
        assert!(self.is_sorted());
        let mut text = Writer::new();
        text.option(self.previous, |w, h| {
            w.raw(h.as_bytes());
        });
        text.list(&self.segments, |w, s| {
            w.raw(s.writer.as_bytes()).session(s.session).varint(s.n).raw(s.id.as_bytes()).varint(s.size);
        });
        for snapshots in [&self.snapshots, &self.forgotten] {
            text.list(snapshots, write_ref);
        }
        text.list(&self.dropped, |w, id| {
            w.raw(id.as_bytes());
        });
        text.list(&self.floors, |w, (writer, n)| {
            w.raw(writer.as_bytes()).varint(*n);
        });
        text.list(&self.dead, |w, (writer, session)| {
            w.raw(writer.as_bytes()).session(*session);
        });
        text.list(&self.done, |w, generation| {
            w.varint(*generation);
        });
        text.varint(self.forgets);
        let object = objects::base(n);
        ENVELOPE.seal(At { repository, object: &object, keys }, text, who, signer)
    }

    /// Reads base number `n`; `signer_of` gives the key of a maintainer that is trusted, or of ROOT.
    pub fn decode(
        bytes: &[u8],
        repository: RepositoryId,
        n: u64,
        keys: &GraphKeys,
        signer_of: impl FnOnce(WriterId) -> Option<VerifyingKey>,
    ) -> Result<Self> {
        let object = objects::base(n);
        Self::read(&ENVELOPE.open(bytes, At { repository, object: &object, keys }, signer_of)?)
    }

    pub(super) fn read(text: &[u8]) -> Result<Self> {
        let mut r = Reader::new("base", text);
        let base = Self {
            previous: r.option(|r| Ok(ObjectHash::from_bytes(r.array()?)))?,
            segments: r.list(SEGMENTS_MAX, 66, "segments", |r| {
                Ok(SegmentRef {
                    writer: r.writer()?,
                    session: r.session()?,
                    n: r.varint()?,
                    id: SegmentId::from_bytes(r.array()?),
                    size: r.varint()?,
                })
            })?,
            snapshots: r.list(SNAPSHOTS_MAX, 64, "snapshots", read_ref)?,
            forgotten: r.list(SNAPSHOTS_MAX, 64, "forgotten snapshots", read_ref)?,
            dropped: r.list(PACKS_MAX, 32, "dropped packs", |r| Ok(PackId::from_bytes(r.array()?)))?,
            floors: r.list(WRITERS_MAX, 17, "floors", |r| Ok((r.writer()?, r.varint()?)))?,
            dead: r.list(SNAPSHOTS_MAX, 32, "dead sessions", |r| Ok((r.writer()?, r.session()?)))?,
            done: r.list(GENERATIONS_MAX, 1, "generations", Reader::varint)?,
            forgets: r.varint()?,
        };
        if !base.is_sorted() {
            return r.fail("its lists are not in order");
        }
        if r.rest().iter().any(|&b| b != 0) {
            return r.fail("padding is not as it must be");
        }
        Ok(base)
    }

    fn is_sorted(&self) -> bool {
        self.segments.is_sorted_by(|a, b| a < b)
            && self.snapshots.is_sorted_by(|a, b| a < b)
            && self.forgotten.is_sorted_by(|a, b| a < b)
            && self.dropped.is_sorted_by(|a, b| a < b)
            && self.floors.is_sorted_by(|a, b| a.0 < b.0)
            && self.dead.is_sorted_by(|a, b| a < b)
            && self.done.is_sorted_by(|a, b| a < b)
    }

    /// BLAKE3 of stored bytes: the next base and views name it.
    pub fn hash(stored: &[u8]) -> ObjectHash {
        ObjectHash::from_bytes(hash::blake3(&[stored]))
    }

    /// Whether the snapshot is folded into it.
    pub fn holds(&self, snapshot: &SnapshotRef) -> bool {
        self.snapshots.binary_search(snapshot).is_ok()
    }

    /// The number that sessions of `writer` must not be below; 0: any.
    pub fn floor(&self, writer: WriterId) -> u64 {
        self.floors.binary_search_by_key(&writer, |f| f.0).map_or(0, |at| self.floors[at].1)
    }

    /// Whether the session was given up: nothing that it committed counts (docs/protocol.md W8).
    pub fn is_dead(&self, snapshot: &SnapshotRef) -> bool {
        let (writer, session) = (snapshot.writer, snapshot.session);
        let below = session.n < self.floor(writer) || self.dead.binary_search(&(writer, session)).is_ok();
        below && !self.holds(snapshot)
    }

    /// Whether it was forgotten.
    pub fn has_forgotten(&self, snapshot: &SnapshotRef) -> bool {
        self.forgotten.binary_search(snapshot).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::id::SnapshotId;

    #[test]
    fn bases_come_back_and_strangers_sign_none() {
        let keys = GraphKeys::new(&Secret::from_bytes([1; 32]));
        let signer = SigningKey::from_seed(Secret::from_bytes([2; 32]));
        let repository = RepositoryId::from_bytes([3; 32]);
        let (writer, session) = (WriterId::from_bytes([4; 16]), SessionId { n: 5, random: 6 });
        let base = Base {
            previous: Some(ObjectHash::from_bytes([7; 32])),
            segments: vec![SegmentRef { writer, session, n: 0, id: SegmentId::from_bytes([8; 32]), size: 9 }],
            snapshots: vec![SnapshotRef { writer, session, id: SnapshotId::from_bytes([10; 32]) }],
            forgotten: vec![SnapshotRef { writer, session, id: SnapshotId::from_bytes([12; 32]) }],
            dropped: vec![PackId::from_bytes([13; 32])],
            floors: vec![(writer, 6)],
            dead: vec![(writer, SessionId { n: 7, random: 1 })],
            done: vec![1, 4],
            forgets: 2,
        };
        let at = |n, random, id| SnapshotRef {
            writer,
            session: SessionId { n, random },
            id: SnapshotId::from_bytes([id; 32]),
        };
        assert!(!base.is_dead(&at(5, 6, 10)), "it is known");
        assert!(base.is_dead(&at(5, 6, 11)) && base.is_dead(&at(3, 6, 10)) && base.is_dead(&at(7, 1, 10)));
        assert!(!base.is_dead(&at(6, 0, 10)), "at the floor");
        let stored = base.encode(repository, 3, &keys, SIGNED_BY_ROOT, &signer);
        let read = |bytes: &[u8], n, key: Option<VerifyingKey>| Base::decode(bytes, repository, n, &keys, |_| key);
        assert_eq!(read(&stored, 3, Some(signer.verifying())), Ok(base));
        assert!(read(&stored, 4, Some(signer.verifying())).is_err(), "another number");
        assert!(read(&stored, 3, None).is_err());
        let other = SigningKey::from_seed(Secret::from_bytes([11; 32])).verifying();
        assert!(read(&stored, 3, Some(other)).is_err());
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert!(read(&bad, 3, Some(signer.verifying())).is_err(), "byte {at}");
        }
    }
}
