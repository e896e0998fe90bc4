//! zstd, one frame of plaintext at a time, with contexts that are reused and an output that is bounded on both ways.
//!
//! Whether bytes were compressed is the frame's to say ([`Codec`]), and so is their true length: no header in the
//! compressed bytes is believed. zstd's own checksum is off: AEAD and content id cover every byte.

use std::io::Cursor;
use std::str::FromStr;

use zstd::bulk;

/// How the bytes in a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// As one zstd frame (RFC 8878).
    Zstd = 1,
}

impl TryFrom<u8> for Codec {
    type Error = UnknownCodec;

    fn try_from(number: u8) -> Result<Self, UnknownCodec> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Zstd),
            number => Err(UnknownCodec { number }),
        }
    }
}

/// A codec number that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("codec {number} is unknown: the data was written by a newer version")]
pub struct UnknownCodec {
    /// The number.
    pub number: u8,
}

/// How much work compression may take. Speeds are of one core on a tar of /usr in frames of 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Level {
    /// None.
    Off,
    /// zstd 1: 0.54 GB/s, to 30 % of the length.
    Fast,
    /// zstd 3: 0.43 GB/s, to 27 %. The default: disks and networks hide most of what it takes more than `Fast`.
    #[default]
    Auto,
    /// zstd 9: a tenth less than `Auto` stores, at a fifth of its speed or so; for slow uplinks.
    Better,
    /// zstd 19: a quarter less than `Auto` stores, at a hundredth of its speed or so; for what is written once.
    Max,
}

impl Level {
    /// zstd's number for it; 0 is "off" to [`Compressor::compress`].
    pub fn zstd(self) -> i32 {
        match self {
            Self::Off => 0,
            Self::Fast => 1,
            Self::Auto => 3,
            Self::Better => 9,
            Self::Max => 19,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Fast => "fast",
            Self::Auto => "auto",
            Self::Better => "better",
            Self::Max => "max",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let levels = [Self::Off, Self::Fast, Self::Auto, Self::Better, Self::Max];
        levels.into_iter().find(|level| level.name() == text).ok_or(UnknownLevel)
    }
}

/// Text that names no level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compression is one of off, fast, auto, better, max")]
pub struct UnknownLevel;

/// A compression context: one a thread, used again and again.
///
/// Holds the tables of the highest level it was used with: for frames of 1 MiB that is 0.6 MiB at level 1, 1.3 at level 3,
/// 11 at level 9, 18 at level 19 (and 82 there for frames of 16 MiB).
pub struct Compressor {
    context: bulk::Compressor<'static>,
    /// What the context is set to; setting costs a little.
    level: i32,
}

impl Compressor {
    /// From this level on a frame first has to prove at [`Level::Fast`] that it shrinks at all; below, zstd gives up on
    /// incompressible bytes as quickly by itself. Measured on gzip files: level 9 goes from 0.7 to 4 GB/s, level 19 from
    /// 5 MB/s to 4 GB/s (and forgoes the 0.6 % that it found there); a tar of /usr pays an eighth at level 9, nothing at 19.
    const PROBE_FROM: i32 = 9;

    /// A context that has not worked yet.
    pub fn new() -> Self {
        Self { context: bulk::Compressor::default(), level: 0 }
    }

    /// Appends `raw`, compressed at zstd's `level` (1 to 22; 0 and below: off), to `out` and returns `true`; or leaves `out`
    /// as it was and returns `false`, if that would not be shorter than `raw`: then `raw` is to be stored as it is.
    pub fn compress(&mut self, raw: &[u8], level: i32, out: &mut Vec<u8>) -> bool {
        if level <= 0 || raw.is_empty() {
            return false;
        }
        let start = out.len();
        if level >= Self::PROBE_FROM {
            let shrinks = self.attempt(raw, Level::Fast.zstd(), out);
            out.truncate(start);
            if !shrinks {
                return false;
            }
        }
        self.attempt(raw, level, out)
    }

