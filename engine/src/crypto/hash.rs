//! BLAKE3 in its three modes. Parts are hashed one after another **without** a separator: the caller passes parts of fixed
//! width, or puts a length in front, so that no two lists of parts read the same.

use super::secret::Secret;

/// A secret derived from `parts` (BLAKE3 derive-key mode). `context` is a constant in the source, unique to the purpose:
/// "copal 2026 ... v1".
pub fn derive(context: &str, parts: &[&[u8]]) -> Secret {
    finish_secret(blake3::Hasher::new_derive_key(context), parts)
}

/// 32 bytes that only a holder of `key` can compute from `parts` (BLAKE3 keyed mode).
pub fn keyed(key: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    *fed(blake3::Hasher::new_keyed(key.expose()), parts).finalize().as_bytes()
}

/// As [`keyed`], where the result is itself a key.
pub fn keyed_secret(key: &Secret, parts: &[&[u8]]) -> Secret {
    finish_secret(blake3::Hasher::new_keyed(key.expose()), parts)
}

/// Plain BLAKE3 of `parts`.
pub fn blake3(parts: &[&[u8]]) -> [u8; 32] {
    *fed(blake3::Hasher::new(), parts).finalize().as_bytes()
}

/// Fills `out` with the stream of `key` and `label` (BLAKE3 keyed mode, extended output). A longer `out` begins with the
/// same bytes. Nobody without the key can tell it from random bytes; one label serves one purpose.
pub fn keystream(key: &Secret, label: &[u8], out: &mut [u8]) {
    fed(blake3::Hasher::new_keyed(key.expose()), &[label]).finalize_xof().fill(out);
}

/// Plain BLAKE3 of bytes that come in pieces, such as those of a pack.
#[derive(Debug, Clone, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The hash of all bytes so far; more may follow.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

fn fed(mut hasher: blake3::Hasher, parts: &[&[u8]]) -> blake3::Hasher {
    for part in parts {
        hasher.update(part);
    }
    hasher
}

fn finish_secret(hasher: blake3::Hasher, parts: &[&[u8]]) -> Secret {
    // The reader's first 32 bytes are the plain result; filling in place leaves no unwiped array behind.
    Secret::filled(|bytes| fed(hasher, parts).finalize_xof().fill(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: &str = "copal 2026 test of derive";

    #[test]
    fn modes_are_those_of_blake3() {
        let key = Secret::from_bytes([3; 32]);
        assert_eq!(derive(CONTEXT, &[b"a", b"bc"]).expose(), &blake3::derive_key(CONTEXT, b"abc"));
        assert_eq!(&keyed(&key, &[b"a", b"bc"]), blake3::keyed_hash(key.expose(), b"abc").as_bytes());
        assert_eq!(keyed_secret(&key, &[b"abc"]).expose(), &keyed(&key, &[b"abc"]));
        assert_eq!(&blake3(&[b"a", b"", b"bc"]), blake3::hash(b"abc").as_bytes());
        // From the published test vectors: the empty input.
        assert_eq!(crate::id::hex(&blake3(&[])[..8]), "af1349b9f5f9a1a6");
    }

    #[test]
    fn modes_contexts_and_labels_are_apart() {
        let key = Secret::from_bytes([3; 32]);
        let mut stream = [0; 32];
        keystream(&key, b"label", &mut stream);
        let mut other = [0; 32];
        keystream(&key, b"lab", &mut other);
        let all = [
            *derive(CONTEXT, &[b"label"]).expose(),
            *derive("copal 2026 another test", &[b"label"]).expose(),
            blake3(&[b"label"]),
            stream,
            other,
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes: Vec<u8>, cut in 0usize..200) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = Hasher::new();
            hasher.update(head).update(tail);
            prop_assert_eq!(hasher.finish(), blake3(&[&bytes]));
            prop_assert_eq!(hasher.finish(), blake3(&[head, tail]));
        }

        #[test]
        fn a_longer_stream_begins_with_the_shorter(short in 0usize..200, more in 0usize..200) {
            let key = Secret::from_bytes([9; 32]);
            let (mut a, mut b) = (vec![0; short], vec![0; short + more]);
            keystream(&key, b"padding", &mut a);
            keystream(&key, b"padding", &mut b);
            prop_assert_eq!(&a[..], &b[..short]);
        }
    }
}
