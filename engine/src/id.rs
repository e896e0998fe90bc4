//! Names of stored things: one newtype per kind, so that mixing them up does not compile.
//!
//! Full lower-case hex in machine output and keys, the first 8 digits in messages ([`BlobId::short`] and its like).

use std::fmt;
use std::str::FromStr;

/// Text that is not the hex form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} lower-case hex digits")]
pub struct ParseIdError {
    text: String,
    digits: usize,
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[(b >> 4) as usize] as char);
        out.push(DIGITS[(b & 15) as usize] as char);
    }
    out
}

/// Fills `out` from exactly `2 * out.len()` lower-case hex digits; upper case is refused so that each id has one text.
pub fn unhex(text: &str, out: &mut [u8]) -> Result<(), ParseIdError> {
    let fail = || ParseIdError { text: text.chars().take(80).collect(), digits: out.len() * 2 };
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return Err(fail());
    }
    let mut bytes = Vec::with_capacity(out.len());
    for pair in text.chunks_exact(2) {
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(fail()),
        }
    }
    out.copy_from_slice(&bytes);
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Width in bytes.
            pub const LEN: usize = $len;

            /// The id whose bytes these are.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first 8 hex digits, for messages.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $len];
                unhex(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }
    };
}

id!(
    /// Keyed hash of one blob's type and plaintext (docs/format.md "Blob ids").
    BlobId, 32
);
id!(
    /// BLAKE3 of all bytes of a stored pack.
    PackId, 32
);
id!(
    /// BLAKE3 of all bytes of a stored index segment.
    SegmentId, 32
);
id!(
    /// BLAKE3 of all bytes of a stored snapshot.
    SnapshotId, 32
);
id!(
    /// BLAKE3 of a stored config, base or other chained object.
    ObjectHash, 32
);
id!(
    /// Random name of a repository, drawn by `init`.
    RepositoryId, 32
);
id!(
    /// Random name of a writer, drawn when it is enrolled.
    WriterId, 16
);
id!(
    /// Random name of a key slot.
    SlotId, 16
);

/// One run of one writer: `<n>-<random>` in keys, 16 hex digits each (docs/format.md "Sessions").
///
/// Orders by `n` first, as the keys of a LIST do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// 1 + the highest number this writer had before.
    pub n: u64,
    /// Keeps two sessions apart that drew the same `n`.
    pub random: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.n, self.random)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fail = || ParseIdError { text: text.chars().take(80).collect(), digits: 33 };
        let (n, random) = text.split_once('-').ok_or_else(fail)?;
        Ok(Self { n: parse_number(n)?, random: parse_number(random)? })
    }
}

/// A number as it stands in keys: exactly 16 lower-case hex digits.
pub fn parse_number(text: &str) -> Result<u64, ParseIdError> {
    let mut bytes = [0; 8];
    unhex(text, &mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_one_text() {
        let id = BlobId::from_bytes([0xa5; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<BlobId>().is_err());
        assert!("a5".parse::<BlobId>().is_err());
        assert!("é".repeat(32).parse::<BlobId>().is_err());
    }

    #[test]
    fn sessions_order_as_their_keys() {
        let ids = [(1, 9), (2, 1), (16, 0), (255, 7)].map(|(n, random)| SessionId { n, random });
        let keys = ids.map(|s| s.to_string());
        assert!(ids.is_sorted() && keys.is_sorted());
        assert_eq!(keys[2].parse(), Ok(ids[2]));
    }
}
