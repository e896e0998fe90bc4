//! Keys and what is done with them: keyed BLAKE3, one AEAD, one KEM, one signature, one passphrase function.
//!
//! Nothing here knows an object of the format: docs/format.md says which context, which parts and which order belong to
//! which object, and the format layer passes them in. No I/O; randomness is an argument ([`rng::Rng`]).
//!
//! | need | module | primitive |
//! |---|---|---|
//! | ids, key derivation, padding | [`hash`] | BLAKE3: derive-key mode, keyed mode, XOF |
//! | secrecy and integrity of bytes | [`aead`] | AES-256-GCM, one key for one text |
//! | seal to a reader who is not here | [`kem`] | X-Wing: X25519 and ML-KEM-768 |
//! | who wrote this | [`sign`] | Ed25519, strict verification |
//! | keys from people | [`kdf`] | Argon2id, recovery codes |
//!
//! **Secrets.** A key is a [`secret::Secret`] from birth: it has no revealing `Debug`, compares in constant time, and is
//! wiped when dropped; no error here carries bytes of one. Best effort all the same: a value that is moved may leave its
//! old bytes on the stack, and so may the state of a hash function that was keyed.

pub mod aead;
pub mod hash;
pub mod kdf;
pub mod kem;
pub mod rng;
pub mod secret;
pub mod sign;

/// Sealed bytes that do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Fewer bytes than a tag alone takes.
    #[error("{len} bytes are too few to be sealed bytes: at least {min} are needed")]
    TooShort {
        /// Bytes that were given.
        len: usize,
        /// Bytes that an empty text takes.
        min: usize,
    },
    /// The tag does not fit: a bit was changed, or this is not the key. No cryptography can tell which.
    #[error("the bytes do not open: they are damaged, or they were sealed with another key")]
    Refused,
    /// A stanza that names another recipient; another key may open it.
    #[error("sealed to another key, whose fingerprint begins with {}", crate::id::hex(&recipient[..4]))]
    OtherRecipient {
        /// BLAKE3 of the public key that the stanza names.
        recipient: [u8; 32],
    },
}

/// Bytes that are not the public key they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Wrong width.
    #[error("a {kind} has {expected} bytes, not {len}")]
    Length {
        /// Which kind of key was read.
        kind: &'static str,
        /// Its width.
        expected: usize,
        /// Bytes that were given.
        len: usize,
    },
    /// Right width, and no key has these bytes.
    #[error("the bytes are not a {kind}: {reason}")]
    Invalid {
        /// Which kind of key was read.
        kind: &'static str,
        /// Which check failed.
        reason: &'static str,
    },
}
