//! The config: what a repository is, signed by ROOT (docs/format.md "Config").
//!
//! It stands in clear and holds random ids and public keys only. Whoever opens a repository knows ROOT's fingerprint
//! from the bundle: recipients and writers are never taken from the store on trust.

use crate::crypto::hash;
use crate::crypto::kem::{ReadPublic, Stanza};
use crate::crypto::sign::{SIGNATURE_LEN, SigningKey, VerifyingKey};
use crate::id::{ObjectHash, RepositoryId, SessionId, WriterId};

use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::SUITE;
use super::node::Timestamp;

const MAGIC: &[u8; 8] = b"copalcf1";
const SIGNED: &str = "copal 1 config";
/// Longest config that a reader accepts, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;
const MEMBERS_MAX: usize = 65_536;

/// How files are cut (docs/format.md "Chunking").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParams {
    /// Shortest chunk in bytes.
    pub min: u32,
    /// Average chunk in bytes.
    pub avg: u32,
    /// Longest chunk in bytes.
    pub max: u32,
    /// Level of normalised chunking, 0 to 3.
    pub normalization: u8,
}

/// What a program must refuse when it does not know a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// Restore, list, mount.
    Read = 1,
    /// Back up.
    Write = 2,
    /// Forget, prune, fold.
    Maintain = 4,
    /// Check.
    Check = 8,
}

/// Something that not every program of version 1 knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name, 1 to 64 bytes of `[a-z0-9-]`.
    pub name: String,
    /// Bits of [`Use`].
    pub refuse: u8,
}

/// What the racing probe found the store to hold to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreVerdict {
    /// 2 = one of racing creators wins, 1 = refused only in sequence, 0 = overwritten.
    pub create_only: u8,
    /// Whether LIST showed every write at once.
    pub strong_list: bool,
}

/// One key pair that sessions seal their secrets to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Its public half.
    pub public: ReadPublic,
    /// Its secret half, sealed to the next recipient; absent in the last, which new sessions use.
    pub handed_on: Option<Stanza>,
}

/// A writer that is no longer trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Base that was made before it was revoked, 0 = none.
    pub base: u64,
    /// Its last session that counts; later ones are ignored.
    pub last: Option<SessionId>,
}

/// Somebody whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Random id: for a writer, the one in its keys.
    pub id: WriterId,
    /// Verifies its signatures.
    pub key: VerifyingKey,
    /// Whether it may forget, fold and prune.
    pub maintainer: bool,
    /// Set once it is no longer trusted.
    pub revoked: Option<Revocation>,
}

/// One epoch of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which repository.
    pub repository: RepositoryId,
    /// 1, and one more for each change.
    pub epoch: u64,
    /// Hash of the epoch before.
    pub previous: Option<ObjectHash>,
    /// Verifies this config. Its fingerprint stands in every bundle.
    pub root: VerifyingKey,
    /// When this epoch was made.
    pub time: Timestamp,
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// Sorted by name.
    pub features: Vec<Feature>,
    /// What the store holds to.
    pub store: StoreVerdict,
    /// Oldest first; one or more.
    pub recipients: Vec<Recipient>,
    /// Sorted by id.
    pub members: Vec<Member>,
}

impl Config {
    /// The stored bytes, signed.
    pub fn encode(&self, root: &SigningKey) -> Vec<u8> {
        assert!(root.verifying() == self.root, "signed by the root that it names");
        let mut out = self.signed();
        let signature = root.sign(SIGNED, &out);
        out.extend_from_slice(&signature);
        out
    }

