//! An attestation: which snapshots had all of their content read and verified, and when (docs/format.md "Attestations").
//!
//! Text for people and programs that hold no key of the repository: the only thing of Copal's that leaves it and says
//! something about it. ROOT signs it, as only an owner's check reads all content.

use std::fmt::Write;
use std::str::FromStr;

use crate::crypto::sign::{SIGNATURE_LEN, SigningKey, VerifyingKey};
use crate::id::{RepositoryId, SnapshotId, hex, unhex};

use super::codec::{Malformed, Result};

const MAGIC: &str = "copal attestation 1";
const SIGNED: &str = "copal 1 attestation";
/// Longest attestation that a reader accepts, in bytes: some 960,000 snapshots.
pub const ATTESTATION_BYTES_MAX: u64 = 64 << 20;

/// Every blob of these snapshots lay in a pack that was read whole and found sound. Times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// Of which repository.
    pub repository: RepositoryId,
    /// When this was said.
    pub made: u64,
    /// When the pack was verified whose verification is the oldest.
    pub verified_from: u64,
    /// The same of the youngest; not before the oldest.
    pub verified_to: u64,
    /// How many packs these were.
    pub packs: u64,
    /// Their sizes together in bytes.
    pub bytes: u64,
    /// Sorted, none twice.
    pub snapshots: Vec<SnapshotId>,
}

impl Attestation {
    /// The text, signed.
    pub fn encode(&self, root: &SigningKey) -> String {
        assert!(self.snapshots.is_sorted_by(|a, b| a < b), "snapshots are sorted and unique");
        let mut text = self.statement(&root.verifying());
        let signature = root.sign(SIGNED, text.as_bytes());
        let _ = writeln!(text, "signature {}", hex(&signature));
        text
    }

    /// Reads a text, and checks that this root signed it.
    pub fn decode(text: &str, root: &VerifyingKey) -> Result<Self> {
        let mut lines = Lines(text);
        if lines.next()? != MAGIC {
            return Err(malformed("its first line is another one"));
        }
        let this = Self {
            repository: lines.field("repository")?,
            made: {
                lines.of_root(root)?;
                lines.field("made")?
            },
            verified_from: lines.field("verified-from")?,
            verified_to: lines.field("verified-to")?,
            packs: lines.field("packs")?,
            bytes: lines.field("bytes")?,
            snapshots: lines.snapshots()?,
        };
        let signed = &text[..text.len() - lines.0.len()];
        let mut signature = [0; SIGNATURE_LEN];
        unhex(lines.word("signature")?, &mut signature).map_err(|_| malformed("the signature is no signature"))?;
        // Another text for the same values would carry a signature over other bytes.
        if !lines.0.is_empty() || signed != this.statement(root) {
            return Err(malformed("it is not as it was written"));
        }
        root.verify(SIGNED, signed.as_bytes(), &signature).map_err(|e| malformed(&e.to_string()))?;
        Ok(this)
    }

    /// What is signed: every line but the last.
    fn statement(&self, root: &VerifyingKey) -> String {
        let mut text = format!("{MAGIC}\nrepository {}\nroot {}\n", self.repository, hex(root.as_bytes()));
        for (name, value) in [
            ("made", self.made),
            ("verified-from", self.verified_from),
            ("verified-to", self.verified_to),
            ("packs", self.packs),
            ("bytes", self.bytes),
            ("snapshots", self.snapshots.len() as u64),
        ] {
            let _ = writeln!(text, "{name} {value}");
        }
        self.snapshots.iter().for_each(|id| text += &format!("{id}\n"));
        text
    }
}

/// What is left of a text.
struct Lines<'t>(&'t str);

impl<'t> Lines<'t> {
    fn next(&mut self) -> Result<&'t str> {
        let (line, rest) = self.0.split_once('\n').ok_or_else(|| malformed("it ends too early"))?;
        self.0 = rest;
        Ok(line)
    }

    /// What stands behind this name, which is the next.
    fn word(&mut self, name: &'static str) -> Result<&'t str> {
        let line = self.next()?;
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        value.ok_or_else(|| malformed(&format!("the line {name:?} is not where it must be")))
    }

    fn field<T: FromStr>(&mut self, name: &'static str) -> Result<T> {
        self.word(name)?.parse().map_err(|_| malformed(&format!("the line {name:?} makes no sense")))
    }

    fn of_root(&mut self, root: &VerifyingKey) -> Result<()> {
        match self.word("root")? == hex(root.as_bytes()) {
            true => Ok(()),
            false => Err(malformed("another owner signed it than this repository's")),
        }
    }

    /// Their count and as many lines. The count reserves nothing: it may be made up.
    fn snapshots(&mut self) -> Result<Vec<SnapshotId>> {
        let count: u64 = self.field("snapshots")?;
        let id = |_| self.next()?.parse().map_err(|_| malformed("a line is no snapshot"));
        let snapshots: Vec<SnapshotId> = (0..count).map(id).collect::<Result<_>>()?;
        match snapshots.is_sorted_by(|a, b| a < b) {
            true => Ok(snapshots),
            false => Err(malformed("snapshots are not in order")),
        }
    }
}

fn malformed(how: &str) -> Malformed {
    Malformed { what: "attestation", how: how.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::secret::Secret;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(Secret::from_bytes([byte; 32]))
    }

    fn attestation(snapshots: u8) -> Attestation {
        Attestation {
            repository: RepositoryId::from_bytes([7; 32]),
            made: 1_800_000_000,
            verified_from: 1_799_000_000,
            verified_to: 1_799_999_999,
            packs: 12,
            bytes: 345,
            snapshots: (0..snapshots).map(|n| SnapshotId::from_bytes([n; 32])).collect(),
        }
    }

    #[test]
    fn the_text_is_the_documents() {
        let text = attestation(1).encode(&key(1));
        let root = hex(key(1).verifying().as_bytes());
        let (statement, signature) = text.rsplit_once("signature ").unwrap();
        let expected = format!(
            "copal attestation 1\nrepository {}\nroot {root}\nmade 1800000000\nverified-from 1799000000\n\
             verified-to 1799999999\npacks 12\nbytes 345\nsnapshots 1\n{}\n",
            "07".repeat(32),
            "00".repeat(32)
        );
        assert_eq!(statement, expected);
        assert_eq!(signature.len(), 129);
    }

    proptest! {
        #[test]
        fn attestations_come_back_and_any_change_is_noticed(n in 0u8..9, at: prop::sample::Index, bit in 0u8..7) {
            let text = attestation(n).encode(&key(1));
            prop_assert_eq!(Attestation::decode(&text, &key(1).verifying()), Ok(attestation(n)));
            prop_assert!(Attestation::decode(&text, &key(2).verifying()).is_err());
            let mut changed = text.clone().into_bytes();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(Attestation::decode(&changed, &key(1).verifying()).is_err(), "{}", changed);
            prop_assert!(Attestation::decode(&text[..at], &key(1).verifying()).is_err());
        }
    }

    #[test]
    fn a_count_that_is_made_up_takes_no_room() {
        let text = attestation(0).encode(&key(1)).replace("snapshots 0", "snapshots 18446744073709551615");
        assert!(Attestation::decode(&text, &key(1).verifying()).is_err());
    }

    #[test]
    fn what_the_owner_signed_for_something_else_is_no_attestation() {
        let text = attestation(0).statement(&key(1).verifying());
        let signature = key(1).sign("copal 1 verdict", text.as_bytes());
        let text = format!("{text}signature {}\n", hex(&signature));
        assert!(Attestation::decode(&text, &key(1).verifying()).is_err());
    }
}
