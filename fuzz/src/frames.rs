//! Frames as a store may give them back: opened under a known key, so that also what stands behind the seal is reached.

use copal_engine::compress::Decompressor;
use copal_engine::crypto::{aead, hash, secret::Secret};
use copal_engine::format::blob::{Origin, RAW_BYTES_MAX};
use copal_engine::format::keys::{PackKey, SessionSecret};
use copal_engine::format::seal::FrameOpener;
use copal_engine::id::{RepositoryId, SessionId, WriterId};

/// The first byte says how: 0 as stored, 1 sealed first, 2 the decompressor alone, told a length.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    match how % 3 {
        0 => open(bytes.to_vec()),
        1 => open(sealed(bytes)),
        _ => decompress(bytes),
    }
}

fn key() -> PackKey {
    let origin =
        Origin { writer: WriterId::from_bytes([1; 16]), session: SessionId { n: 1, random: 1 }, salt: [1; 32] };
    let secret = SessionSecret(Secret::from_bytes([1; 32]));
    PackKey::content(&secret, RepositoryId::from_bytes([1; 32]), &origin)
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let tag = [7; 32];
    let mut body = bytes.to_vec();
    aead::seal(&hash::keyed_secret(key().secret(), &[b"key", &tag]), &mut body);
    [&tag[..], &body].concat()
}

fn open(mut frame: Vec<u8>) {
    let mut text = Vec::new();
    if let Ok(header) = FrameOpener::default().open(&key(), &mut frame, &mut text) {
        assert_eq!(text.len(), header.raw_len as usize);
    }
}

fn decompress(bytes: &[u8]) {
    let Some((len, stored)) = bytes.split_first_chunk() else { return };
    let len = (u32::from_le_bytes(*len) % (RAW_BYTES_MAX + 1)) as usize;
    let mut text = Vec::new();
    if Decompressor::new().decompress(stored, len, &mut text).is_ok() {
        assert_eq!(text.len(), len);
    }
}
