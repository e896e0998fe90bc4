//! Ed25519 signatures, each bound to what it is for.
//!
//! What is signed is `context length (1 byte) || context || message`: a signature given in one context means nothing in
//! another, and no context is a prefix of another's bytes. Verification is the strict one (RFC 8032 with canonical `S` and
//! `R`, small-order keys refused), so that all readers agree on which signatures are good.

use std::fmt;

use ed25519_dalek::Signer;

use super::KeyError;
use super::hash;
use super::secret::Secret;

/// Width of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A signature that was not made by this key over these bytes in this context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit: the bytes were changed, or another key signed them")]
pub struct SignatureError;

/// The secret half. Wiped when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a 32-byte seed (RFC 8032, 5.1.5).
    pub fn from_seed(seed: Secret) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose()))
    }

    /// The public half.
    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs `message` in `context`, a constant of at most 255 bytes (a longer one panics). Deterministic.
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&framed(context, message)).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(.., {:?})", self.verifying())
    }
}

/// The public half: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Width in bytes.
    pub const LEN: usize = 32;

    /// The key with these bytes. Refuses what is no point of the curve, a second encoding of one, and points of small
    /// order, under which one signature fits many messages.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let invalid = |reason| KeyError::Invalid { kind: "signature key", reason };
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| invalid("no point of the curve has them"))?;
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(invalid("the encoding is not the canonical one"));
        }
        if key.is_weak() {
            return Err(invalid("the point has small order"));
        }
        Ok(Self(key))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Checks that this key signed `message` in `context`.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), SignatureError> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(&framed(context, message), &signature).map_err(|_| SignatureError)
    }

    /// BLAKE3 of the 32 bytes: what is pinned, compared and read aloud.
    pub fn fingerprint(&self) -> [u8; 32] {
        hash::blake3(&[self.as_bytes()])
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", crate::id::hex(&self.as_bytes()[..4]))
    }
}

fn framed(context: &str, message: &[u8]) -> Vec<u8> {
    let len = u8::try_from(context.len()).expect("a context is a constant of at most 255 bytes");
    [&[len], context.as_bytes(), message].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(Secret::from_bytes([byte; 32]))
    }

    /// RFC 8032, 7.1, test 1: the key pair; the signature over our own framing is in tests/vectors.
    #[test]
    fn published_key_pair() {
        let mut seed = [0; 32];
        let mut public = [0; 32];
        crate::id::unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", &mut seed).unwrap();
        crate::id::unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", &mut public).unwrap();
        let key = SigningKey::from_seed(Secret::from_bytes(seed));
        assert_eq!(key.verifying().as_bytes(), &public);
        assert_eq!(VerifyingKey::from_bytes(&public), Ok(key.verifying()));
    }

    #[test]
    fn small_order_and_second_encodings_are_refused() {
        let mut point = [0; 32]; // y = 0: order 4
        assert!(VerifyingKey::from_bytes(&point).is_err());
        point[0] = 1; // y = 1: the neutral element
        assert!(VerifyingKey::from_bytes(&point).is_err());
        // y = 3 is a point; p + 3, the same point written a second time, is not accepted.
        point[0] = 3;
        assert!(VerifyingKey::from_bytes(&point).is_ok());
        let mut second = [0xff; 32];
        (second[0], second[31]) = (0xf0, 0x7f);
        assert!(VerifyingKey::from_bytes(&second).is_err());
        point[0] = 2; // y = 2: no x fits
        assert!(VerifyingKey::from_bytes(&point).is_err());
    }

    /// Both fulfil S B = R + k A, which lenient verifiers take: an R of small order (computed from the secret scalar), and an
    /// honest signature with the group's order added to S.
    #[test]
    fn signatures_that_verifiers_disagree_on_are_refused() {
        let signatures = [
            "0100000000000000000000000000000000000000000000000000000000000000\
             73b88ee632fcab21a71e1a9d725cfcfaac1ffc24f1a11cbabe6b28176352bb0b",
            "8bda48f5a16559ef524e12c8c05a19d811c66f822f0da82e312bcb77da24c896\
             d820b179c319411daf4752089163e9c76538102a85a4335232b595521971e319",
        ];
        for text in signatures {
            let mut signature = [0; SIGNATURE_LEN];
            crate::id::unhex(text, &mut signature).unwrap();
            assert_eq!(key(1).verifying().verify("test", b"message", &signature), Err(SignatureError));
        }
    }

    #[test]
    fn a_context_cannot_run_into_the_message() {
        let (key, public) = (key(1), key(1).verifying());
        let signature = key.sign("ab", b"c");
        assert_eq!(public.verify("ab", b"c", &signature), Ok(()));
        assert_eq!(public.verify("a", b"bc", &signature), Err(SignatureError));
        assert_eq!(public.verify("", b"\x02abc", &signature), Err(SignatureError));
    }

    #[test]
    fn debug_and_errors_show_no_secret() {
        let seed = crate::id::hex(&[1; 32]);
        assert!(!format!("{:?} {SignatureError}", key(1)).contains(&seed[..8]));
    }

    proptest! {
        #[test]
        fn signatures_fit_only_what_was_signed(message: Vec<u8>, bit in 0usize..512, byte in 0usize..1000) {
            let (key, public) = (key(1), key(1).verifying());
            let signature = key.sign("copal test", &message);
            prop_assert_eq!(public.verify("copal test", &message, &signature), Ok(()));
            prop_assert_eq!(self::key(2).verifying().verify("copal test", &message, &signature), Err(SignatureError));
            let mut forged = signature;
            forged[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(public.verify("copal test", &message, &forged), Err(SignatureError));
            let mut changed = message;
            match changed.len() {
                0 => changed.push(0),
                len => changed[byte % len] ^= 1,
            }
            prop_assert_eq!(public.verify("copal test", &changed, &signature), Err(SignatureError));
        }
    }
}