    fn signed(&self) -> Vec<u8> {
        assert!(!self.recipients.is_empty() && self.members.is_sorted_by(|a, b| a.id < b.id));
        let mut w = Writer::new();
        w.raw(MAGIC).u8(SUITE).raw(self.repository.as_bytes()).u64(self.epoch);
        w.option(self.previous, |w, h| {
            w.raw(h.as_bytes());
        });
        w.raw(self.root.as_bytes()).time(self.time);
        w.u32(self.chunker.min).u32(self.chunker.avg).u32(self.chunker.max).u8(self.chunker.normalization);
        w.list(&self.features, |w, f| {
            w.bytes(f.name.as_bytes()).u8(f.refuse);
        });
        w.u8(self.store.create_only).u8(u8::from(self.store.strong_list));
        w.list(&self.recipients, |w, r| {
            w.raw(r.public.as_bytes()).option(r.handed_on.as_ref(), |w, s| {
                w.raw(&s.to_bytes());
            });
        });
        w.list(&self.members, |w, m| {
            w.raw(m.id.as_bytes()).raw(m.key.as_bytes()).u8(u8::from(m.maintainer));
            w.option(m.revoked, |w, r| {
                w.varint(r.base).option(r.last, |w, s| {
                    w.session(s);
                });
            });
        });
        w.finish()
    }

    /// Reads stored bytes, and checks that the root with this `fingerprint` signed them.
    pub fn decode(bytes: &[u8], fingerprint: &[u8; 32]) -> Result<Self> {
        let fail = |how: &str| Malformed { what: "config", how: how.into() };
        let cut = bytes.len().checked_sub(SIGNATURE_LEN).ok_or_else(|| fail("shorter than a signature"))?;
        let config = Self::read(&bytes[..cut])?;
        if config.root.fingerprint() != *fingerprint {
            return Err(fail("signed by another root than the key was made for; this is not the repository it opens"));
        }
        let signature = bytes[cut..].try_into().expect("cut at its length");
        config.root.verify(SIGNED, &bytes[..cut], &signature).map_err(|_| fail("its signature is wrong"))?;
        Ok(config)
    }

    /// Which repository a stored config claims to belong to; nothing is verified.
    pub fn peek_repository(bytes: &[u8]) -> Result<RepositoryId> {
        let mut r = Reader::new("config", bytes);
        read_start(&mut r)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("config", bytes);
        let repository = read_start(&mut r)?;
        let epoch = r.u64()?;
        let key = |r: &mut Reader<'_>| {
            let bytes = r.array()?;
            VerifyingKey::from_bytes(&bytes).or_else(|_| r.fail("not a public key"))
        };
        let config = Self {
            repository,
            epoch,
            previous: r.option(|r| Ok(ObjectHash::from_bytes(r.array()?)))?,
            root: key(&mut r)?,
            time: r.time()?,
            chunker: ChunkerParams { min: r.u32()?, avg: r.u32()?, max: r.u32()?, normalization: r.u8()? },
            features: r.list(1024, 2, "features", read_feature)?,
            store: StoreVerdict { create_only: r.u8()?, strong_list: r.u8()? == 1 },
            recipients: r.list(1024, ReadPublic::LEN, "recipients", |r| {
                let public = ReadPublic::from_bytes(r.raw(ReadPublic::LEN)?).or_else(|_| r.fail("not a public key"))?;
                Ok(Recipient { public, handed_on: r.option(|r| Ok(Stanza::from_bytes(&r.array()?)))? })
            })?,
            members: r.list(MEMBERS_MAX, 50, "members", |r| {
                let (id, key) = (r.writer()?, key(r)?);
                let maintainer = r.u8()? == 1;
                let revoked = r.option(|r| Ok(Revocation { base: r.varint()?, last: r.option(Reader::session)? }))?;
                Ok(Member { id, key, maintainer, revoked })
            })?,
        };
        let current = config.recipients.split_last();
        let chained = current
            .is_some_and(|(last, older)| last.handed_on.is_none() && older.iter().all(|r| r.handed_on.is_some()));
        if !chained || !config.members.is_sorted_by(|a, b| a.id < b.id) || config.store.create_only > 2 {
            return r.fail("recipients, members or verdict are not as they must be");
        }
        r.finish()?;
        if config.signed() != bytes {
            return Err(Malformed { what: "config", how: "not in its one encoding".into() });
        }
        Ok(config)
    }

    /// BLAKE3 of stored bytes: the next epoch names it.
    pub fn hash(stored: &[u8]) -> ObjectHash {
        ObjectHash::from_bytes(hash::blake3(&[stored]))
    }

    /// The key pair that new sessions seal to.
    pub fn recipient(&self) -> &ReadPublic {
        &self.recipients.last().expect("checked when decoded").public
    }

    /// The member with this id.
    pub fn member(&self, id: WriterId) -> Option<&Member> {
        self.members.binary_search_by_key(&id, |m| m.id).ok().map(|n| &self.members[n])
    }

    /// Features that forbid `what` to this program, which knows `known`.
    pub fn forbidding<'a>(&'a self, what: Use, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.features
            .iter()
            .filter(move |f| f.refuse & what as u8 != 0 && !known.contains(&f.name.as_str()))
            .map(|f| f.name.as_str())
    }
}