    fn attempt(&mut self, raw: &[u8], level: i32, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        // No more room than a success needs: zstd stops when it is full.
        out.reserve(raw.len() - 1);
        let mut tail = Cursor::new(&mut *out);
        tail.set_position(start as u64);
        let written = self.set_level(level).and_then(|()| self.context.compress_to_buffer(raw, &mut tail));
        // The other error there is, no memory for the tables, is answered alike: raw is always right.
        let shrunk = written.is_ok_and(|written| written < raw.len());
        if !shrunk {
            out.truncate(start);
        }
        shrunk
    }

    fn set_level(&mut self, level: i32) -> std::io::Result<()> {
        if self.level != level {
            self.level = 0;
            self.context.set_compression_level(level)?;
            self.level = level;
        }
        Ok(())
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Stored bytes that do not decompress to what they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The result is shorter than it was said to be.
    #[error("{stored} stored bytes decompress to {got} bytes instead of {expected}")]
    Length {
        /// Length of the stored bytes.
        stored: usize,
        /// Length of the result.
        got: usize,
        /// Length that was asked for.
        expected: usize,
    },
    /// No zstd frame, a damaged one, or one whose result is longer than it was said to be.
    #[error("{stored} stored bytes do not decompress to {expected} bytes: {reason}")]
    Damaged {
        /// Length of the stored bytes.
        stored: usize,
        /// Length that was asked for.
        expected: usize,
        /// zstd's own word for it.
        reason: String,
    },
    /// The system does not give memory for the result.
    #[error("no memory for the {expected} bytes that {stored} stored bytes decompress to")]
    OutOfMemory {
        /// Length of the stored bytes.
        stored: usize,
        /// Length that was asked for.
        expected: usize,
    },
}

/// A decompression context: one a thread, used again and again.
pub struct Decompressor(bulk::Decompressor<'static>);

impl Decompressor {
    /// A context that has not worked yet.
    pub fn new() -> Self {
        Self(bulk::Decompressor::default())
    }

    /// Appends to `out` the exactly `raw_len` bytes that `stored` decompresses to, or leaves `out` as it was.
    ///
    /// The caller has capped `raw_len`: that much is allocated, and never more, whatever `stored` says of itself.
    pub fn decompress(&mut self, stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
        let (start, expected) = (out.len(), raw_len);
        let out_of_memory = |_| DecompressError::OutOfMemory { stored: stored.len(), expected };
        out.try_reserve_exact(raw_len).map_err(out_of_memory)?;
        let mut tail = Cursor::new(&mut *out);
        tail.set_position(start as u64);
        let result = match self.0.decompress_to_buffer(stored, &mut tail) {
            Ok(got) if got == expected => return Ok(()),
            Ok(got) => DecompressError::Length { stored: stored.len(), got, expected },
            Err(error) => DecompressError::Damaged { stored: stored.len(), expected, reason: error.to_string() },
        };
        out.truncate(start);
        Err(result)
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::rng::{Rng, SeededRng};

    fn text(len: usize) -> Vec<u8> {
        (0..).flat_map(|n: u32| format!("line {n} of {}\n", n % 7).into_bytes()).take(len).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        SeededRng::new("noise").fill(&mut bytes);
        bytes
    }

    #[test]
    fn text_shrinks_and_comes_back() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let raw = text(200_000);
        let mut sizes = Vec::new();
        for level in [Level::Fast, Level::Auto, Level::Better, Level::Max, Level::Fast] {
            let mut stored = b"head".to_vec();
            assert!(compressor.compress(&raw, level.zstd(), &mut stored));
            assert_eq!(&stored[..4], b"head");
            let mut back = b"head".to_vec();
            decompressor.decompress(&stored[4..], raw.len(), &mut back).unwrap();
            assert_eq!(&back[4..], raw);
            sizes.push(stored.len());
        }
        assert!(sizes.iter().all(|&size| size < raw.len() / 5), "{sizes:?}");
        // A reused context writes what a fresh one does: same bytes, same level, same result.
        assert_eq!(sizes[4], sizes[0]);
    }

    #[test]
    fn noise_stays_raw_and_out_untouched() {
        let mut compressor = Compressor::new();
        for raw in [&noise(100_000)[..], &noise(1), b"ab", b""] {
            for level in [-5, 0, 1, 3, 9, 19] {
                // With room to spare, zstd writes its longer result, and it has to be taken back.
                for room in [4, 200_000] {
                    let mut out = Vec::with_capacity(room);
                    out.extend_from_slice(b"head");
                    assert!(!compressor.compress(raw, level, &mut out), "{} bytes, level {level}", raw.len());
                    assert_eq!(out, b"head");
                }
            }
        }
        // And the context still works after it gave up in the middle of a frame.
        assert!(compressor.compress(&text(1000), 3, &mut Vec::new()));
    }

    #[test]
    fn another_length_is_refused() {
        let raw = text(5000);
        let mut stored = Vec::new();
        assert!(Compressor::new().compress(&raw, 3, &mut stored));
        let mut decompressor = Decompressor::new();
        for expected in [0, 1, 4999, 5001, 100_000] {
            // Room in `out` does not make a longer result acceptable.
            let mut out = Vec::with_capacity(200_000);
            out.extend_from_slice(b"head");
            assert!(decompressor.decompress(&stored, expected, &mut out).is_err(), "{expected}");
            assert_eq!(out, b"head");
        }
        assert_eq!(
            decompressor.decompress(&stored, 5001, &mut Vec::new()),
            Err(DecompressError::Length { stored: stored.len(), got: 5000, expected: 5001 })
        );
    }

    #[test]
    fn a_bomb_allocates_no_more_than_it_was_said_to_hold() {
        let mut bomb = Vec::new();
        assert!(Compressor::new().compress(&vec![0; 64 << 20], 1, &mut bomb));
        let mut out = Vec::new();
        let error = Decompressor::new().decompress(&bomb, 1000, &mut out).unwrap_err();
        assert!(matches!(error, DecompressError::Damaged { expected: 1000, .. }), "{error}");
        assert!(out.capacity() <= 1000);
    }

    #[test]
    fn levels_and_codecs_have_one_name_each() {
        for level in [Level::Off, Level::Fast, Level::Auto, Level::Better, Level::Max] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("best".parse::<Level>(), Err(UnknownLevel));
        assert_eq!(Codec::try_from(Codec::None as u8), Ok(Codec::None));
        assert_eq!(Codec::try_from(Codec::Zstd as u8), Ok(Codec::Zstd));
        assert_eq!(Codec::try_from(2), Err(UnknownCodec { number: 2 }));
    }

    proptest! {
        #[test]
        fn what_shrinks_comes_back(seed: Vec<u8>, repeat in 1usize..50, level in 1i32..=12) {
            let raw = seed.repeat(repeat);
            let mut stored = Vec::new();
            if Compressor::new().compress(&raw, level, &mut stored) {
                prop_assert!(stored.len() < raw.len());
                let mut back = Vec::new();
                prop_assert_eq!(Decompressor::new().decompress(&stored, raw.len(), &mut back), Ok(()));
                prop_assert_eq!(back, raw);
            } else {
                prop_assert!(stored.is_empty());
            }
        }

        #[test]
        fn damage_is_an_error_or_the_right_length(at in 0usize..400, bit in 0u8..8) {
            let raw = text(5000);
            let mut stored = Vec::new();
            prop_assert!(Compressor::new().compress(&raw, 3, &mut stored));
            let at = at % stored.len();
            stored[at] ^= 1 << bit;
            let mut out = Vec::new();
            match Decompressor::new().decompress(&stored, raw.len(), &mut out) {
                Ok(()) => prop_assert_eq!(out.len(), raw.len()),
                Err(_) => prop_assert!(out.is_empty()),
            }
        }

        #[test]
        fn any_bytes_are_answered(stored: Vec<u8>, raw_len in 0usize..10_000) {
            let mut out = Vec::new();
            let _ = Decompressor::new().decompress(&stored, raw_len, &mut out);
            prop_assert!(out.is_empty() || out.len() == raw_len);
        }
    }
}
