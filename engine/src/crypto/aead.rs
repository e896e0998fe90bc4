//! AES-256-GCM under one rule: **one key seals one text**.
//!
//! The nonce is therefore always 0 and there is no associated data. That is safe, and safer than a counter or a random
//! nonce, because GCM only asks that no (key, nonce) pair ever serves two texts, and every key here is derived from a keyed
//! hash of the very text that it seals (docs/format.md "Sealing"): the same key can only mean the same text, also after a
//! clone of the machine, a retry, or a generator that has died. What would be associated data goes into that hash instead.
//! A caller that seals with a key from elsewhere must draw or derive it for this one text.
//!
//! Sealed bytes are the ciphertext, as long as the text, then a tag of [`TAG_LEN`] bytes. `aws-lc-rs` does the work (about
//! 20 GB/s a core), the `aes-gcm` crate under the feature `pure-rust-aead` (about 3); both write the same bytes, and a test
//! holds them together.

use super::secret::Secret;

pub use super::OpenError;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// The one nonce: see the head of this module.
const NONCE: [u8; 12] = [0; 12];

#[cfg(not(feature = "pure-rust-aead"))]
use lc as backend;
#[cfg(feature = "pure-rust-aead")]
use portable as backend;

/// Encrypts all of `buf` in place and appends the tag. `key` seals this one text.
pub fn seal(key: &Secret, buf: &mut Vec<u8>) {
    let tag = seal_in_place(key, buf);
    buf.extend_from_slice(&tag);
}

/// Encrypts all of `buf` in place and returns the tag that belongs behind it. `key` seals this one text.
///
/// Panics above 64 GiB, which is GCM's limit and far above any object.
pub fn seal_in_place(key: &Secret, buf: &mut [u8]) -> [u8; TAG_LEN] {
    backend::seal_in_place(key, buf)
}

/// Verifies and decrypts `buf` (ciphertext, then tag) in place and returns the text: all but the last [`TAG_LEN`] bytes.
///
/// [`OpenError::TooShort`] for less than a tag, [`OpenError::Refused`] when the tag does not fit; after an error the bytes
/// of `buf` mean nothing.
pub fn open_in_place<'a>(key: &Secret, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
    if buf.len() < TAG_LEN {
        return Err(OpenError::TooShort { len: buf.len(), min: TAG_LEN });
    }
    backend::open_in_place(key, buf).ok_or(OpenError::Refused)
}

#[cfg(any(test, not(feature = "pure-rust-aead")))]
mod lc {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::{NONCE, Secret, TAG_LEN};

    pub(super) fn seal_in_place(key: &Secret, buf: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = cipher(key)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(NONCE), Aad::empty(), buf)
            .expect("a text under GCM's limit of 64 GiB");
        tag.as_ref().try_into().expect("AES-256-GCM has a 16-byte tag")
    }

    pub(super) fn open_in_place<'a>(key: &Secret, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        cipher(key).open_in_place(Nonce::assume_unique_for_key(NONCE), Aad::empty(), buf).ok()
    }

    fn cipher(key: &Secret) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256-GCM takes a 32-byte key"))
    }
}

#[cfg(any(test, feature = "pure-rust-aead"))]
mod portable {
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

    use super::{NONCE, Secret, TAG_LEN};

    pub(super) fn seal_in_place(key: &Secret, buf: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = cipher(key)
            .encrypt_inout_detached(&NONCE.into(), b"", buf.into())
            .expect("a text under GCM's limit of 64 GiB");
        tag.into()
    }

    pub(super) fn open_in_place<'a>(key: &Secret, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (text, tag) = buf.split_last_chunk_mut::<TAG_LEN>()?;
        cipher(key).decrypt_inout_detached(&NONCE.into(), b"", (&mut *text).into(), &(*tag).into()).ok()?;
        Some(text)
    }

    fn cipher(key: &Secret) -> Aes256Gcm {
        Aes256Gcm::new(key.expose().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::from_bytes([byte; 32])
    }

    /// Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation": zero key, zero nonce, one zero block.
    #[test]
    fn published_vector() {
        let mut buf = vec![0; 16];
        seal(&key(0), &mut buf);
        assert_eq!(crate::id::hex(&buf), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }

    #[test]
    fn too_short_is_no_panic() {
        for len in 0..TAG_LEN {
            let expected = Err(OpenError::TooShort { len, min: TAG_LEN });
            assert_eq!(open_in_place(&key(1), &mut vec![0; len]), expected);
        }
        assert_eq!(open_in_place(&key(1), &mut [0; TAG_LEN]), Err(OpenError::Refused));
    }

    #[test]
    fn the_empty_text_is_a_tag() {
        let mut buf = Vec::new();
        seal(&key(1), &mut buf);
        assert_eq!(buf.len(), TAG_LEN);
        assert_eq!(open_in_place(&key(1), &mut buf), Ok(&mut [][..]));
    }

    #[test]
    fn every_bit_is_authenticated() {
        let mut sealed = b"forty-two".to_vec();
        seal(&key(1), &mut sealed);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_in_place(&key(1), &mut changed), Err(OpenError::Refused), "bit {bit}");
        }
        assert_eq!(open_in_place(&key(2), &mut sealed.clone()), Err(OpenError::Refused));
        sealed.push(0);
        assert_eq!(open_in_place(&key(1), &mut sealed), Err(OpenError::Refused));
    }

    proptest! {
        /// Each implementation writes the other's bytes and opens them.
        #[test]
        fn both_implementations_agree(key: [u8; 32], text in prop::collection::vec(any::<u8>(), 0..5000)) {
            let key = Secret::from_bytes(key);
            let (mut a, mut b) = (text.clone(), text.clone());
            let (tag_a, tag_b) = (lc::seal_in_place(&key, &mut a), portable::seal_in_place(&key, &mut b));
            prop_assert_eq!((&a, tag_a), (&b, tag_b));
            a.extend_from_slice(&tag_a);
            b.extend_from_slice(&tag_b);
            let opened = portable::open_in_place(&key, &mut a).map(|text| text.to_vec());
            prop_assert_eq!(opened.as_ref(), Some(&text));
            let opened = lc::open_in_place(&key, &mut b).map(|text| text.to_vec());
            prop_assert_eq!(opened, Some(text));
        }

        #[test]
        fn both_implementations_refuse_alike(key: [u8; 32], mut bytes in prop::collection::vec(any::<u8>(), 16..200)) {
            let key = Secret::from_bytes(key);
            prop_assert!(lc::open_in_place(&key, &mut bytes.clone()).is_none());
            prop_assert!(portable::open_in_place(&key, &mut bytes).is_none());
        }

        #[test]
        fn open_gives_back_what_was_sealed(key: [u8; 32], text: Vec<u8>) {
            let key = Secret::from_bytes(key);
            let mut buf = text.clone();
            seal(&key, &mut buf);
            prop_assert_eq!(buf.len(), text.len() + TAG_LEN);
            prop_assert_eq!(open_in_place(&key, &mut buf).map(|text| text.to_vec()), Ok(text));
        }
    }
}
