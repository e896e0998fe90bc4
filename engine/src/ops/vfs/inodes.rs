//! The inodes that the kernel holds, each as small as can be: where its entry lies, not the entry.
//!
//! A number follows from the way to an entry, so that a directory can be listed without a table entry for each name, and
//! a mount that is made again shows the same numbers. The kernel counts its lookups; at the last forget an inode goes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::crypto::hash;
use crate::format::node::{HardLink, Timestamp};
use crate::id::BlobId;

use super::catalog::Root;

/// Number of the topmost directory, by the kernel's convention.
pub const ROOT_INO: u64 = 1;

/// What an inode is, by which its entry is found again.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A top directory and its path.
    Top(Arc<[Vec<u8>]>),
    /// A `latest`: the name beside it, and the time of what it names.
    Latest(Arc<[u8]>, Timestamp),
    /// The root of a snapshot, and its path.
    Root(Arc<Root>, Arc<[Vec<u8>]>),
    /// An entry of a stored directory.
    Entry(Place),
}

/// Where a stored entry lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Inode of its snapshot's root: hard links are told by it.
    pub(super) root: u64,
    /// The stretch of its directory.
    pub(super) stretch: BlobId,
    /// Position in the stretch.
    pub(super) at: u16,
}

/// An identity: 128 bits, of which the inode number is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u128);

impl Identity {
    fn of(parts: &[&[u8]]) -> Self {
        let hash = hash::blake3(parts);
        Self(u128::from_le_bytes(hash[..16].try_into().expect("16 of 32 bytes")))
    }

    /// Of an entry by its directory and name.
    pub(super) fn named(parent: u64, name: &[u8]) -> Self {
        Self::of(&[b"n", &parent.to_le_bytes(), name])
    }

    /// Of what stands under a name now and may be something else later: a snapshot, a link.
    pub(super) fn changing(parent: u64, name: &[u8], what: &[u8]) -> Self {
        Self::of(&[b"c", &parent.to_le_bytes(), &(name.len() as u64).to_le_bytes(), name, what])
    }

    /// Of a file with several names in the snapshot whose root is `root`.
    pub(super) fn linked(root: u64, link: &HardLink) -> Self {
        Self::of(&[b"l", &root.to_le_bytes(), &link.dev.to_le_bytes(), &link.ino.to_le_bytes()])
    }

    /// The inode number, unless another identity has it (see [`Table::acquire`]).
    pub(super) fn ino(self) -> u64 {
        next_ino(self.0 as u64)
    }
}

/// `ino`, or the first after it that may be an entry's: neither 0, which is none, nor the topmost directory's.
fn next_ino(ino: u64) -> u64 {
    if ino > ROOT_INO { ino } else { ROOT_INO + 1 }
}

/// An inode as it is held.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    identity: Identity,
    lookups: u64,
    /// Inode of the directory in which it was found, 0 for the topmost.
    pub(super) parent: u64,
    pub(super) what: What,
}

/// All inodes that the kernel holds.
#[derive(Debug)]
pub(super) struct Table(HashMap<u64, Inode>);

impl Table {
    /// The topmost directory alone.
    pub(super) fn new() -> Self {
        let top = Inode { identity: Identity(0), lookups: 1, parent: 0, what: What::Top(Arc::from([])) };
        Self(HashMap::from([(ROOT_INO, top)]))
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Inode> {
        self.0.get(&ino)
    }

    /// Counts one lookup; the inode's number. Two identities of one number, which chance alone does not bring, are told
    /// apart: the second gets the next number.
    pub(super) fn acquire(&mut self, identity: Identity, parent: u64, what: What) -> u64 {
        let mut ino = identity.ino();
        loop {
            match self.0.get_mut(&ino) {
                Some(inode) if inode.identity == identity => {
                    inode.lookups += 1;
                    return ino;
                }
                Some(_) => ino = next_ino(ino.wrapping_add(1)),
                None => {
                    self.0.insert(ino, Inode { identity, lookups: 1, parent, what });
                    return ino;
                }
            }
        }
    }

    /// Takes back `lookups` of an inode; one that has none left goes.
    pub(super) fn forget(&mut self, ino: u64, lookups: u64) {
        if ino == ROOT_INO {
            return;
        }
        if let Some(inode) = self.0.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            if inode.lookups == 0 {
                self.0.remove(&ino);
                self.shrink();
            }
        }
    }

    /// Gives memory back once most of it is unused.
    fn shrink(&mut self) {
        if self.0.capacity() > 4096 && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(at: u16) -> What {
        What::Entry(Place { root: 2, stretch: BlobId::from_bytes([7; 32]), at })
    }

    #[test]
    fn an_inode_lives_as_long_as_its_lookups() {
        let mut table = Table::new();
        let a = Identity::named(1, b"a");
        let ino = table.acquire(a, 1, place(0));
        assert_eq!(table.acquire(a, 1, place(0)), ino);
        assert_eq!(ino, a.ino());
        table.forget(ino, 1);
        assert!(table.get(ino).is_some());
        table.forget(ino, 1);
        assert!(table.get(ino).is_none());
        table.forget(ino, 1);
        table.forget(ROOT_INO, 99);
        assert!(table.get(ROOT_INO).is_some());
    }

    #[test]
    fn one_number_never_serves_two_identities() {
        let mut table = Table::new();
        let (a, b) = (Identity(7 << 64 | 99), Identity(8 << 64 | 99));
        let (first, second) = (table.acquire(a, 1, place(0)), table.acquire(b, 1, place(1)));
        assert_eq!((first, second), (99, 100));
        assert_eq!((table.acquire(a, 1, place(0)), table.acquire(b, 1, place(1))), (first, second));
        for low in [0, 1, u128::from(u64::MAX)] {
            assert!(Identity(low).ino() > ROOT_INO);
        }
        assert!(table.acquire(Identity(1 << 64 | u128::from(u64::MAX)), 1, place(2)) > ROOT_INO);
        assert!(table.acquire(Identity(2 << 64 | u128::from(u64::MAX)), 1, place(2)) > ROOT_INO);
    }

    #[test]
    fn identities_differ_by_directory_name_and_content() {
        let link = |dev, ino| HardLink { dev, ino, nlink: 2 };
        let all = [
            Identity::named(2, b"a"),
            Identity::named(3, b"a"),
            Identity::named(2, b"b"),
            Identity::changing(2, b"a", b"x"),
            Identity::changing(2, b"ax", b""),
            Identity::linked(2, &link(1, 2)),
            Identity::linked(2, &link(2, 1)),
            Identity::linked(3, &link(1, 2)),
        ];
        for (n, a) in all.iter().enumerate() {
            assert!(all[n + 1..].iter().all(|b| a != b));
        }
        assert_eq!(Identity::linked(2, &link(1, 2)), Identity::linked(2, &HardLink { dev: 1, ino: 2, nlink: 9 }));
    }

    #[test]
    fn memory_is_given_back() {
        let mut table = Table::new();
        let inos: Vec<u64> =
            (0..20_000u16).map(|n| table.acquire(Identity::named(1, &n.to_le_bytes()), 1, place(n))).collect();
        assert_eq!(table.len(), 20_001);
        inos.iter().for_each(|&ino| table.forget(ino, 1));
        assert_eq!(table.len(), 1);
        assert!(table.0.capacity() < 5000);
    }
}
