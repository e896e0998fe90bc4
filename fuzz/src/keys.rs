//! Keys, signatures and sealed secrets that others made.

use std::sync::LazyLock;

use copal_engine::crypto::aead;
use copal_engine::crypto::kem::{ReadPublic, ReadSecret, Stanza, seal_to};
use copal_engine::crypto::rng::SeededRng;
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::sign::{SIGNATURE_LEN, VerifyingKey};

static READ: LazyLock<ReadSecret> = LazyLock::new(|| ReadSecret::from_seed(Secret::from_bytes([1; 32])));

/// The first byte says which.
pub fn run(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 4 {
        0 => public(bytes),
        1 => stanza(bytes),
        2 => signature(bytes),
        _ => drop(aead::open_in_place(&Secret::from_bytes([1; 32]), &mut bytes.to_vec())),
    }
}

/// A key that is accepted can be sealed to.
fn public(bytes: &[u8]) {
    let Ok(public) = ReadPublic::from_bytes(bytes) else { return };
    assert_eq!(&public.as_bytes()[..], bytes);
    seal_to(&public, &mut SeededRng::new([2; 32]), "fuzz", &Secret::from_bytes([3; 32]));
}

/// Padded with zeros to its width, and named as ours: what was not sealed to us does not open.
fn stanza(bytes: &[u8]) {
    let mut stored = [0; Stanza::LEN];
    let len = bytes.len().min(Stanza::LEN);
    stored[..len].copy_from_slice(&bytes[..len]);
    let mut stanza = Stanza::from_bytes(&stored);
    assert_eq!(stanza.to_bytes(), stored);
    stanza.recipient = READ.public().fingerprint();
    assert!(READ.open_stanza("fuzz", &stanza).is_err());
}

fn signature(bytes: &[u8]) {
    let Some((key, rest)) = bytes.split_first_chunk() else { return };
    let Some((signature, message)) = rest.split_first_chunk::<SIGNATURE_LEN>() else { return };
    if let Ok(key) = VerifyingKey::from_bytes(key) {
        let _ = key.verify("fuzz", message, signature);
    }
}
