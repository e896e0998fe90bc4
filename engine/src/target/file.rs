//! Regular files: written under a temporary name, in any order, and renamed when all of it is there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Compare, apply, apply_frozen};
use super::dir::TargetDir;
use super::existing::Decision;
use super::handle::{Inode, Reach};
use super::place::Temporary;
use super::xattr::ACL_ACCESS;
use super::{Error, Finished, Result};
use crate::format::node::{Metadata, NodeKind};

/// Flags that only take effect on a file without bytes: c (compress) and C (no copy on write).
const BEFORE_BYTES: u32 = 0x0000_0004 | 0x0080_0000;
/// With [`super::Options::sparse`], so many zeros at a multiple of it become a hole: the block size of common file systems.
const HOLE_BYTES: usize = 4_096;

/// Up to here the last byte gives a file its size, which spares a call.
const SMALL_BYTES: u64 = 1 << 20;

/// A file that is being written. Dropped unfinished, it leaves nothing behind and the file that stood there untouched.
///
/// Costs one descriptor. Bytes that are never written are a hole.
#[derive(Debug)]
pub struct TargetFile {
    dir: TargetDir,
    name: Vec<u8>,
    decision: Decision,
    size: u64,
    /// Where the bytes end that were written so far.
    end: AtomicU64,
    /// `None`: a dry run.
    open: Option<(Temporary, File)>,
}

impl TargetDir {
    /// Begins the file `name`, which [`super::decide`] said to create or replace.
    ///
    /// Others get no access that they will not have in the end.
    pub fn begin_file(&self, name: &[u8], metadata: &Metadata, decision: Decision) -> Result<TargetFile> {
        assert!(matches!(decision, Decision::Create | Decision::Replace), "a file that is kept is not begun");
        let NodeKind::File { size } = metadata.kind else { panic!("only regular files have bytes") };
        self.checked(name)?;
        let mode = first_mode(metadata);
        let open = Temporary::make(self, "create the file", name, |dir, name| create_locked(dir, name, mode))?;
        let open = open.map(|(temporary, fd)| (temporary, File::from(fd)));
        if let Some((_, open)) = &open {
            set_before_bytes(open.as_fd(), metadata.flags);
        }
        let mut file =
            TargetFile { dir: self.clone(), name: name.to_vec(), decision, size, end: AtomicU64::new(0), open };
        // Blocks that are left out read as zeros at once, and a file that is too large for this place is refused at once.
        if self.shared().options.sparse || size > SMALL_BYTES {
            file.fill_size()?;
        }
        Ok(file)
    }
}

/// The mode to create a file with: its own, which spares it one change, where that gives nobody an access that owner, group and
/// access list, which follow, will take away. We must be able to read it, or a later run could not see that it is locked.
fn first_mode(metadata: &Metadata) -> Mode {
    let (mode, group, others) = (metadata.mode & 0o7777, metadata.mode >> 3 & 7, metadata.mode & 7);
    let has_list = metadata.xattrs.iter().any(|xattr| xattr.name == ACL_ACCESS);
    match mode & 0o7022 == 0 && mode & 0o400 != 0 && group == others && !has_list {
        true => Mode::from_raw_mode(mode),
        false => Mode::RUSR | Mode::WUSR,
    }
}

/// Creates `name` and locks it, by which the next run sees that its writer still lives.
fn create_locked(dir: BorrowedFd<'_>, name: &[u8], mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, mode)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        // Another run took it for a leftover in the moment before it was locked.
        Err(Errno::WOULDBLOCK) => Err(Errno::EXIST),
        Ok(()) if rustix::fs::fstat(&fd)?.st_nlink == 0 => Err(Errno::EXIST),
        // A file system without locks gives no such protection, and restores all the same.
        _ => Ok(fd),
    }
}

/// Sets the flags that must be there before the first byte, as far as they can be; whether they stuck is seen at the end.
fn set_before_bytes(fd: BorrowedFd<'_>, flags: u32) {
    let wanted = flags & BEFORE_BYTES;
    if wanted != 0
        && let Ok(current) = rustix::fs::ioctl_getflags(fd)
    {
        let _ = rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(current.bits() | wanted));
    }
}

impl TargetFile {
    /// Writes `bytes` at `offset` bytes from the start. From any thread, in any order; ranges that meet or overlap are fine.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            let path = self.dir.checked(&self.name)?;
            return Err(Error::Beyond { path, offset, len, size: self.size });
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        let written = match self.dir.shared().options.sparse {
            true => write_sparse(file, offset, bytes),
            false => file.write_all_at(bytes, offset),
        };
        written.map_err(|source| Error::Io {
            action: "write to the file",
            path: self.dir.path().join(OsStr::from_bytes(&self.name)),
            source,
        })?;
        self.end.fetch_max(offset + len, Ordering::Relaxed);
        Ok(())
    }

    /// Reads `bytes.len()` bytes at `offset` back, to compare them with what was written. In a dry run there is nothing to
    /// read, and `bytes` stay as they are.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let Some((_, file)) = &self.open else { return Ok(()) };
        file.read_exact_at(bytes, offset).map_err(|source| Error::Io {
            action: "read the file back",
            path: self.dir.path().join(OsStr::from_bytes(&self.name)),
            source,
        })
    }

    /// Gives the file its size, where no byte did that: it ends with a hole.
    fn fill_size(&mut self) -> Result<()> {
        let Some((_, file)) = &self.open else { return Ok(()) };
        if *self.end.get_mut() < self.size {
            let error = |errno| self.dir.error("give the file its size", &self.name, errno);
            rustix::fs::ftruncate(file, self.size).map_err(error)?;
            *self.end.get_mut() = self.size;
        }
        Ok(())
    }

    /// Gives the file its attributes and its name, and lists the attributes that did not stick.
    ///
    /// A file with several names becomes immutable or append-only only when its [`super::Links`] are made.
    pub fn finish(mut self, metadata: &Metadata) -> Result<Finished> {
        self.fill_size()?;
        let Self { dir, name, decision, open, .. } = self;
        let Some((temporary, file)) = open else { return Ok(Finished::dry(&dir, &name)) };
        let inode = Inode { fd: file.as_fd(), reach: Reach::Open, is_symlink: false, is_dir: false };
        let mut applied = apply(&inode, metadata, dir.shared());
        temporary.place(&name, decision)?;
        if metadata.hardlink.is_none() {
            apply_frozen(&inode, metadata, &mut applied);
        }
        let compare = if metadata.hardlink.is_none() { Compare::All } else { Compare::NotFrozenYet };
        Finished::read_back(&dir, &name, &inode, metadata, &applied, compare)
    }
}

/// Writes `bytes` but for whole blocks of zeros, which the file already reads as.
fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let (mut written, mut at) = (0, 0);
    while at < bytes.len() {
        let into_block = ((offset + at as u64) % HOLE_BYTES as u64) as usize;
        let end = bytes.len().min(at + HOLE_BYTES - into_block);
        if end - at == HOLE_BYTES && bytes[at..end].iter().all(|&byte| byte == 0) {
            file.write_all_at(&bytes[written..at], offset + written as u64)?;
            written = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[written..], offset + written as u64)
}
