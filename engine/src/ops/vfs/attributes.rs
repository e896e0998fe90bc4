//! What `stat` tells of an inode.

use crate::format::node::{Metadata, NodeKind, Timestamp};

/// Length in bytes of the unit in which space is counted (`st_blocks`).
pub const BLOCK_BYTES: u64 = 512;

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
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
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    pub(super) fn of(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::File { .. } => Self::File,
            NodeKind::Dir => Self::Dir,
            NodeKind::Symlink { .. } => Self::Symlink,
            NodeKind::Fifo => Self::Fifo,
            NodeKind::Socket => Self::Socket,
            NodeKind::CharDevice { .. } => Self::CharDevice,
            NodeKind::BlockDevice { .. } => Self::BlockDevice,
        }
    }
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; of a symlink that of its target; 0 for what has none.
    pub size: u64,
    /// Units of [`BLOCK_BYTES`] that its data takes, holes left out.
    pub blocks: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// How many names it had; 1 for a directory, which says that its subdirectories were not counted.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device, as Linux's 64-bit `dev_t`.
    pub rdev: u64,
    /// Last change of the bytes.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Whether its name stands for it as long as its directory lives: of everything in a snapshot, and of nothing above.
    pub lasting: bool,
}

impl Attributes {
    /// Those of a stored entry that holds `data` bytes outside of holes.
    pub(super) fn stored(ino: u64, m: &Metadata, data: u64) -> Self {
        let (size, rdev) = match &m.kind {
            NodeKind::File { size } => (*size, 0),
            NodeKind::Symlink { target } => (target.len() as u64, 0),
            NodeKind::CharDevice { rdev } | NodeKind::BlockDevice { rdev } => (0, *rdev),
            NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => (0, 0),
        };
        Self {
            ino,
            kind: FileKind::of(&m.kind),
            size,
            blocks: data.div_ceil(BLOCK_BYTES),
            mode: m.mode,
            nlink: m.hardlink.map_or(1, |l| l.nlink),
            uid: m.uid,
            gid: m.gid,
            rdev,
            mtime: m.mtime,
            atime: m.atime,
            ctime: m.ctime,
            lasting: true,
        }
    }

    /// Those of an entry that stands in no snapshot: a directory (or link) that everybody may read, as old as `time`.
    pub(super) fn made_up(ino: u64, kind: FileKind, size: u64, owner: (u32, u32), time: Timestamp) -> Self {
        Self {
            ino,
            kind,
            size,
            blocks: 0,
            mode: if kind == FileKind::Symlink { 0o777 } else { 0o555 },
            nlink: 1,
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            mtime: time,
            atime: time,
            ctime: time,
            lasting: false,
        }
    }
}
