//! Where randomness comes from: always an argument, so that a run can be replayed from a seed.

use zeroize::Zeroize;

/// A source of bytes that nobody else can predict ([`SystemRng`]), or of bytes for a replay ([`SeededRng`]).
pub trait Rng: Send {
    /// Fills all of `out`.
    fn fill(&mut self, out: &mut [u8]);
}

/// `N` bytes drawn from `rng`.
pub fn draw<const N: usize>(rng: &mut dyn Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill(&mut bytes);
    bytes
}

/// Another stream, as good as what it is drawn from: for a part of the work that draws beside its caller.
pub fn split(rng: &mut dyn Rng) -> SeededRng {
    SeededRng::new(draw::<32>(rng))
}

/// The kernel's generator (`getrandom(2)`; blocks once, early in boot, until it is seeded).
///
/// Panics where the system has no randomness to give: there is no safe way to go on, and no caller could find one.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            panic!(
                "the operating system gives no random bytes ({error}): no key can be made safely. \
                 Check that getrandom(2) is allowed by the seccomp profile and that /dev/urandom exists"
            );
        }
    }
}

/// BLAKE3 as a stream of bytes from a seed: the same seed, the same bytes, on every machine. It is the extended output of
/// keyed mode over no input, under the key derived from the seed with context "copal 2026 seeded rng v1".
///
/// **For replays, tests and [`split`] only.** Whoever knows the seed knows every key drawn from it.
#[derive(Clone)]
pub struct SeededRng(blake3::OutputReader);

impl SeededRng {
    /// Starts the stream of `seed`, of any length.
    pub fn new(seed: impl AsRef<[u8]>) -> Self {
        let mut key = blake3::derive_key("copal 2026 seeded rng v1", seed.as_ref());
        let stream = blake3::Hasher::new_keyed(&key).finalize_xof();
        key.zeroize();
        Self(stream)
    }
}

impl Rng for SeededRng {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }
}

impl std::fmt::Debug for SeededRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeededRng(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_replayed_whatever_the_pieces() {
        let whole: [u8; 300] = draw(&mut SeededRng::new("seed"));
        let mut rng = SeededRng::new("seed");
        let mut pieces = [0; 300];
        for piece in pieces.chunks_mut(7) {
            rng.fill(piece);
        }
        assert_eq!(whole, pieces);
        assert_ne!(whole, draw(&mut SeededRng::new("other seed")));
    }

    #[test]
    fn the_system_does_not_repeat_itself() {
        assert_ne!(draw::<32>(&mut SystemRng), draw::<32>(&mut SystemRng));
        SystemRng.fill(&mut []);
    }
}
