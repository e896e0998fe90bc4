//! Handles on inodes: how an entry is opened without following anything, and what can be done through the handle.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};

/// Longest path given to the kernel in one call; PATH_MAX is 4,096 with the NUL.
const PATH_BYTES_MAX: usize = 4_000;

/// What a handle allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Opened for reading or writing: every call by descriptor works.
    Open,
    /// Opened with `O_PATH`, as links and special files must be: attributes go through `/proc/self/fd`, and there are no
    /// chattr flags and no project id.
    PathOnly,
}

/// An inode that is held, so that nobody can swap it for another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) reach: Reach,
    pub(super) is_symlink: bool,
    pub(super) is_dir: bool,
}

impl Inode<'_> {
    /// A path to this very inode; the kernel does not follow it further, even if the inode is a symbolic link.
    pub(super) fn proc_path(&self) -> String {
        proc_path(self.fd)
    }
}

pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Status of one entry, of the link itself if it is one; `None` if there is none.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether both describe the same inode.
pub(super) fn is_same(a: &Stat, b: &Stat) -> bool {
    a.st_dev == b.st_dev && a.st_ino == b.st_ino
}

/// Opens one entry of `dir` with `flags`; fails with `ELOOP` on a symbolic link unless `flags` hold `O_PATH`.
pub(super) fn open_at(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens an existing regular file or directory for reading, without side effects if it is something else (`EINVAL` then).
pub(super) fn open_plain(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Stat)> {
    let is_plain = |stat: &Stat| matches!(file_type(stat), FileType::RegularFile | FileType::Directory);
    let before = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_plain(&before) {
        return Err(Errno::INVAL);
    }
    // Should somebody swap in a pipe right now: NONBLOCK keeps us from waiting at it.
    let fd = open_at(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&fd)?;
    if is_same(&before, &stat) { Ok((fd, stat)) } else { Err(Errno::INVAL) }
}

/// Opens the directory at `names` below `root`, through real directories only.
pub(super) fn open_beneath(root: BorrowedFd<'_>, names: &[&[u8]]) -> Result<OwnedFd> {
    let mut dir = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    let mut names = names;
    while !names.is_empty() {
        let (path, taken) = join(names);
        dir = open_path(dir.as_fd(), &path, &names[..taken])?;
        names = &names[taken..];
    }
    Ok(dir)
}

/// As many of `names` as fit into one path, at least one.
fn join(names: &[&[u8]]) -> (Vec<u8>, usize) {
    let mut path = names[0].to_vec();
    let mut taken = 1;
    for name in &names[1..] {
        if path.len() + 1 + name.len() > PATH_BYTES_MAX {
            break;
        }
        path.push(b'/');
        path.extend_from_slice(name);
        taken += 1;
    }
    (path, taken)
}

fn open_path(dir: BorrowedFd<'_>, path: &[u8], names: &[&[u8]]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..16 {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return open_stepwise(dir, names),
            result => return result,
        }
    }
    open_stepwise(dir, names)
}

fn open_stepwise(dir: BorrowedFd<'_>, names: &[&[u8]]) -> Result<OwnedFd> {
    let mut fd = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
    for name in names {
        fd = open_at(fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    }
    Ok(fd)
}

/// Opens a directory so that entries can be made and removed in it, and returns its status before.
///
/// Where it shuts its owner out, or is immutable or append-only, it is opened up as far as we may; what that did not
/// help with, the next call in it reports.
pub(super) fn open_for_work(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Stat, u32)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let (fd, stat) = match open_at(dir, name, flags) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            (fd, stat)
        }
        Err(Errno::ACCESS) => {
            let path = open_at(dir, name, OFlags::PATH | OFlags::DIRECTORY)?;
            let stat = rustix::fs::fstat(&path)?;
            rustix::fs::chmod(proc_path(path.as_fd()), Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))?;
            (open_at(path.as_fd(), b".", flags)?, stat)
        }
        Err(errno) => return Err(errno),
    };
    let iflags = thaw(fd.as_fd());
    if stat.st_mode & 0o700 != 0o700 {
        let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700));
    }
    Ok((fd, stat, iflags))
}

/// Flags that forbid every further change.
pub(super) const FROZEN: u32 = IFlags::IMMUTABLE.bits() | IFlags::APPEND.bits();

/// Takes immutable and append-only off an open file or directory, as far as we may; returns those that were set.
pub(super) fn thaw(fd: BorrowedFd<'_>) -> u32 {
    let Ok(flags) = rustix::fs::ioctl_getflags(fd) else { return 0 };
    let frozen = flags.bits() & FROZEN;
    if frozen != 0 {
        let _ = rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags.bits() & !FROZEN));
    }
    frozen
}

/// [`thaw`] by name, for entries that refuse to be removed or replaced. Whether anything may be different now.
pub(super) fn thaw_at(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    open_plain(dir, name).is_ok_and(|(fd, _)| thaw(fd.as_fd()) != 0)
}
