//! Every decoder of a text behind a seal: no bytes make it panic or take memory that they do not back, and none have a
//! second encoding.

use copal_engine::format::texts::decode_and_encode;

/// The first byte says which decoder.
pub fn run(bytes: &[u8]) {
    let Some((n, text)) = bytes.split_first() else { return };
    if let Some(again) = decode_and_encode(*n, text) {
        assert_eq!(again, text);
    }
}
