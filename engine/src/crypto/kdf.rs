//! Keys from people: a passphrase through Argon2id, or a recovery code that carries its 256 bits itself.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use super::hash;
use super::rng::Rng;
use super::secret::Secret;

/// Cost of one passphrase guess (Argon2id, RFC 9106, version 0x13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory (t).
    pub passes: u32,
    /// Lanes (p). They are filled one after another here, whatever their number.
    pub lanes: u32,
}

impl Argon2Params {
    /// 64 MiB, 3 passes, 4 lanes: the second recommendation of RFC 9106, because the first takes 2 GiB, which the memory
    /// that a backup is promised to stay within rules out. Also the floor of memory and passes.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// Most memory in KiB that a reader spends on a key slot that it found: 4 GiB.
    pub const MEMORY_KIB_MAX: u32 = 4 << 20;

    /// Most passes that a reader spends on a key slot that it found.
    pub const PASSES_MAX: u32 = 64;

    /// Most lanes.
    pub const LANES_MAX: u32 = 16;

    /// Itself, if within the bounds: the floor keeps a forged slot from making a passphrase cheap to guess, the ceiling
    /// keeps it from taking the machine down.
    pub fn validated(self) -> Result<Self, KdfError> {
        let check = |what, value, min, max| match value {
            value if (min..=max).contains(&value) => Ok(()),
            value => Err(KdfError::OutOfRange { what, value, min, max }),
        };
        check("memory (KiB)", self.memory_kib, Self::DEFAULT.memory_kib, Self::MEMORY_KIB_MAX)?;
        check("passes", self.passes, Self::DEFAULT.passes, Self::PASSES_MAX)?;
        check("lanes", self.lanes, 1, Self::LANES_MAX)?;
        Ok(self)
    }
}

impl Default for Argon2Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// No key could be derived from the passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KdfError {
    /// A parameter outside of what [`Argon2Params::validated`] lets pass.
    #[error("Argon2id {what} of {value} is refused: allowed are {min} to {max}")]
    OutOfRange {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: u32,
        /// Least value that is allowed.
        min: u32,
        /// Greatest value that is allowed.
        max: u32,
    },
    /// The memory that the parameters ask for is not to be had.
    #[error("Argon2id needs {memory_kib} KiB of memory, which the system does not give; free some, or raise the limit")]
    OutOfMemory {
        /// Memory asked for, in KiB.
        memory_kib: u32,
    },
    /// More than 4 GiB of passphrase.
    #[error("the passphrase is too long for Argon2id")]
    TooLong,
}

/// The key of `passphrase` (its bytes as they are: normalise text before) and `salt` under `params`, which are
/// [validated](Argon2Params::validated) first.
///
/// Takes `params.memory_kib` of memory and, at the default, some 0.2 s; the memory is wiped and returned to the system
/// before this returns. A reader that tries several slots pays once for each.
pub fn derive_passphrase(passphrase: &[u8], salt: &[u8; 16], params: Argon2Params) -> Result<Secret, KdfError> {
    argon2id(passphrase, salt, params.validated()?)
}

fn argon2id(passphrase: &[u8], salt: &[u8; 16], params: Argon2Params) -> Result<Secret, KdfError> {
    let costs = Params::new(params.memory_kib, params.passes, params.lanes, Some(Secret::LEN))
        .expect("validated parameters are within Argon2's own bounds");
    let mut memory = memory_of(costs.block_count()).ok_or(KdfError::OutOfMemory { memory_kib: params.memory_kib })?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, costs);
    let mut result = Ok(());
    let key = Secret::filled(|out| {
        result = argon2.hash_password_into_with_memory(passphrase, salt, out, &mut memory[..]);
    });
    memory.zeroize();
    // Salt, output and memory have their widths above; only the passphrase comes from outside.
    result.map_err(|_| KdfError::TooLong)?;
    Ok(key)
}

/// The working memory, or `None` where the system has not as much: an allocation that fails must not abort the process.
fn memory_of(blocks: usize) -> Option<Vec<Block>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks).ok()?;
    memory.resize(blocks, Block::new());
    Some(memory)
}

/// 256 bits to be written on paper: 11 groups of 5 characters of Crockford's base32, such as `7ZV2K-...`.
///
/// 55 characters are 275 bits, most significant first: the 256 of the key, then a checksum of 19, so that of mistyped
/// codes one in half a million passes. No digit is spare: each key has one code.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryCode(Secret);

