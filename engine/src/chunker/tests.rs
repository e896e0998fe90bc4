use proptest::prelude::*;

use super::*;
use crate::crypto::rng::{Rng, SeededRng};

const KIB: u32 = 1024;

fn chunker(params: Params, seed: u8) -> Chunker {
    Chunker::new(params, Table::derive(&Secret::from_bytes([seed; 32])))
}

fn small() -> Params {
    Params::with_average(64 * KIB).unwrap()
}

/// Bytes of some structure: random, constant, periodic, of few symbols, and with copies of earlier stretches.
fn input(seed: u64, len: usize, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut rng = SeededRng::new(seed.to_le_bytes());
    match kind % 5 {
        0 => rng.fill(&mut bytes),
        1 => bytes.fill(seed as u8),
        2 => {
            let mut period = vec![0; 1 + (seed % 5000) as usize];
            rng.fill(&mut period);
            bytes.iter_mut().zip(period.iter().cycle()).for_each(|(byte, p)| *byte = *p);
        }
        3 => {
            rng.fill(&mut bytes);
            bytes.iter_mut().for_each(|byte| *byte = b"etaoin s"[usize::from(*byte & 7)]);
        }
        _ => {
            rng.fill(&mut bytes);
            let (from, to) = (len / 7, len / 2);
            bytes.copy_within(from..from + len / 3, to);
        }
    }
    bytes
}

/// FastCDC from the paper's text, a byte at a time, as a reader of docs/format.md would write it.
fn cut_by_the_book(params: &Params, gear: &[u64; 256], buf: &[u8]) -> usize {
    let (strict, loose) = params.masks();
    let (min, avg, max) = (params.min as usize, params.avg as usize, params.max as usize);
    let len = buf.len().min(max);
    let mut hash = 0u64;
    // The scan takes pairs of bytes: the last one of an odd length is no candidate.
    for i in min..len / 2 * 2 {
        hash = (hash << 1).wrapping_add(gear[usize::from(buf[i])]);
        if hash & (if i < avg { strict } else { loose }) == 0 {
            return i;
        }
    }
    len
}

fn lengths(bytes: &[u8], mut cut: impl FnMut(&[u8]) -> usize) -> Vec<usize> {
    let mut rest = bytes;
    let mut lengths = Vec::new();
    while !rest.is_empty() {
        let len = cut(rest);
        assert!(len > 0 && len <= rest.len());
        lengths.push(len);
        rest = &rest[len..];
    }
    lengths
}

/// A reader that gives few bytes at a time, is interrupted now and then, and fails once where it is told to.
struct Choppy<'a> {
    bytes: &'a [u8],
    rng: SeededRng,
    most: usize,
    fail_below: Option<usize>,
}

impl Read for Choppy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut draw = [0; 4];
        self.rng.fill(&mut draw);
        let draw = u32::from_le_bytes(draw) as usize;
        if draw.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.fail_below.take_if(|limit| self.bytes.len() < *limit).is_some() {
            return Err(io::Error::other("bad sector"));
        }
        let len = (1 + draw % self.most).min(out.len()).min(self.bytes.len());
        out[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        Ok(len)
    }
}

fn choppy(bytes: &[u8], most: usize) -> Choppy<'_> {
    Choppy { bytes, rng: SeededRng::new("choppy"), most, fail_below: None }
}

fn drain(mut cuts: Cuts<'_, impl Read>) -> (Vec<usize>, Vec<u8>) {
    let (mut lengths, mut bytes) = (Vec::new(), Vec::new());
    while let Some(chunk) = cuts.next_chunk().unwrap() {
        lengths.push(chunk.len());
        bytes.extend_from_slice(chunk);
    }
    assert!(cuts.next_chunk().unwrap().is_none(), "the end stays the end");
    (lengths, bytes)
}

