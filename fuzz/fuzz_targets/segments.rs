//! Whole objects as a store may give them back, under the key that opens them.
#![no_main]

use copal_engine::crypto::secret::Secret;
use copal_engine::format::keys::GraphKeys;
use copal_engine::format::{pack, segment::Segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let keys = GraphKeys::new(&Secret::from_bytes([1; 32]));
    let _ = Segment::decode(bytes, &keys);
    let _ = pack::open(bytes, &keys);
});
