//! Sealing a secret to somebody who is not here: X-Wing, that is X25519 and ML-KEM-768 together (draft-connolly-cfrg-xwing-kem-06).
//!
//! Backups are read decades later, and what is stored today can be copied today: an attacker has to break both halves.
//! The KEM only agrees on a fresh shared secret; [`seal_to`] wraps a chosen one with it into a [`Stanza`].

use std::fmt;

use x_wing::{Decapsulate, Decapsulator, Encapsulate, KeyExport};
use zeroize::Zeroize;

use super::rng::Rng;
use super::secret::Secret;
use super::{KeyError, aead, hash};

pub use super::OpenError;

/// Width of a KEM ciphertext in bytes: 1088 of ML-KEM-768, then 32 of X25519.
pub const CIPHERTEXT_LEN: usize = 1120;

/// The secret half of a READ pair, kept as its 32-byte seed. Wiped when dropped.
#[derive(Clone)]
pub struct ReadSecret {
    key: Box<x_wing::DecapsulationKey>,
    public: ReadPublic,
}

impl ReadSecret {
    /// The pair of this seed. Any 32 bytes are one.
    pub fn from_seed(seed: Secret) -> Self {
        let key = Box::new(x_wing::DecapsulationKey::from(*seed.expose()));
        let mut bytes = Box::new([0; ReadPublic::LEN]);
        bytes.copy_from_slice(&key.encapsulation_key().to_bytes());
        Self { key, public: ReadPublic(bytes) }
    }

    /// The public half.
    pub fn public(&self) -> &ReadPublic {
        &self.public
    }

    /// The secret that the sender of `ciphertext` shares with this key. A changed ciphertext, or one for another key,
    /// yields some other secret and no error (implicit rejection): what was sealed with it then does not open.
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT_LEN]) -> Secret {
        shared_secret(self.key.decapsulate(&x_wing::Ciphertext::from(*ciphertext)))
    }

    /// The secret in `stanza`, which [`seal_to`] made in the same `context`.
    ///
    /// [`OpenError::OtherRecipient`] when it names another key, [`OpenError::Refused`] when it is damaged or of another
    /// context.
    pub fn open_stanza(&self, context: &str, stanza: &Stanza) -> Result<Secret, OpenError> {
        if stanza.recipient != self.public.fingerprint() {
            return Err(OpenError::OtherRecipient { recipient: stanza.recipient });
        }
        let shared = self.decapsulate(&stanza.ciphertext);
        let mut buf = stanza.wrapped;
        let opened = aead::open_in_place(&stanza.wrap_key(context, &shared), &mut buf)
            .map(|text| Secret::filled(|bytes| bytes.copy_from_slice(text)));
        buf.zeroize();
        opened
    }
}

impl fmt::Debug for ReadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadSecret(.., {:?})", self.public)
    }
}

/// The public half of a READ pair: ML-KEM-768 encapsulation key (1184 bytes), then X25519 public key (32).
#[derive(Clone, PartialEq, Eq)]
pub struct ReadPublic(Box<[u8; ReadPublic::LEN]>);

impl ReadPublic {
    /// Width in bytes.
    pub const LEN: usize = 1216;

    /// The key with these bytes. Refuses another width, and ML-KEM coefficients that are not reduced (FIPS 203, 7.2).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        const KIND: &str = "READ public key";
        let fixed: [u8; Self::LEN] =
            bytes.try_into().map_err(|_| KeyError::Length { kind: KIND, expected: Self::LEN, len: bytes.len() })?;
        parse(&fixed)
            .ok_or(KeyError::Invalid { kind: KIND, reason: "a coefficient of its ML-KEM half is not reduced" })?;
        Ok(Self(Box::new(fixed)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// BLAKE3 of its bytes: the recipient that a [`Stanza`] names.
    pub fn fingerprint(&self) -> [u8; 32] {
        hash::blake3(&[self.as_bytes()])
    }
}

impl fmt::Debug for ReadPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadPublic({})", crate::id::hex(&self.fingerprint()[..4]))
    }
}

