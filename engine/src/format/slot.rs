//! Key slots: an owner's or reader's bundle, wrapped so that a passphrase, a recovery code or another key opens it
//! (docs/format.md "Key slots").

use crate::crypto::hash;
use crate::crypto::kdf::Argon2Params;
use crate::crypto::kem::Stanza;
use crate::crypto::secret::Secret;
use crate::id::{RepositoryId, SlotId};

use super::bundle::{Bundle, Role};
use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::SUITE;
use super::node::Timestamp;
use super::objects;
use super::seal::{self, Place};

const MAGIC: &[u8; 8] = b"copalks1";
/// Longest slot that a reader accepts, in bytes.
pub const SLOT_BYTES_MAX: u64 = 64 << 10;
const LABEL_MAX: usize = 255;

/// What opens a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// A passphrase, by Argon2id.
    Passphrase {
        /// Random.
        salt: [u8; 16],
        /// Cost.
        params: Argon2Params,
    },
    /// 256 random bits that were printed once.
    RecoveryCode,
    /// Somebody's X-Wing key.
    Recipient(Box<Stanza>),
}

impl Lock {
    /// Its name in `key list`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::RecoveryCode => "recovery code",
            Self::Recipient(_) => "recipient",
        }
    }
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// In which repository.
    pub repository: RepositoryId,
    /// Its id, in its key.
    pub id: SlotId,
    /// When it was made.
    pub time: Timestamp,
    /// What it opens.
    pub role: Role,
    /// What the user calls it, up to 255 bytes; in clear.
    pub label: Vec<u8>,
    /// What opens it.
    pub lock: Lock,
    commitment: [u8; 32],
    sealed: Vec<u8>,
}

/// Key that encrypts the slot, from what opens it (the passphrase's or recovery code's key, or the stanza's secret).
fn kek(opener: &Secret, repository: RepositoryId, id: SlotId) -> Secret {
    hash::derive("copal 1 key slot", &[opener.expose(), repository.as_bytes(), id.as_bytes()])
}

impl Slot {
    /// Wraps `bundle` (an owner's or reader's) with `opener`.
    pub fn wrap(bundle: &Bundle, id: SlotId, time: Timestamp, label: &[u8], lock: Lock, opener: &Secret) -> Self {
        assert!(matches!(bundle.role, Role::Owner | Role::Reader) && label.len() <= LABEL_MAX);
        let kek = kek(opener, bundle.repository, id);
        let object = objects::slot(id);
        let place = Place { kind: "key slot", repository: bundle.repository.as_bytes(), object: &object, ordinal: 0 };
        Self {
            repository: bundle.repository,
            id,
            time,
            role: bundle.role,
            label: label.to_vec(),
            lock,
            commitment: hash::keyed(&kek, &[b"commit"]),
            sealed: seal::seal_record(&kek, &place, &bundle.encode()),
        }
    }

    /// Opens it; `None` when `opener` is not the one it was wrapped with.
    pub fn open(&self, opener: &Secret) -> Option<Result<Bundle>> {
        let kek = kek(opener, self.repository, self.id);
        if hash::keyed(&kek, &[b"commit"]) != self.commitment {
            return None;
        }
        let object = objects::slot(self.id);
        let place = Place { kind: "key slot", repository: self.repository.as_bytes(), object: &object, ordinal: 0 };
        let open = || {
            let text = zeroize::Zeroizing::new(seal::open_record(&kek, &place, &self.sealed)?);
            let bundle = Bundle::decode(&text)?;
            if bundle.repository != self.repository || bundle.role != self.role {
                return Err(Malformed { what: "key slot", how: "holds another bundle than it says".into() });
            }
            Ok(bundle)
        };
        Some(open())
    }

    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(MAGIC).u8(SUITE).raw(self.repository.as_bytes()).raw(self.id.as_bytes()).time(self.time);
        w.u8(self.role as u8).bytes(&self.label);
        match &self.lock {
            Lock::Passphrase { salt, params } => {
                w.u8(1).raw(salt).u32(params.memory_kib).u32(params.passes).u32(params.lanes);
            }
            Lock::Recipient(stanza) => {
                w.u8(2).raw(&stanza.to_bytes());
            }
            Lock::RecoveryCode => {
                w.u8(3);
            }
        }
        w.raw(&self.commitment).bytes(&self.sealed);
        w.finish()
    }

    /// The reverse. Costs out of range are refused before anything is derived.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("key slot", bytes);
        if r.array()? != *MAGIC {
            return r.fail("not a key slot of version 1");
        }
        if r.u8()? != SUITE {
            return r.fail("made with algorithms that this version does not know; use a newer one");
        }
        let (repository, id) = (RepositoryId::from_bytes(r.array()?), SlotId::from_bytes(r.array()?));
        let time = r.time()?;
        let role = match r.u8()? {
            1 => Role::Owner,
            2 => Role::Reader,
            n => return r.fail(format!("role {n} in a slot")),
        };
        let label = r.bytes(LABEL_MAX, "label")?.to_vec();
        let lock = match r.u8()? {
            1 => {
                let salt = r.array()?;
                let params = Argon2Params { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
                let params = params.validated().or_else(|e| r.fail(e.to_string()))?;
                Lock::Passphrase { salt, params }
            }
            2 => Lock::Recipient(Box::new(Stanza::from_bytes(&r.array()?))),
            3 => Lock::RecoveryCode,
            n => return r.fail(format!("{n} is no kind of lock; a newer version may open it")),
        };
        let commitment = r.array()?;
        let sealed = r.bytes(SLOT_BYTES_MAX as usize, "sealed bundle")?.to_vec();
        r.finish()?;
        Ok(Self { repository, id, time, role, label, lock, commitment, sealed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keys::Domain;

    #[test]
    fn slots_open_with_what_they_were_wrapped_with() {
        let secret = |n: u8| Secret::from_bytes([n; 32]);
        let bundle = Bundle {
            role: Role::Reader,
            repository: RepositoryId::from_bytes([1; 32]),
            root: [2; 32],
            domain: Domain { d_id: Some(secret(1)), d_idx: secret(2), d_chunk: Some(secret(3)) },
            root_seed: None,
            read_seed: Some(secret(4)),
            identity: None,
        };
        let lock = Lock::Passphrase { salt: [5; 16], params: Argon2Params::DEFAULT };
        let slot = Slot::wrap(&bundle, SlotId::from_bytes([6; 16]), Timestamp::default(), b"laptop", lock, &secret(7));
        let stored = slot.encode();
        let read = Slot::decode(&stored).unwrap();
        assert_eq!(read, slot);
        assert_eq!(read.open(&secret(7)).unwrap().unwrap().encode(), bundle.encode());
        assert!(read.open(&secret(8)).is_none());
        let mut costly = stored.clone();
        let params = stored.windows(4).position(|w| w == Argon2Params::DEFAULT.memory_kib.to_le_bytes()).unwrap();
        costly[params + 3] = 0x7f;
        assert!(Slot::decode(&costly).is_err(), "a hostile cost is refused before it is paid");
    }
}
