//! What the file system says about one entry, from a single statx.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp, makedev, statx};

use super::Options;
use crate::format::node::Timestamp;

/// A file whose inode changed less than this many seconds before the backup began may change again without its times
/// telling: file systems round times (ext3 to 1 s, FAT to 2 s).
const SETTLED_AFTER_SECS: i64 = 2;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A UNIX socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Everything statx tells about an entry, never following a symlink in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes (of a symlink: of its target).
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names it has; 1 for directories of btrfs and others that do not count.
    pub nlink: u64,
    /// Device that holds it, as Linux's 64-bit `dev_t`.
    pub dev: u64,
    /// Inode number on that device.
    pub ino: u64,
    /// Device that it stands for (character and block devices), else 0.
    pub rdev: u64,
    /// Last change of the bytes.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Birth, where the file system tells.
    pub btime: Option<Timestamp>,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Mount through which it was reached; 0 where the kernel does not tell (before Linux 5.8).
    pub mount_id: u64,
    /// Whether it is the root of a mount; false where the kernel does not tell.
    pub is_mount_root: bool,
}

impl Stat {
    /// Of the entry `name` in `dir`. Neither follows a symlink nor triggers an automount.
    pub(super) fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        Self::from_statx(&statx(dir, name, flags, mask())?)
    }

    /// Of what is open as `fd` (also with `O_PATH`).
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        Self::from_statx(&statx(fd, c"", AtFlags::EMPTY_PATH, mask())?)
    }

    /// Whether it last changed at least 2 s before the backup began. Where it did not, or will in the future, the next
    /// backup must read it again even if its times stay the same: docs/format.md, tags. A ctime that is a copy's own or
    /// shall not be compared does not count here either.
    pub fn is_settled(&self, options: &Options) -> bool {
        let ctime_counts = !options.ignore_ctime && !options.ignore_inode;
        let last = if ctime_counts { self.ctime.max(self.mtime) } else { self.mtime };
        let settled_at = last.secs.checked_add(SETTLED_AFTER_SECS).map(|secs| Timestamp { secs, ..last });
        settled_at.is_some_and(|at| at <= options.now)
    }

    fn from_statx(got: &Statx) -> io::Result<Self> {
        let has = |flag: StatxFlags| got.stx_mask & flag.bits() != 0;
        Ok(Self {
            kind: kind_of(u32::from(got.stx_mode))?,
            size: got.stx_size,
            mode: u32::from(got.stx_mode) & 0o7777,
            uid: got.stx_uid,
            gid: got.stx_gid,
            nlink: u64::from(got.stx_nlink),
            dev: makedev(got.stx_dev_major, got.stx_dev_minor),
            ino: got.stx_ino,
            rdev: makedev(got.stx_rdev_major, got.stx_rdev_minor),
            mtime: timestamp(got.stx_mtime),
            ctime: timestamp(got.stx_ctime),
            atime: timestamp(got.stx_atime),
            btime: has(StatxFlags::BTIME).then(|| timestamp(got.stx_btime)),
            blocks: got.stx_blocks,
            mount_id: if has(StatxFlags::MNT_ID) { got.stx_mnt_id } else { 0 },
            is_mount_root: got.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }
}

fn mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID
}

fn kind_of(mode: u32) -> io::Result<Kind> {
    Ok(match mode & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Dir,
        0o120_000 => Kind::Symlink,
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        0o020_000 => Kind::Char,
        0o060_000 => Kind::Block,
        other => return Err(io::Error::other(format!("has a type that Linux does not know ({other:#o})"))),
    })
}

/// Nanoseconds out of range, which a broken network or FUSE file system may send, count as 0: the format refuses them.
fn timestamp(got: StatxTimestamp) -> Timestamp {
    Timestamp { secs: got.tv_sec, nanos: if got.tv_nsec < 1_000_000_000 { got.tv_nsec } else { 0 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_type_is_refused() {
        assert!(kind_of(0o030_644).is_err());
        assert_eq!(kind_of(0o100_644).unwrap(), Kind::File);
    }

    #[test]
    fn settled_means_two_whole_seconds_and_never_the_future() {
        let file = tempfile::tempfile().unwrap();
        let mut stat = Stat::of(&file).unwrap();
        let at = |secs, nanos| Timestamp { secs, nanos };
        let now = |secs, nanos| Options { now: at(secs, nanos), ..Options::default() };
        (stat.ctime, stat.mtime) = (at(100, 5), at(50, 0));
        assert!(!stat.is_settled(&now(102, 4)));
        assert!(stat.is_settled(&now(102, 5)));
        assert!(!stat.is_settled(&now(99, 0)));
        for options in [Options { ignore_ctime: true, ..now(60, 0) }, Options { ignore_inode: true, ..now(60, 0) }] {
            assert!(stat.is_settled(&options), "only the mtime counts");
        }
        stat.mtime = at(101, 0);
        assert!(!stat.is_settled(&now(102, 5)), "an mtime ahead of the ctime counts too");
        stat.ctime = at(i64::MAX, 0);
        assert!(!stat.is_settled(&now(i64::MAX, 0)));
    }
}
