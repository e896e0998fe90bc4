//! An open regular file: its holes, its bytes, and whether they stayed the same.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, retry_on_intr};

use super::{Kind, Options, Stat};
use crate::format::node::Extent;

/// An open regular file. It is read by position, so several threads may share it.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    ignore_inode: bool,
    ignore_ctime: bool,
    /// Whether the page cache did not hold it before: only then may what was read be dropped from it.
    may_drop_cache: AtomicBool,
}

/// What became of a file while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that shows.
    None,
    /// It is longer or shorter.
    Size {
        /// Bytes when it was stated.
        was: u64,
        /// Bytes now.
        is: u64,
    },
    /// Same length, but written to, or its attributes were changed: mtime or ctime differ.
    Times,
    /// Another file than the one that was stated.
    Replaced,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => write!(f, "did not change"),
            Self::Size { was, is } => write!(f, "changed while it was read: it had {was} bytes and has {is}"),
            Self::Times => write!(f, "changed while it was read"),
            Self::Replaced => write!(f, "was replaced while it was read"),
        }
    }
}

impl File {
    pub(super) fn new(fd: OwnedFd, options: &Options) -> Self {
        let Options { ignore_inode, ignore_ctime, .. } = *options;
        Self { fd, ignore_inode, ignore_ctime, may_drop_cache: AtomicBool::new(false) }
    }

    /// What it is now.
    pub fn stat(&self) -> io::Result<Stat> {
        Stat::of(&self.fd)
    }

    /// Reads at `offset` into `buf`; returns how many bytes, fewer than asked at any time, 0 only at the end of the file.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| pread(&self.fd, &mut *buf, offset))?)
    }

    /// The stretches below `size` that hold data, in order; what lies between them, and behind the last, are holes.
    ///
    /// Lazy: a file of a million holes takes no memory here, and two calls of lseek per stretch. Exact as far as the file
    /// system tells (its block size); one without SEEK_DATA gives one stretch. Preallocated blocks count as holes.
    pub fn extents(&self, size: u64) -> Extents<'_> {
        Extents { file: self, next: 0, size }
    }

    /// Compares it with what it was when it was stated, after its bytes were read.
    pub fn check_unchanged(&self, stat: &Stat) -> io::Result<Change> {
        let now = self.stat()?;
        let same_inode = now.ino == stat.ino || self.ignore_inode;
        let same_ctime = now.ctime == stat.ctime || self.ignore_ctime;
        Ok(if now.kind != Kind::File || now.dev != stat.dev || !same_inode {
            Change::Replaced
        } else if now.size != stat.size {
            Change::Size { was: stat.size, is: now.size }
        } else if now.mtime != stat.mtime || !same_ctime {
            Change::Times
        } else {
            Change::None
        })
    }

    /// Tells the kernel to read further ahead, and finds out whether the page cache held the file before.
    ///
    /// Up to four calls, which pay off from about a megabyte.
    pub fn advise_sequential(&self, size: u64) {
        self.may_drop_cache.store(!self.is_cached(size), Ordering::Relaxed);
        // Advice; where it is not taken, reading works as well.
        let _ = fadvise(&self.fd, 0, None, Advice::Sequential);
    }

    /// Drops `len` bytes from `offset` from the page cache, so that a backup does not push out what others use.
    ///
    /// Does nothing unless [`File::advise_sequential`] found that the cache did not hold the file before.
    pub fn advise_dontneed(&self, offset: u64, len: u64) {
        if let Some(len) = std::num::NonZeroU64::new(len)
            && self.may_drop_cache.load(Ordering::Relaxed)
        {
            let _ = fadvise(&self.fd, offset, Some(len), Advice::DontNeed);
        }
    }

    /// A sample of three bytes stands for the file: asking for each page takes mincore, and so a mapping, or Linux 6.5.
    /// Where the file system cannot answer without waiting, the file counts as cached and stays untouched.
    fn is_cached(&self, size: u64) -> bool {
        [0, size / 2, size.saturating_sub(1)].into_iter().any(|offset| {
            let mut byte = [0];
            let mut buffers = [io::IoSliceMut::new(&mut byte)];
            preadv2(&self.fd, &mut buffers, offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
        })
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Iterator of [`File::extents`]. Ends after the first error.
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a File,
    next: u64,
    size: u64,
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.size {
            return None;
        }
        let (start, end) = match self.seek() {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.next = self.size;
                return None;
            }
            Err(e) => {
                self.next = self.size;
                return Some(Err(e.into()));
            }
        };
        self.next = end;
        Some(Ok(Extent { start, len: end - start }))
    }
}

impl Extents<'_> {
    /// Start and end of the next data at or behind `next`, cut at `size`.
    fn seek(&self) -> rustix::io::Result<Option<(u64, u64)>> {
        let rest = Ok(Some((self.next, self.size)));
        let start = match seek(&self.file.fd, SeekFrom::Data(self.next)) {
            Ok(start) if start >= self.size => return Ok(None),
            Ok(start) => start,
            // Nothing but a hole up to the end, or the file became shorter.
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return rest,
            Err(e) => return Err(e),
        };
        let end = match seek(&self.file.fd, SeekFrom::Hole(start)) {
            Ok(end) => end.min(self.size),
            // Became shorter in between: reading will tell.
            Err(Errno::NXIO) => self.size,
            Err(e) => return Err(e),
        };
        // A file system whose answers go backwards would keep the loop here for ever.
        if start < self.next || end <= start { rest } else { Ok(Some((start, end))) }
    }
}
