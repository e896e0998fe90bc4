//! Every decoder of the format: no bytes make it panic or take memory that they do not back, and none have a second encoding.
#![no_main]

use copal_engine::format::texts::decode_and_encode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    if let Some(again) = decode_and_encode(input.0, input.1) {
        assert_eq!(again, input.1);
    }
});