/// Draws 64 bytes and returns a ciphertext for the holder of `public` together with the secret that both now share.
pub fn encapsulate(public: &ReadPublic, rng: &mut dyn Rng) -> (Box<[u8; CIPHERTEXT_LEN]>, Secret) {
    let key = parse(public.as_bytes()).expect("checked when the ReadPublic was made");
    let (sent, shared) = key.encapsulate_with_rng(&mut Draw(rng));
    let mut ciphertext = Box::new([0; CIPHERTEXT_LEN]);
    ciphertext.copy_from_slice(&sent);
    (ciphertext, shared_secret(shared))
}

/// Seals `secret` to the holder of `public`. Whoever sealed it cannot open it again.
///
/// `context` is a constant, unique to what the secret is for; the stanza opens in no other.
pub fn seal_to(public: &ReadPublic, rng: &mut dyn Rng, context: &str, secret: &Secret) -> Stanza {
    let (ciphertext, shared) = encapsulate(public, rng);
    let mut stanza = Stanza { recipient: public.fingerprint(), ciphertext, wrapped: [0; Stanza::WRAPPED_LEN] };
    let mut wrapped = [0; Stanza::WRAPPED_LEN];
    let (text, tag) = wrapped.split_at_mut(Secret::LEN);
    text.copy_from_slice(secret.expose());
    tag.copy_from_slice(&aead::seal_in_place(&stanza.wrap_key(context, &shared), text));
    stanza.wrapped = wrapped;
    stanza
}

/// A secret sealed to one READ key: 1200 bytes, `recipient 32 || ciphertext 1120 || wrapped 48`.
#[derive(Clone, PartialEq, Eq)]
pub struct Stanza {
    /// BLAKE3 of the public key.
    pub recipient: [u8; 32],
    /// What the KEM sends.
    pub ciphertext: Box<[u8; CIPHERTEXT_LEN]>,
    /// AES-256-GCM of the secret (32 bytes, then the tag) under derive(context, shared secret || recipient || ciphertext).
    pub wrapped: [u8; Stanza::WRAPPED_LEN],
}

impl Stanza {
    /// Width in bytes.
    pub const LEN: usize = 32 + CIPHERTEXT_LEN + Self::WRAPPED_LEN;

    /// Width of the sealed secret in bytes.
    pub const WRAPPED_LEN: usize = Secret::LEN + aead::TAG_LEN;

    /// Its stored form.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (recipient, rest) = bytes.split_at_mut(32);
        let (ciphertext, wrapped) = rest.split_at_mut(CIPHERTEXT_LEN);
        recipient.copy_from_slice(&self.recipient);
        ciphertext.copy_from_slice(&self.ciphertext[..]);
        wrapped.copy_from_slice(&self.wrapped);
        bytes
    }

    /// The stanza of these bytes: any are one, and [`ReadSecret::open_stanza`] says whether it is good.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let (recipient, rest) = bytes.split_first_chunk().expect("1200 bytes");
        let (ciphertext, wrapped) = rest.split_first_chunk().expect("1168 bytes");
        let wrapped = wrapped.try_into().expect("48 bytes");
        Self { recipient: *recipient, ciphertext: Box::new(*ciphertext), wrapped }
    }

    fn wrap_key(&self, context: &str, shared: &Secret) -> Secret {
        hash::derive(context, &[shared.expose(), &self.recipient, &self.ciphertext[..]])
    }
}

impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stanza(to {})", crate::id::hex(&self.recipient[..4]))
    }
}

fn parse(bytes: &[u8; ReadPublic::LEN]) -> Option<x_wing::EncapsulationKey> {
    x_wing::EncapsulationKey::try_from(&bytes[..]).ok()
}

fn shared_secret(mut shared: x_wing::SharedKey) -> Secret {
    let secret = Secret::filled(|bytes| bytes.copy_from_slice(&shared));
    shared.as_mut_slice().zeroize();
    secret
}

/// Our [`Rng`] as the generator that `x-wing` asks for.
struct Draw<'a>(&'a mut dyn Rng);

