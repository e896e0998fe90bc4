//! Binary fuse filters over the ids of a run, one per stretch of the id space, queried from the mapped bytes.
//!
//! A filter answers "certainly absent" for all but 1 in 256 absent ids from about 9 bits per id, so that a lookup of a
//! new blob touches none of the entries (Graf and Lemire, "Binary Fuse Filters", 2022; crate `xorf`). The parts keep the
//! memory of a build small: one needs about 35 bytes per id.
//!
//! A part's bytes: none = no id; one = anything may be there (the part could not be built); otherwise the 20 bytes of
//! xorf's descriptor and its fingerprints.

use std::path::Path;

use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};

use crate::id::BlobId;

use super::Result;
use super::files::{Output, Scratch};

/// Ids that a part should hold.
const PART_IDS: u64 = 32_768;
/// Most ids that a part is built for. Ids are uniform unless a writer made them up; then its part passes everything.
const PART_IDS_MAX: usize = 8 * PART_IDS as usize;
/// Most top bits of an id that select a part.
pub(super) const PART_BITS_MAX: u32 = 16;
const DESCRIPTOR_BYTES: usize = BinaryFuse8::DESCRIPTOR_LEN;
const PASS_ALL: [u8; 1] = [1];

/// The top `bits` bits of an id, `bits` at most 32.
pub(super) fn prefix(id: &[u8; 32], bits: u32) -> usize {
    let top = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
    if bits == 0 { 0 } else { (top >> (32 - bits)) as usize }
}

/// The smallest number of bits, at most `max`, that cuts `count` ids into stretches of about `each`.
pub(super) fn bits_for(count: u64, each: u64, max: u32) -> u32 {
    count.div_ceil(each).next_power_of_two().trailing_zeros().min(max)
}

/// What is hashed into a filter: 8 bytes that the parts are not selected by.
fn key(id: &[u8; 32]) -> u64 {
    u64::from_le_bytes(id[8..16].try_into().expect("8 bytes"))
}

/// Whether `id` may be among the ids of `part`. Never panics: bytes that are no filter let everything pass.
pub(super) fn may_contain(part: &[u8], id: &BlobId) -> bool {
    if part.is_empty() {
        return false;
    }
    let Some((descriptor, fingerprints)) = part.split_at_checked(DESCRIPTOR_BYTES) else { return true };
    !fits(descriptor, fingerprints.len())
        || BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&key(id.as_bytes()))
}

/// Whether every position that xorf derives from `descriptor` lies within `len` fingerprints.
///
/// It adds a segment's length to the first position twice and changes bits below that length, a power of two.
fn fits(descriptor: &[u8], len: usize) -> bool {
    let word = |at: usize| u32::from_le_bytes(descriptor[at..at + 4].try_into().expect("4 bytes"));
    let (segment, mask, all) = (word(8), word(12), word(16));
    segment.is_power_of_two()
        && mask == segment - 1
        && all > 0
        && all % segment == 0
        && u64::from(all) + 2 * u64::from(segment) <= (len as u64).min(u64::from(u32::MAX))
}

/// Takes the sorted ids of a run and writes its filter.
pub(super) struct FilterBuilder {
    bits: u32,
    /// Where each finished part ends in `parts`.
    ends: Vec<u64>,
    keys: Vec<u64>,
    too_many: bool,
    parts: Scratch,
}

impl FilterBuilder {
    /// For at most `count` ids.
    pub(super) fn new(dir: &Path, count: u64) -> Self {
        let bits = bits_for(count, PART_IDS, PART_BITS_MAX);
        Self { bits, ends: Vec::new(), keys: Vec::new(), too_many: false, parts: Scratch::new(dir) }
    }

    /// Top bits of an id that select its part.
    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    /// The next id in rising order; equal ones may follow each other.
    pub(super) fn add(&mut self, id: &BlobId) -> Result<()> {
        let part = prefix(id.as_bytes(), self.bits);
        while self.ends.len() < part {
            self.end_part()?;
        }
        let key = key(id.as_bytes());
        if self.keys.last() != Some(&key) && !self.too_many {
            self.too_many = self.keys.len() == PART_IDS_MAX;
            self.keys.push(key);
        }
        Ok(())
    }

    /// Writes `2^bits + 1` positions (8 bytes each, the first 0) and the parts; returns the length of the parts.
    pub(super) fn finish(mut self, out: &mut Output) -> Result<u64> {
        while self.ends.len() < 1 << self.bits {
            self.end_part()?;
        }
        out.write(&0u64.to_le_bytes())?;
        for end in &self.ends {
            out.write(&end.to_le_bytes())?;
        }
        let len = self.parts.len();
        out.write(&self.parts.finish()?)?;
        Ok(len)
    }

