//! Frames as a store may give them back: opened under a known key, so that also what stands behind the seal is reached.
#![no_main]

use copal_engine::crypto::{aead, hash, secret::Secret};
use copal_engine::format::blob::Origin;
use copal_engine::format::keys::{PackKey, SessionSecret};
use copal_engine::format::seal::FrameOpener;
use copal_engine::id::{RepositoryId, SessionId, WriterId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (sealed, bytes) = input;
    let origin =
        Origin { writer: WriterId::from_bytes([1; 16]), session: SessionId { n: 1, random: 1 }, salt: [1; 32] };
    let repository = RepositoryId::from_bytes([1; 32]);
    let key = PackKey::content(&SessionSecret(Secret::from_bytes([1; 32])), repository, &origin);
    let mut frame = bytes.to_vec();
    if sealed {
        let tag = [7; 32];
        let frame_key = hash::keyed_secret(key.secret(), &[b"key", &tag]);
        let mut body = bytes.to_vec();
        aead::seal(&frame_key, &mut body);
        frame = [&tag[..], &body].concat();
    }
    let mut text = Vec::new();
    if let Ok(header) = FrameOpener::default().open(&key, &mut frame, &mut text) {
        assert_eq!(text.len(), header.raw_len as usize);
    }
});
