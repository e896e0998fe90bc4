//! A verdict: which packs were read whole and found sound, and when (docs/format.md "Verdicts").
//!
//! Only an owner stores one, signed by ROOT: a check with READ is the only proof that content is sound, and maintenance
//! trusts nobody else about it.

use crate::crypto::sign::{SIGNATURE_LEN, SigningKey, VerifyingKey};
use crate::id::{PackId, RepositoryId};

use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::{GraphKeys, SUITE};
use super::objects;
use super::seal::{self, Place, RECORD_OVERHEAD};

const MAGIC: &[u8; 8] = b"copalck1";
const SIGNED: &str = "copal 1 verdict";
/// Longest verdict that a reader accepts, in bytes.
pub const VERDICT_BYTES_MAX: u64 = 1 << 30;
/// Most packs of one verdict.
const PACKS_MAX: usize = 1 << 24;
const HEADER: usize = 9;

/// Packs that were verified, sorted by id, each with the time: seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// No pack twice.
    pub packs: Vec<(PackId, u64)>,
}

impl Verdict {
    /// Its list alone: what is signed, and what those who may not store one keep on their machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.packs.is_sorted_by(|a, b| a.0 < b.0), "packs are sorted and unique");
        let mut w = Writer::new();
        w.list(&self.packs, |w, (id, at)| {
            w.raw(id.as_bytes()).varint(*at);
        });
        w.finish()
    }

    /// The reverse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("verdict", bytes);
        let packs = r.list(PACKS_MAX, 33, "packs", |r| Ok((PackId::from_bytes(r.array()?), r.varint()?)))?;
        if !packs.is_sorted_by(|a, b| a.0 < b.0) {
            return r.fail("packs are not in order");
        }
        r.finish()?;
        Ok(Self { packs })
    }

    /// The stored bytes of `check/<n>`, signed.
    pub fn encode(&self, repository: RepositoryId, n: u64, graph: &GraphKeys, root: &SigningKey) -> Vec<u8> {
        let list = self.to_bytes();
        let mut text = Writer::new();
        text.u32(list.len() as u32).raw(&list);
        let mut text = text.finish();
        let len = seal::padme((HEADER + RECORD_OVERHEAD + text.len() + SIGNATURE_LEN) as u64) as usize;
        text.resize(len - HEADER - RECORD_OVERHEAD - SIGNATURE_LEN, 0);
        text.extend_from_slice(&root.sign(SIGNED, &signed(repository, n, &list)));
        let object = objects::verdict(n);
        let mut out = Writer::new();
        out.raw(MAGIC).u8(SUITE).raw(&seal::seal_record(graph.records(), &place(&repository, &object), &text));
        out.finish()
    }

    /// Opens stored bytes, and checks that this root signed them as number `n`.
    pub fn decode(
        bytes: &[u8],
        repository: RepositoryId,
        n: u64,
        graph: &GraphKeys,
        root: &VerifyingKey,
    ) -> Result<Self> {
        let fail = |how: &str| Malformed { what: "verdict", how: how.into() };
        let mut r = Reader::new("verdict", bytes);
        if r.array()? != *MAGIC || r.u8()? != SUITE {
            return r.fail("not a verdict of version 1");
        }
        let object = objects::verdict(n);
        let text = seal::open_record(graph.records(), &place(&repository, &object), r.rest())?;
        let cut = text.len().checked_sub(SIGNATURE_LEN).ok_or_else(|| fail("shorter than a signature"))?;
        let mut r = Reader::new("verdict", &text[..cut]);
        let len = r.u32()? as usize;
        let list = r.raw(len)?;
        let used = HEADER + RECORD_OVERHEAD + SIGNATURE_LEN + 4 + len;
        if bytes.len() as u64 != seal::padme(used as u64) || r.rest().iter().any(|&b| b != 0) {
            return Err(fail("padding is not as it must be"));
        }
        let signature = text[cut..].try_into().expect("cut at its length");
        root.verify(SIGNED, &signed(repository, n, list), &signature)
            .map_err(|_| fail("not signed by the owner of the repository"))?;
        Self::from_bytes(list)
    }
}

fn place<'a>(repository: &'a RepositoryId, object: &'a str) -> Place<'a> {
    Place { kind: "verdict", repository: repository.as_bytes(), object, ordinal: 0 }
}

fn signed(repository: RepositoryId, n: u64, list: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(repository.as_bytes()).u64(n).raw(list);
    w.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use proptest::prelude::*;

    fn setting() -> (GraphKeys, SigningKey, RepositoryId) {
        let graph = GraphKeys::new(&Secret::from_bytes([1; 32]));
        (graph, SigningKey::from_seed(Secret::from_bytes([2; 32])), RepositoryId::from_bytes([3; 32]))
    }

    fn verdict(times: &[u64]) -> Verdict {
        let pack = |n: usize| PackId::from_bytes([n as u8; 32]);
        Verdict { packs: times.iter().enumerate().map(|(n, at)| (pack(n), *at)).collect() }
    }

    proptest! {
        #[test]
        fn verdicts_come_back_and_any_flip_is_noticed(
            times in proptest::collection::vec(any::<u64>(), 0..200),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let (graph, root, repository) = setting();
            let verdict = verdict(&times);
            let mut stored = verdict.encode(repository, 7, &graph, &root);
            prop_assert_eq!(stored.len() as u64, seal::padme(stored.len() as u64));
            prop_assert_eq!(Verdict::decode(&stored, repository, 7, &graph, &root.verifying()), Ok(verdict));
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            prop_assert!(Verdict::decode(&stored, repository, 7, &graph, &root.verifying()).is_err());
        }

        #[test]
        fn whatever_decodes_encodes_to_itself(bytes in proptest::collection::vec(0u8..3, 0..100)) {
            if let Ok(verdict) = Verdict::from_bytes(&bytes) {
                prop_assert_eq!(verdict.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn only_the_owner_signs_and_only_at_its_number() {
        let (graph, root, repository) = setting();
        let stored = verdict(&[5]).encode(repository, 7, &graph, &root);
        let other = SigningKey::from_seed(Secret::from_bytes([9; 32])).verifying();
        assert!(Verdict::decode(&stored, repository, 7, &graph, &other).is_err());
        assert!(Verdict::decode(&stored, repository, 8, &graph, &root.verifying()).is_err());
        let foreign = RepositoryId::from_bytes([4; 32]);
        assert!(Verdict::decode(&stored, foreign, 7, &graph, &root.verifying()).is_err());
    }

    #[test]
    fn packs_out_of_order_are_refused() {
        let mut bytes = vec![2];
        bytes.extend([[1; 33], [1; 33]].concat());
        assert!(Verdict::from_bytes(&bytes).is_err());
    }
}
