//! The names of one directory, sorted and small: a directory may hold millions.

use std::io;

use crate::format::node::{NAME_BYTES_MAX, name_is_valid};

/// At most so many rejected names are kept word for word; all are counted.
const REJECTED_KEPT_MAX: usize = 64;

/// Names of a directory in bytewise order, each once, `.` and `..` left out.
///
/// Memory: name + 5 bytes each, in two allocations (a million names of 20 bytes: 25 MB).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Each name behind its length as one byte.
    arena: Vec<u8>,
    /// Where each length byte stands, in the order of the names.
    starts: Vec<u32>,
    rejected: Vec<Rejected>,
    rejected_count: u64,
}

/// A name that was listed but is not among the [`Names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Raw bytes as listed.
    pub name: Vec<u8>,
    /// Why it was left out.
    pub why: RejectedWhy,
}

/// Why a listed name was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedWhy {
    /// Empty, longer than 255 bytes, or with a `/`: the format (and Linux) has no such names. Seen from vfat, NTFS and
    /// SMB, whose 255 UTF-16 units may become 765 bytes, and from broken FUSE file systems.
    Unstorable,
    /// Listed more than once: a broken file system. The first stays.
    Duplicate,
}

impl Names {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The `n`th in bytewise order; panics where `n` is not below [`Names::len`].
    pub fn get(&self, n: usize) -> &[u8] {
        name_at(&self.arena, self.starts[n])
    }

    /// All of them in bytewise order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.starts.iter().map(|&start| name_at(&self.arena, start))
    }

    /// Whether `name` is one of them; a binary search.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.starts.binary_search_by(|&start| name_at(&self.arena, start).cmp(name)).is_ok()
    }

    /// What was listed and left out, the first 64 of them; each is a problem to report.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// How many were left out altogether.
    pub fn rejected_count(&self) -> u64 {
        self.rejected_count
    }

    /// Bytes of heap that it holds.
    pub fn heap_bytes(&self) -> usize {
        self.arena.capacity() + self.starts.capacity() * size_of::<u32>()
    }

    /// Adds a name as the directory lists it, in any order. Errors only past 4 GiB of names in one directory.
    pub(super) fn push(&mut self, name: &[u8]) -> io::Result<()> {
        if name == b"." || name == b".." {
            return Ok(());
        }
        if !name_is_valid(name) {
            self.reject(name.to_vec(), RejectedWhy::Unstorable);
            return Ok(());
        }
        const { assert!(NAME_BYTES_MAX <= u8::MAX as usize) };
        let start = u32::try_from(self.arena.len())
            .map_err(|_| io::Error::other("has more than 4 GiB of names; split the directory"))?;
        self.starts.push(start);
        self.arena.push(name.len() as u8);
        self.arena.extend_from_slice(name);
        Ok(())
    }

    /// Sorts, drops duplicates and gives back what growing reserved too much. To be called once, after all pushes.
    pub(super) fn finish(mut self) -> Self {
        let arena = std::mem::take(&mut self.arena);
        self.starts.sort_unstable_by(|&a, &b| name_at(&arena, a).cmp(name_at(&arena, b)));
        let mut doubles = Vec::new();
        self.starts.dedup_by(|b, a| {
            let same = name_at(&arena, *a) == name_at(&arena, *b);
            if same {
                doubles.push(*b);
            }
            same
        });
        for start in doubles {
            self.reject(name_at(&arena, start).to_vec(), RejectedWhy::Duplicate);
        }
        self.arena = arena;
        self.arena.shrink_to_fit();
        self.starts.shrink_to_fit();
        self
    }

    fn reject(&mut self, name: Vec<u8>, why: RejectedWhy) {
        self.rejected_count += 1;
        if self.rejected.len() < REJECTED_KEPT_MAX {
            self.rejected.push(Rejected { name, why });
        }
    }
}

fn name_at(arena: &[u8], start: u32) -> &[u8] {
    let start = start as usize;
    let len = arena[start] as usize;
    &arena[start + 1..start + 1 + len]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(list: &[&[u8]]) -> Names {
        let mut names = Names::default();
        for name in list {
            names.push(name).unwrap();
        }
        names.finish()
    }

    #[test]
    fn sorted_bytewise_without_dots() {
        let got = names(&[b"b", b".", b"\xff", b"..", b"a", b"B", b"a.b", b"a/".split_last().unwrap().1]);
        let listed: Vec<&[u8]> = got.iter().collect();
        assert_eq!(listed, [b"B".as_slice(), b"a", b"a.b", b"b", b"\xff"]);
        assert_eq!(got.rejected(), [Rejected { name: b"a".to_vec(), why: RejectedWhy::Duplicate }]);
        assert!(got.contains(b"a.b") && !got.contains(b"c"));
    }

    #[test]
    fn unstorable_names_are_told() {
        let long = vec![b'x'; 256];
        let got = names(&[b"", b"a/b", &long, b"ok"]);
        assert_eq!(got.len(), 1);
        assert_eq!(got.rejected_count(), 3);
        assert!(got.rejected().iter().all(|r| r.why == RejectedWhy::Unstorable));
        let many: Vec<&[u8]> = vec![b""; 1000];
        assert_eq!((names(&many).rejected().len(), names(&many).rejected_count()), (REJECTED_KEPT_MAX, 1000));
    }

    #[test]
    fn a_million_names_stay_small() {
        let mut names = Names::default();
        for n in 0..1_000_000_u64 {
            names.push(format!("{:020}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).as_bytes()).unwrap();
        }
        let names = names.finish();
        assert_eq!(names.len(), 1_000_000);
        assert!(names.heap_bytes() <= 25_000_000, "{}", names.heap_bytes());
        assert!(names.iter().is_sorted());
    }

    proptest! {
        #[test]
        fn same_as_a_set(list in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..60)) {
            let borrowed: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
            let got = names(&borrowed);
            let valid: std::collections::BTreeSet<&[u8]> =
                borrowed.iter().copied().filter(|n| name_is_valid(n)).collect();
            prop_assert!(got.iter().eq(valid.iter().copied()));
            let dots = borrowed.iter().filter(|n| **n == b"." || **n == b"..").count();
            prop_assert_eq!(got.len() + got.rejected_count() as usize + dots, list.len());
        }
    }
}
