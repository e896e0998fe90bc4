//! Bundles: the keys that one role needs, in one file (docs/format.md "Bundles").
//!
//! As text: a line that names the role, then lower-case hex, 64 digits a line. A checksum tells a torn file from a
//! wrong one.

use std::fmt;

use crate::crypto::hash;
use crate::crypto::secret::Secret;
use crate::id::{RepositoryId, WriterId, hex, unhex};
use zeroize::Zeroizing;

use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::Domain;

const FIRST_LINE: &str = "copal key bundle 1: ";
/// Longest bundle as text, in bytes.
pub const BUNDLE_TEXT_MAX: usize = 4096;

/// Who may do what. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Everything.
    Owner = 1,
    /// See and restore everything; write nothing.
    Reader = 2,
    /// Add snapshots; read no content and no name.
    Writer = 3,
    /// Forget, fold, prune; read no content and no name.
    Maintainer = 4,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Maintainer => "maintainer",
        }
    }

    /// The role with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Owner, Self::Reader, Self::Writer, Self::Maintainer].into_iter().find(|r| r.as_str() == name)
    }
}

/// A member's own signing key.
#[derive(Clone)]
pub struct Identity {
    /// Its id in the config and in keys.
    pub id: WriterId,
    /// Seed of its Ed25519 key.
    pub seed: Secret,
}

/// The keys of one role.
#[derive(Clone)]
pub struct Bundle {
    /// Which role.
    pub role: Role,
    /// Which repository.
    pub repository: RepositoryId,
    /// Fingerprint of ROOT: no other config is accepted.
    pub root: [u8; 32],
    /// D_id, D_idx, D_chunk, as far as the role holds them.
    pub domain: Domain,
    /// Seed of ROOT: owners only.
    pub root_seed: Option<Secret>,
    /// Seed of the READ pair of some epoch: owners and readers.
    pub read_seed: Option<Secret>,
    /// Own signing key: writers and maintainers.
    pub identity: Option<Identity>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({} of {})", self.role.as_str(), self.repository.short())
    }
}

