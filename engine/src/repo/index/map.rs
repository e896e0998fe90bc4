//! Bytes of our own immutable files, mapped: they are page cache that the kernel may drop, not heap.
//!
//! The only unsafe code of the index.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::Mmap;

/// Read-only bytes: a mapped file, or a buffer while there are too few of them for a file.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps the whole of `file`.
    ///
    /// Only for files of this index: run files (0600 or stricter against others, checked by the caller, never written
    /// after their rename, later only unlinked or replaced by a rename) and scratch files (unlinked, ours alone).
    pub(super) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapped bytes must not change while they are borrowed. The files above are never written or
        // truncated after this point by any process of ours, belong to our user and are not writable by everybody;
        // unlinking or renaming leaves the mapped inode alone. Whoever may break that already runs as this user.
        // All decoding copes with any bytes, so a change could at worst yield wrong answers, which readers of blobs
        // detect by their ids.
        Ok(Self::Mapped(unsafe { Mmap::map(file)? }))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn maps_what_was_written_also_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(&*Bytes::map(&file).unwrap(), b"");
        file.write_all(b"entries").unwrap();
        assert_eq!(&*Bytes::map(&file).unwrap(), b"entries");
    }
}