/// Text that is no recovery code. It does not repeat the text, which may be all but right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryCodeError {
    /// Wrong number of characters.
    #[error("a recovery code has {} characters in 11 groups of 5, and this one has {len}", RecoveryCode::CHARS)]
    Length {
        /// Characters that were given, blanks and dashes not counted.
        len: usize,
    },
    /// A character that no code has.
    #[error("character {position} of the recovery code (group {}) is none that a code has: check it", (position - 1) / 5 + 1)]
    Character {
        /// From 1, blanks and dashes not counted.
        position: usize,
    },
    /// All characters are possible, and they do not fit together.
    #[error("the recovery code has a typo: its checksum does not fit; compare it with the paper, group by group")]
    Checksum,
}

impl RecoveryCode {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const CHARS: usize = 55;
    const CHECK_BITS: u32 = 19;

    /// Draws a code.
    pub fn generate(rng: &mut dyn Rng) -> Self {
        Self(Secret::random(rng))
    }

    /// Reads a code as people type it: upper or lower case, blanks and dashes anywhere, O for 0, I or L for 1.
    pub fn parse(text: &str) -> Result<Self, RecoveryCodeError> {
        let digits = Zeroizing::new(digits(text)?);
        if digits.len() != Self::CHARS {
            return Err(RecoveryCodeError::Length { len: digits.len() });
        }
        let key = Secret::filled(|bytes| {
            for bit in 0..256 {
                bytes[bit / 8] |= (digits[bit / 5] >> (4 - bit % 5) & 1) << (7 - bit % 8);
            }
        });
        let check = (256..275).fold(0, |check, bit| check << 1 | u32::from(digits[bit / 5] >> (4 - bit % 5) & 1));
        match check == checksum(&key) {
            true => Ok(Self(key)),
            false => Err(RecoveryCodeError::Checksum),
        }
    }

    /// The text for the paper: upper case, groups joined by dashes, 65 characters in all. Wiped when dropped.
    pub fn text(&self) -> Zeroizing<String> {
        let check = checksum(&self.0);
        let bit = |i: usize| match i {
            0..256 => self.0.expose()[i / 8] >> (7 - i % 8) & 1,
            _ => (check >> (274 - i)) as u8 & 1,
        };
        let mut text = Zeroizing::new(String::with_capacity(Self::CHARS + 10));
        for i in 0..Self::CHARS {
            if i > 0 && i % 5 == 0 {
                text.push('-');
            }
            let digit = (0..5).fold(0, |digit, j| digit << 1 | bit(i * 5 + j));
            text.push(Self::ALPHABET[usize::from(digit)] as char);
        }
        text
    }

    /// The 256 bits. Derive what wraps a slot from them.
    pub fn key(&self) -> Secret {
        self.0.clone()
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryCode(..)")
    }
}