    fn end_part(&mut self) -> Result<()> {
        if !self.keys.is_empty() {
            self.keys.sort_unstable();
            self.keys.dedup();
            match BinaryFuse8::try_from(&self.keys) {
                Ok(filter) if !self.too_many => {
                    let mut descriptor = [0; DESCRIPTOR_BYTES];
                    filter.dma_copy_descriptor_to(&mut descriptor);
                    self.parts.write(&descriptor)?;
                    self.parts.write(filter.dma_fingerprints())?;
                }
                _ => self.parts.write(&PASS_ALL)?,
            }
        }
        self.keys.clear();
        self.too_many = false;
        self.ends.push(self.parts.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(count: u64) -> Vec<BlobId> {
        let mut ids: Vec<_> =
            (0..count).map(|n| BlobId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
        ids.sort_unstable();
        ids
    }

    /// The parts of a filter over `ids`, which are sorted.
    fn build(ids: &[BlobId]) -> (u32, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let mut filter = FilterBuilder::new(dir.path(), ids.len() as u64);
        let bits = filter.bits();
        ids.iter().for_each(|id| filter.add(id).unwrap());
        while filter.ends.len() < 1 << bits {
            filter.end_part().unwrap();
        }
        let bytes = filter.parts.finish().unwrap();
        let starts = std::iter::once(&0).chain(&filter.ends);
        (bits, starts.zip(&filter.ends).map(|(a, b)| bytes[*a as usize..*b as usize].to_vec()).collect())
    }

    #[test]
    fn holds_every_id_and_few_others() {
        for count in [0, 1, 2, 3, 100, 70_000] {
            let all = ids(count + 10_000);
            let (inside, outside): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(n, _)| (*n as u64) < count);
            let inside: Vec<BlobId> = inside.into_iter().map(|(_, id)| *id).collect();
            let (bits, parts) = build(&inside);
            let hit = |id: &BlobId| may_contain(&parts[prefix(id.as_bytes(), bits)], id);
            assert!(inside.iter().all(hit));
            let wrong = outside.iter().filter(|(_, id)| hit(id)).count();
            assert!(wrong < 100, "{wrong} of 10000 with {count} ids");
        }
    }

    #[test]
    fn answers_as_the_crate_does() {
        let inside = ids(5000);
        let (bits, parts) = build(&inside);
        assert_eq!(bits, 0);
        let mut keys: Vec<u64> = inside.iter().map(|id| key(id.as_bytes())).collect();
        keys.sort_unstable();
        let oracle = BinaryFuse8::try_from(&keys).unwrap();
        for n in 0..20_000u64 {
            let id = BlobId::from_bytes(*blake3::hash(&n.to_be_bytes()).as_bytes());
            assert_eq!(may_contain(&parts[0], &id), oracle.contains(&key(id.as_bytes())));
        }
    }

    #[test]
    fn made_up_ids_do_not_break_it() {
        // Equal keys in different ids, and far more ids in one part than it is built for.
        let mut same = vec![];
        for n in 0..1000u32 {
            let mut id = [0; 32];
            id[16..20].copy_from_slice(&n.to_be_bytes());
            same.push(BlobId::from_bytes(id));
        }
        let (_, parts) = build(&same);
        assert!(same.iter().all(|id| may_contain(&parts[0], id)));

        let crowd: Vec<_> = (0..PART_IDS_MAX as u64 + 5)
            .map(|n| {
                let mut id = [0; 32];
                id[8..16].copy_from_slice(&n.to_be_bytes());
                BlobId::from_bytes(id)
            })
            .collect();
        let (bits, parts) = build(&crowd);
        assert!(bits > 0 && parts[0] == PASS_ALL && parts[1].is_empty());
        assert!(may_contain(&parts[0], &crowd[17]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(part in proptest::collection::vec(any::<u8>(), 0..200), id: [u8; 32], shape: (u8, u8)) {
            may_contain(&part, &BlobId::from_bytes(id));
            // The same with a plausible descriptor, so that the fingerprints are reached.
            let mut part = part;
            if part.len() >= DESCRIPTOR_BYTES {
                let segment = 1u32 << (shape.0 % 8);
                part[8..12].copy_from_slice(&segment.to_le_bytes());
                part[12..16].copy_from_slice(&(segment - 1).to_le_bytes());
                part[16..20].copy_from_slice(&(segment * u32::from(shape.1 % 16)).to_le_bytes());
                may_contain(&part, &BlobId::from_bytes(id));
            }
        }
    }
}