fn any_params() -> impl Strategy<Value = Params> {
    (0u32..3, 1u32..=8, 0u32..1000, 0u8..=3).prop_map(|(shift, sixteenths, more, normalization)| {
        let avg = (64 * KIB) << shift;
        Params::new(avg / 16 * sixteenths, avg, avg * 2 + more * 2, normalization).unwrap()
    })
}

#[test]
fn params_are_checked() {
    let (min, avg, max) = (64 * KIB, 256 * KIB, 2048 * KIB);
    let good = Params::new(min, avg, max, 1).unwrap();
    assert_eq!((good.min(), good.avg(), good.max(), good.normalization()), (min, avg, max, 1));
    assert_eq!(Params::with_average(avg), Ok(good));
    assert_eq!(Params::with_average(512 << 10), Ok(Params::DEFAULT));
    assert_eq!(Params::with_average(4 << 20).unwrap().max(), Params::CHUNK_MAX);
    let bad = [
        (min, avg + 2, max, 1),
        (16 * KIB, 32 * KIB, max, 1),
        (1 << 20, 8 << 20, 16 << 20, 1),
        (0, 0, 0, 0),
        (min + 1, avg, max, 1),
        (avg / 16 - 2, avg, max, 1),
        (avg / 2 + 2, avg, max, 1),
        (min, avg, max + 1, 1),
        (min, avg, avg * 2 - 2, 1),
        (min, avg, Params::CHUNK_MAX + 2, 1),
        (min, avg, u32::MAX, 1),
        (min, avg, max, 4),
    ];
    for (min, avg, max, normalization) in bad {
        assert!(Params::new(min, avg, max, normalization).is_err(), "{min} {avg} {max} {normalization}");
    }
    assert!(Params::with_average(u32::MAX).unwrap_err().to_string().contains("power of two"));
}

#[test]
fn every_accepted_average_and_level_has_masks() {
    for shift in 16..=22 {
        for normalization in 0..=3 {
            let avg = 1 << shift;
            let params = Params::new(avg / 4, avg, avg * 2, normalization).unwrap();
            let (strict, loose) = params.masks();
            let bits = (strict.count_ones(), loose.count_ones());
            let level = u32::from(normalization);
            assert_eq!(bits, (shift + level, shift - level));
        }
    }
}

#[test]
fn tables_differ_by_key_and_show_nothing() {
    let (a, b) = (Table::derive(&Secret::from_bytes([1; 32])), Table::derive(&Secret::from_bytes([2; 32])));
    assert_ne!(a.gear, b.gear);
    assert_eq!(a.shifted[255], a.gear[255] << 1);
    assert_eq!(format!("{a:?}"), "Table(..)");
    let bytes = input(1, 2 << 20, 0);
    let cuts = |seed| lengths(&bytes, |rest| chunker(small(), seed).cut(rest));
    assert_ne!(cuts(1), cuts(2));
    assert_eq!(cuts(1), cuts(1));
}

#[test]
fn ends_of_input() {
    let chunker = chunker(small(), 1);
    assert_eq!(chunker.cut(&[]), 0);
    assert_eq!(drain(Cuts::new(&chunker, &[][..])), (vec![], vec![]));
    for len in [1, 16 * KIB - 1, 16 * KIB] {
        assert_eq!(chunker.cut(&vec![7; len as usize]), len as usize);
    }
    // The hash of a constant byte settles on one value: cut at once, or never but at the maximum.
    let zeros = vec![0; (small().max() * 2 + 5) as usize];
    let got = lengths(&zeros, |rest| chunker.cut(rest));
    assert_eq!(got, [small().max() as usize, small().max() as usize, 5]);
    assert_eq!(drain(Cuts::new(&chunker, &zeros[..])).0, got);
}