/// The values (0 to 31) of the characters, blanks and dashes left out.
fn digits(text: &str) -> Result<Vec<u8>, RecoveryCodeError> {
    // Reserved at once: a vector that grows leaves copies of the key behind.
    let mut digits = Vec::with_capacity(text.len());
    let dash = |c: char| matches!(c, '-' | '_' | '\u{ad}' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    for c in text.chars().filter(|&c| !c.is_whitespace() && !dash(c)) {
        let c = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        match RecoveryCode::ALPHABET.iter().position(|&a| a as char == c) {
            Some(digit) => digits.push(digit as u8),
            None => {
                let position = digits.len() + 1;
                digits.zeroize();
                return Err(RecoveryCodeError::Character { position });
            }
        }
    }
    Ok(digits)
}

fn checksum(key: &Secret) -> u32 {
    let hash = hash::keyed(key, &[b"copal 2026 recovery code checksum v1"]);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) >> (32 - RecoveryCode::CHECK_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::rng::SeededRng;

    #[test]
    fn bounds_are_refused_on_either_side() {
        let good = Argon2Params::DEFAULT;
        assert_eq!(good.validated(), Ok(good));
        let most = Argon2Params { memory_kib: 4 << 20, passes: 64, lanes: 16 };
        assert_eq!(most.validated(), Ok(most));
        let bad = [
            Argon2Params { memory_kib: (64 << 10) - 1, ..good },
            Argon2Params { memory_kib: (4 << 20) + 1, ..good },
            Argon2Params { passes: 2, ..good },
            Argon2Params { passes: 65, ..good },
            Argon2Params { lanes: 0, ..good },
            Argon2Params { lanes: 17, ..good },
        ];
        for params in bad {
            assert!(matches!(params.validated(), Err(KdfError::OutOfRange { .. })), "{params:?}");
            assert!(derive_passphrase(b"passphrase", &[0; 16], params).is_err(), "{params:?}");
        }
    }

    /// Computed once with `argon2.low_level.hash_secret_raw` of argon2-cffi 25.1 (the reference C code).
    #[test]
    fn reference_implementation_agrees() {
        let key = derive_passphrase(b"correct horse", b"sixteen byte sal", Argon2Params::DEFAULT).unwrap();
        assert_eq!(crate::id::hex(key.expose()), "3e34b56cbdee3252bcff5feba3ebf59482797aae3987f17c0f1b8a6c967318e8");
        let small = Argon2Params { memory_kib: 256, passes: 5, lanes: 2 };
        let key = argon2id(b"", &[7; 16], small).unwrap();
        assert_eq!(crate::id::hex(key.expose()), "5a34d75cf8ed7e532f591e8a7bce1c88e6bbb304b5a773e9e19f4dd1a05c9751");
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        // 2^63 bytes: more than an address space, however generous the system is with promises.
        assert!(memory_of((isize::MAX as usize) / Block::SIZE).is_none());
        let text = KdfError::OutOfMemory { memory_kib: 65536 }.to_string();
        assert!(text.contains("65536 KiB"), "{text}");
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = RecoveryCode::generate(&mut SeededRng::new("recovery"));
        let text = code.text();
        assert_eq!((text.len(), text.split('-').count()), (65, 11));
        let variants = [
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace('-', " \t"),
            text.replace('-', " \u{2013} "),
            text.replace('0', "o").replace('1', "l"),
            text.replace('0', "O").replace('1', "I"),
            format!("\n{}\r\n", *text),
        ];
        for variant in variants {
            assert_eq!(RecoveryCode::parse(&variant), Ok(code.clone()), "{variant}");
        }
        assert_eq!(code.key(), Secret::random(&mut SeededRng::new("recovery")));
        assert_eq!(format!("{code:?}"), "RecoveryCode(..)");
    }

    #[test]
    fn zeros_and_ones_are_in_the_code_that_tests_their_look_alikes() {
        let code = RecoveryCode(Secret::from_bytes([0x00; 32])).text();
        assert!(code.starts_with("00000-00000"));
        let typed = code.replace('0', "O");
        assert!(RecoveryCode::parse(&typed).is_ok());
        let ones = RecoveryCode(Secret::filled(|bytes| bytes.fill_with(|| 0b0000_1000))).text();
        assert!(ones.contains('1') && RecoveryCode::parse(&ones.replace('1', "i")).is_ok());
    }

    #[test]
    fn errors_say_what_is_wrong_and_not_the_code() {
        let text = RecoveryCode::generate(&mut SeededRng::new("typo")).text();
        assert_eq!(RecoveryCode::parse(&text[..64]), Err(RecoveryCodeError::Length { len: 54 }));
        assert_eq!(RecoveryCode::parse(""), Err(RecoveryCodeError::Length { len: 0 }));
        let mut unknown = text.to_string();
        unknown.replace_range(6..7, "U");
        let error = RecoveryCode::parse(&unknown).unwrap_err();
        assert_eq!(error, RecoveryCodeError::Character { position: 6 });
        assert!(error.to_string().contains("group 2"), "{error}");
    }

    proptest! {
        #[test]
        fn every_key_has_one_code(bytes: [u8; 32]) {
            let code = RecoveryCode(Secret::from_bytes(bytes));
            prop_assert_eq!(RecoveryCode::parse(&code.text()), Ok(code));
        }

        /// A changed character is noticed but for one in 2^19: not within these cases.
        #[test]
        fn typos_are_noticed(seed: u64, at in 0usize..55, step in 1usize..32) {
            let code = RecoveryCode::generate(&mut SeededRng::new(seed.to_le_bytes()));
            let mut chars: Vec<u8> = code.text().bytes().filter(|&b| b != b'-').collect();
            let digit = RecoveryCode::ALPHABET.iter().position(|&a| a == chars[at]).unwrap();
            chars[at] = RecoveryCode::ALPHABET[(digit + step) % 32];
            let typo = String::from_utf8(chars).unwrap();
            prop_assert_eq!(RecoveryCode::parse(&typo), Err(RecoveryCodeError::Checksum));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            let _ = RecoveryCode::parse(&text);
        }
    }
}