impl Bundle {
    /// Its canonical bytes; secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        assert!(self.is_consistent(), "a bundle holds what its role needs and no more");
        let secret = |w: &mut Writer, s: &Secret| {
            w.raw(s.expose());
        };
        let mut w = Writer::new();
        w.u8(1).u8(self.role as u8).raw(self.repository.as_bytes()).raw(&self.root);
        w.raw(self.domain.d_idx.expose());
        for s in [&self.domain.d_id, &self.domain.d_chunk, &self.root_seed, &self.read_seed] {
            w.option(s.as_ref(), secret);
        }
        w.option(self.identity.as_ref(), |w, i| {
            w.raw(i.id.as_bytes()).raw(i.seed.expose());
        });
        Zeroizing::new(w.finish())
    }

    /// The reverse.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("key bundle", bytes);
        if r.u8()? != 1 {
            return r.fail("made by a newer version; use that");
        }
        let role = match r.u8()? {
            1 => Role::Owner,
            2 => Role::Reader,
            3 => Role::Writer,
            4 => Role::Maintainer,
            n => return r.fail(format!("{n} is no role")),
        };
        let secret = |r: &mut Reader<'_>| Ok(Secret::from_bytes(r.array()?));
        let repository = RepositoryId::from_bytes(r.array()?);
        let root = r.array()?;
        let d_idx = secret(&mut r)?;
        let (d_id, d_chunk) = (r.option(secret)?, r.option(secret)?);
        let (root_seed, read_seed) = (r.option(secret)?, r.option(secret)?);
        let identity = r.option(|r| Ok(Identity { id: r.writer()?, seed: secret(r)? }))?;
        let domain = Domain { d_id, d_idx, d_chunk };
        let bundle = Self { role, repository, root, domain, root_seed, read_seed, identity };
        if !bundle.is_consistent() {
            return r.fail("it does not hold what its role needs");
        }
        r.finish()?;
        Ok(bundle)
    }

    fn is_consistent(&self) -> bool {
        let content = self.domain.d_id.is_some() && self.domain.d_chunk.is_some();
        let held = (content, self.root_seed.is_some(), self.read_seed.is_some(), self.identity.is_some());
        held == match self.role {
            Role::Owner => (true, true, true, false),
            Role::Reader => (true, false, true, false),
            Role::Writer => (true, false, false, true),
            Role::Maintainer => (false, false, false, true),
        }
    }

    /// As a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = self.encode();
        let mut all = Zeroizing::new(bytes.to_vec());
        all.extend_from_slice(&checksum(&bytes));
        let digits = Zeroizing::new(hex(&all));
        let mut out = Zeroizing::new(format!("{FIRST_LINE}{}\n", self.role.as_str()));
        for line in digits.as_bytes().chunks(64) {
            out.push_str(std::str::from_utf8(line).expect("hex is ASCII"));
            out.push('\n');
        }
        out
    }

    /// The reverse; spaces and line ends do not matter.
    pub fn from_text(text: &str) -> Result<Self> {
        let fail = |how: &str| Malformed { what: "key bundle", how: how.into() };
        let text = text.trim_start();
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let role = first
            .trim_end()
            .strip_prefix(FIRST_LINE)
            .ok_or_else(|| fail("its first line is not that of a key bundle"))?;
        if text.len() > BUNDLE_TEXT_MAX {
            return Err(fail("longer than a key bundle can be"));
        }
        let digits: Zeroizing<String> = Zeroizing::new(rest.split_whitespace().collect());
        let mut all = Zeroizing::new(vec![0; digits.len() / 2]);
        unhex(&digits, &mut all).map_err(|_| fail("it holds something that is no hex"))?;
        let cut = all.len().checked_sub(8).ok_or_else(|| fail("it is cut off"))?;
        if checksum(&all[..cut]) != all[cut..] {
            return Err(fail("its checksum is wrong: it is cut off or changed; use another copy"));
        }
        let bundle = Self::decode(&all[..cut])?;
        if bundle.role.as_str() != role {
            return Err(fail("its first line names another role than it holds"));
        }
        Ok(bundle)
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    hash::blake3(&[b"copal key bundle", bytes])[..8].try_into().expect("8 of 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(role: Role) -> Bundle {
        let secret = |n: u8| Secret::from_bytes([n; 32]);
        let content = role != Role::Maintainer;
        let identity = matches!(role, Role::Writer | Role::Maintainer);
        Bundle {
            role,
            repository: RepositoryId::from_bytes([1; 32]),
            root: [2; 32],
            domain: Domain { d_id: content.then(|| secret(3)), d_idx: secret(4), d_chunk: content.then(|| secret(5)) },
            root_seed: (role == Role::Owner).then(|| secret(6)),
            read_seed: matches!(role, Role::Owner | Role::Reader).then(|| secret(7)),
            identity: identity.then(|| Identity { id: WriterId::from_bytes([8; 16]), seed: secret(9) }),
        }
    }

    #[test]
    fn bundles_come_back_from_text() {
        for role in [Role::Owner, Role::Reader, Role::Writer, Role::Maintainer] {
            let bundle = sample(role);
            let text = bundle.to_text();
            assert_eq!(Bundle::from_text(&text).unwrap().encode(), bundle.encode());
            assert_eq!(Bundle::from_text(&text.replace('\n', "\r\n")).unwrap().encode(), bundle.encode());
        }
    }

    #[test]
    fn torn_and_changed_files_are_told() {
        let text = sample(Role::Owner).to_text();
        assert!(Bundle::from_text(&text[..text.len() - 10]).is_err());
        assert!(Bundle::from_text(&text.replacen("owner", "reader", 1)).is_err());
        let swapped = text.replacen('4', "5", 1);
        assert!(Bundle::from_text(&swapped).is_err());
        assert!(Bundle::from_text("hello").unwrap_err().how.contains("first line"));
    }
}