fn read_start(r: &mut Reader<'_>) -> Result<RepositoryId> {
    if r.array()? != *MAGIC {
        return r.fail("not a config of version 1");
    }
    if r.u8()? != SUITE {
        return r.fail("made with algorithms that this version does not know; use a newer one");
    }
    Ok(RepositoryId::from_bytes(r.array()?))
}

fn read_feature(r: &mut Reader<'_>) -> Result<Feature> {
    let name = r.bytes(64, "feature name")?;
    let ok = !name.is_empty() && name.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !ok {
        return r.fail("a feature without a proper name");
    }
    let name = String::from_utf8(name.to_vec()).expect("ASCII");
    Ok(Feature { name, refuse: r.u8()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kem::ReadSecret;
    use crate::crypto::secret::Secret;

    fn sample() -> (Config, SigningKey) {
        let root = SigningKey::from_seed(Secret::from_bytes([1; 32]));
        let member = |n: u8| Member {
            id: WriterId::from_bytes([n; 16]),
            key: SigningKey::from_seed(Secret::from_bytes([n; 32])).verifying(),
            maintainer: n == 3,
            revoked: (n == 2).then_some(Revocation { base: 4, last: Some(SessionId { n: 5, random: 6 }) }),
        };
        let config = Config {
            repository: RepositoryId::from_bytes([7; 32]),
            epoch: 2,
            previous: Some(ObjectHash::from_bytes([8; 32])),
            root: root.verifying(),
            time: Timestamp { secs: 1, nanos: 2 },
            chunker: ChunkerParams { min: 1 << 18, avg: 1 << 20, max: 1 << 23, normalization: 1 },
            features: vec![Feature { name: "fence".into(), refuse: Use::Maintain as u8 }],
            store: StoreVerdict { create_only: 2, strong_list: true },
            recipients: vec![Recipient {
                public: ReadSecret::from_seed(Secret::from_bytes([9; 32])).public().clone(),
                handed_on: None,
            }],
            members: vec![member(2), member(3)],
        };
        (config, root)
    }

    #[test]
    fn configs_come_back_and_any_change_is_refused() {
        let (config, root) = sample();
        let stored = config.encode(&root);
        let pin = root.verifying().fingerprint();
        assert_eq!(Config::decode(&stored, &pin), Ok(config));
        assert!(Config::decode(&stored, &[0; 32]).is_err());
        for at in (0..stored.len()).step_by(7) {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert!(Config::decode(&bad, &pin).is_err(), "byte {at}");
        }
    }

    #[test]
    fn unknown_features_forbid_what_they_say() {
        let (config, _) = sample();
        assert_eq!(config.forbidding(Use::Maintain, &[]).collect::<Vec<_>>(), ["fence"]);
        assert_eq!(config.forbidding(Use::Maintain, &["fence"]).count(), 0);
        assert_eq!(config.forbidding(Use::Read, &[]).count(), 0);
    }
}
