//! Files of the local index, as a damaged disk or another user may have left them.

use copal_engine::id::BlobId;
use copal_engine::repo::index::fuzz_run;

/// The first 32 bytes are an id to look up, the rest is the file but for its hash.
pub fn run(bytes: &[u8]) {
    let Some((id, body)) = bytes.split_first_chunk() else { return };
    let _ = fuzz_run(body.to_vec(), &BlobId::from_bytes(*id));
}
