//! One entry of a directory as it is stored: its name, what it is, and every attribute of it.
//!
//! Shared by `source` (which fills it), `format` (which encodes it) and `target` (which applies it).

/// Longest name in bytes (Linux NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target in bytes.
pub const LINK_BYTES_MAX: usize = 65_536;
/// Longest extended attribute value in bytes (Linux XATTR_SIZE_MAX).
pub const XATTR_BYTES_MAX: usize = 65_536;
/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 1_024;

/// Seconds and nanoseconds since 1970-01-01 UTC; `nanos` < 10^9, before 1970 `secs` is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file of so many bytes (holes included).
    File {
        /// Its length in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link and where it points: raw bytes, 1 to [`LINK_BYTES_MAX`].
    Symlink {
        /// Raw bytes, no NUL.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Its number, as Linux's 64-bit `dev_t`.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its number, as Linux's 64-bit `dev_t`.
        rdev: u64,
    },
}

/// One extended attribute, ACLs and file capabilities included (`system.posix_acl_access`, `security.capability`, …).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name with its namespace, 1 to 255 bytes, no NUL.
    pub name: Vec<u8>,
    /// Its value, up to [`XATTR_BYTES_MAX`] bytes.
    pub value: Vec<u8>,
}

/// Access lists, and the names of the copies of them that XFS shows to root: where both are there, the copy is no attribute.
pub const ACL_COPIES: [(&[u8], &[u8]); 2] =
    [(b"system.posix_acl_access", b"trusted.SGI_ACL_FILE"), (b"system.posix_acl_default", b"trusted.SGI_ACL_DEFAULT")];

/// Identity of a file with several names: equal pairs within one snapshot are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HardLink {
    /// Device number at the source.
    pub dev: u64,
    /// Inode number at the source.
    pub ino: u64,
    /// How many names it had there, 2 or more.
    pub nlink: u64,
}

/// Every attribute of an entry but its name and its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the owner at the source, empty if it had none.
    pub user: Vec<u8>,
    /// Name of the group at the source, empty if it had none.
    pub group: Vec<u8>,
    /// Last change of the bytes.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the file system tells.
    pub btime: Option<Timestamp>,
    /// Inode number at the source, where it is that of the original (not of a clone).
    pub inode: Option<u64>,
    /// Set where the entry has several names (never for directories).
    pub hardlink: Option<HardLink>,
    /// Sorted by name, each name once.
    pub xattrs: Vec<Xattr>,
    /// chattr flags (`FS_IOC_GETFLAGS`), only the bits in [`FLAGS_STORED`].
    pub flags: u32,
    /// Project id (`FS_IOC_FSGETXATTR`), 0 = none.
    pub project: u32,
}

/// The chattr flags that are stored and put back: s u S a c d i A j t D T C P and nothing that only the kernel sets.
pub const FLAGS_STORED: u32 = 0x0000_0001 // s secure deletion
    | 0x0000_0002 // u undeletable
    | 0x0000_0004 // c compress
    | 0x0000_0008 // S synchronous
    | 0x0000_0010 // i immutable
    | 0x0000_0020 // a append only
    | 0x0000_0040 // d no dump
    | 0x0000_0080 // A no atime
    | 0x0000_4000 // j journal data
    | 0x0000_8000 // t no tail merging
    | 0x0001_0000 // D synchronous directory
    | 0x0002_0000 // T top of directory hierarchy
    | 0x0080_0000 // C no copy on write
    | 0x2000_0000; // P project hierarchy

/// A stretch of a file: bytes, or a hole as the file system reports it (SEEK_HOLE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Start in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
}

/// Whether `name` may be a directory entry: 1 to 255 bytes, no `/` or NUL, not `.` or `..`.
pub fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}