impl x_wing::kem::common::rand_core::TryRng for Draw<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(super::rng::draw(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(super::rng::draw(self.0)))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl x_wing::TryCryptoRng for Draw<'_> {}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{agreement, digest, kem as lc};
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::rng::SeededRng;

    const CONTEXT: &str = "copal 2026 test of stanzas";

    fn pair(seed: u8) -> ReadSecret {
        ReadSecret::from_seed(Secret::from_bytes([seed; 32]))
    }

    /// The sender's side once more, from the draft's text and another library's ML-KEM, X25519 and SHA3.
    fn encapsulate_with_aws_lc(public: &ReadPublic, ephemeral: &[u8; 32]) -> (Vec<u8>, [u8; 32]) {
        let (ml_kem, x25519) = public.as_bytes().split_at(1184);
        let key = lc::EncapsulationKey::new(&lc::ML_KEM_768, ml_kem).unwrap();
        let (ct_m, ss_m) = key.encapsulate().unwrap();
        let own = agreement::PrivateKey::from_private_key(&agreement::X25519, ephemeral).unwrap();
        let ct_x = own.compute_public_key().unwrap();
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, x25519);
        let ss_x = agreement::agree(&own, peer, (), |shared| Ok(shared.to_vec())).unwrap();
        let combined = [ss_m.as_ref(), &ss_x, ct_x.as_ref(), x25519, br"\.//^\"].concat();
        let shared = digest::digest(&digest::SHA3_256, &combined);
        ([ct_m.as_ref(), ct_x.as_ref()].concat(), shared.as_ref().try_into().unwrap())
    }

    #[test]
    fn another_implementation_encapsulates_to_us() {
        for seed in 0..8 {
            let secret = pair(seed);
            let (ciphertext, shared) = encapsulate_with_aws_lc(secret.public(), &[seed + 100; 32]);
            let opened = secret.decapsulate(ciphertext[..].try_into().unwrap());
            assert_eq!(opened.expose(), &shared);
        }
    }

    #[test]
    fn public_keys_are_checked() {
        let public = pair(1).public().clone();
        let bytes = public.as_bytes();
        assert_eq!(ReadPublic::from_bytes(bytes), Ok(public.clone()));
        for len in [0, 32, ReadPublic::LEN - 1, ReadPublic::LEN + 1] {
            let error = ReadPublic::from_bytes(&vec![0; len]).unwrap_err();
            assert!(matches!(error, KeyError::Length { len: l, expected: 1216, .. } if l == len));
        }
        let mut unreduced = *bytes;
        unreduced[..2].fill(0xff); // the first coefficient becomes at least 0xfff, above q = 3329
        assert!(matches!(ReadPublic::from_bytes(&unreduced), Err(KeyError::Invalid { .. })));
    }

    #[test]
    fn a_stanza_is_bound_to_key_and_context() {
        let (mine, other) = (pair(1), pair(2));
        let secret = Secret::from_bytes([7; 32]);
        let stanza = seal_to(mine.public(), &mut SeededRng::new("stanza"), CONTEXT, &secret);
        assert_eq!(mine.open_stanza(CONTEXT, &stanza), Ok(secret));
        assert_eq!(mine.open_stanza("copal 2026 another test", &stanza), Err(OpenError::Refused));
        let recipient = stanza.recipient;
        assert_eq!(other.open_stanza(CONTEXT, &stanza), Err(OpenError::OtherRecipient { recipient }));
        let renamed = Stanza { recipient: other.public().fingerprint(), ..stanza };
        assert_eq!(other.open_stanza(CONTEXT, &renamed), Err(OpenError::Refused));
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", pair(0xab));
        assert!(text.starts_with("ReadSecret(.., ReadPublic(") && !text.contains("abab"), "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn changed_stanzas_do_not_open(byte in 32usize..Stanza::LEN, bit in 0u8..8, seed: u8) {
            let secret = pair(seed);
            let stanza = seal_to(secret.public(), &mut SeededRng::new([seed]), CONTEXT, &Secret::from_bytes([7; 32]));
            let mut bytes = stanza.to_bytes();
            prop_assert_eq!(&Stanza::from_bytes(&bytes), &stanza);
            bytes[byte] ^= 1 << bit;
            prop_assert_eq!(secret.open_stanza(CONTEXT, &Stanza::from_bytes(&bytes)), Err(OpenError::Refused));
        }

        #[test]
        fn both_sides_share_the_secret(seed: [u8; 32], draw: [u8; 8]) {
            let secret = ReadSecret::from_seed(Secret::from_bytes(seed));
            let (ciphertext, shared) = encapsulate(secret.public(), &mut SeededRng::new(draw));
            prop_assert_eq!(secret.decapsulate(&ciphertext), shared);
        }
    }
}
