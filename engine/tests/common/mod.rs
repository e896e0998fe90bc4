//! What the integration tests share.
#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

pub mod conformance;
pub mod s3_server;

use bytes::Bytes;
use copal_engine::store::Key;

/// The key `text`, which is a valid one.
pub fn key(text: &str) -> Key {
    Key::new(text).expect("a valid key")
}

/// `len` bytes that repeat nowhere near, each byte value among them.
pub fn body(len: usize, seed: u64) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect::<Vec<u8>>().into()
}

/// A fresh word for keys and prefixes.
pub fn random_word() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    copal_engine::id::hex(&bytes)
}
