//! [`Secret`]: 32 bytes that only their holder may see.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::rng::Rng;

/// A 256-bit key, or the secret that keys are derived from. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Width in bytes.
    pub const LEN: usize = 32;

    /// Takes these bytes. The caller wipes its own copy.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Draws a secret.
    pub fn random(rng: &mut dyn Rng) -> Self {
        Self::filled(|bytes| rng.fill(bytes))
    }

    /// A secret that `write` fills in place, so that no second copy of it is made.
    pub(crate) fn filled(write: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut secret = Self([0; 32]);
        write(&mut secret.0);
        secret
    }

    /// Its bytes. What is copied out of here is not wiped.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    /// Takes the same time wherever the first difference stands.
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
        difference == 0
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::super::rng::SeededRng;
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::from_bytes([0xab; 32]);
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret(..) Some(\n    Secret(..),\n)");
    }

    #[test]
    fn equality_looks_at_every_bit() {
        let secret = Secret::random(&mut SeededRng::new("secret"));
        assert_eq!(secret, secret.clone());
        for bit in 0..256 {
            let mut other = *secret.expose();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(secret, Secret::from_bytes(other), "bit {bit}");
        }
    }

    #[test]
    fn wiping_clears_the_bytes() {
        let mut secret = Secret::from_bytes([7; 32]);
        secret.zeroize();
        assert_eq!(secret.expose(), &[0; 32]);
        fn wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        wiped_on_drop(&secret);
    }
}