#[test]
fn an_insertion_moves_few_cuts() {
    let chunker = chunker(small(), 3);
    let bytes = input(5, 8 << 20, 0);
    let mut changed = bytes.clone();
    changed.splice(1_000_000..1_000_000, *b"seven b");
    let chunks = |bytes: &[u8]| {
        let mut at = 0;
        let cut = |len: usize| {
            at += len;
            hash::blake3(&[&bytes[at - len..at]])
        };
        lengths(bytes, |rest| chunker.cut(rest)).into_iter().map(cut).collect::<Vec<_>>()
    };
    let (before, after) = (chunks(&bytes), chunks(&changed));
    let new = after.iter().filter(|hash| !before.contains(hash)).count();
    assert!(before.len() > 80 && new <= 4, "{new} of {} chunks are new", after.len());
}

#[test]
fn a_read_error_is_passed_on_and_no_byte_is_lost() {
    let chunker = chunker(small(), 1);
    let bytes = input(9, 1 << 20, 0);
    let reader = Choppy { fail_below: Some(600_000), ..choppy(&bytes, 10_000) };
    let mut cuts = Cuts::new(&chunker, reader);
    let (mut got, mut errors) = (Vec::new(), 0);
    loop {
        match cuts.next_chunk() {
            Ok(Some(chunk)) => got.push(chunk.len()),
            Ok(None) => break,
            Err(error) => {
                assert_eq!(error.to_string(), "bad sector");
                errors += 1;
            }
        }
    }
    assert_eq!(errors, 1);
    assert_eq!(got, lengths(&bytes, |rest| chunker.cut(rest)));
}

#[test]
fn the_buffer_stays_within_its_bound_and_is_used_again() {
    let chunker = chunker(small(), 1);
    let zeros = vec![0; 3 << 20];
    let mut buffer = Vec::new();
    for bytes in [&input(1, 2 << 20, 0), &zeros, &input(2, 100, 0)] {
        let mut cuts = Cuts::with_buffer(&chunker, &bytes[..], buffer);
        let mut read = 0;
        while let Some(chunk) = cuts.next_chunk().unwrap() {
            assert_eq!(chunk, &bytes[read..read + chunk.len()]);
            read += chunk.len();
        }
        assert_eq!(read, bytes.len());
        buffer = cuts.into_buffer();
        assert!(buffer.len() <= 2 * small().max() as usize);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cuts_are_those_of_the_book(params in any_params(), seed: u64, len in 0usize..1_500_000, kind: u8) {
        let chunker = chunker(params, seed as u8);
        let bytes = input(seed, len, kind);
        let got = lengths(&bytes, |rest| chunker.cut(rest));
        let expected = lengths(&bytes, |rest| cut_by_the_book(&params, &chunker.table.gear, rest));
        prop_assert_eq!(&got, &expected);
        let (_, all_but_last) = got.split_last().map_or((&0, &[][..]), |(last, rest)| (last, rest));
        prop_assert!(all_but_last.iter().all(|&len| len >= params.min as usize && len <= params.max as usize));
    }

    #[test]
    fn cuts_do_not_depend_on_the_reads(params in any_params(), seed: u64, len in 0usize..1_500_000, kind: u8,
                                       most in 1000usize..400_000) {
        let chunker = chunker(params, seed as u8);
        let bytes = input(seed, len, kind);
        let expected = lengths(&bytes, |rest| chunker.cut(rest));
        prop_assert_eq!(drain(Cuts::new(&chunker, choppy(&bytes, most))), (expected.clone(), bytes.clone()));
        prop_assert_eq!(drain(Cuts::new(&chunker, &bytes[..])), (expected, bytes));
    }

    /// What `Cuts` builds on: a cut within a shorter buffer stays where it is when more bytes follow.
    #[test]
    fn a_cut_does_not_depend_on_what_follows(seed: u64, kind: u8, len in 0usize..600_000) {
        let chunker = chunker(small(), seed as u8);
        let bytes = input(seed, 600_000, kind);
        let short = chunker.cut(&bytes[..len]);
        prop_assert!(short == len || short == chunker.cut(&bytes));
    }
}
