//! The project id of an inode, for which rustix has no function of its own. The only unsafe code of the target.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::BorrowedFd;

use rustix::io;
use rustix::ioctl::{Getter, Opcode, Setter, opcode};

/// `struct fsxattr` of linux/fs.h: 28 bytes, native byte order, no padding between fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<FsXattr>() == 28);

/// `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`.
const GET: Opcode = opcode::read::<FsXattr>(b'X', 31);
/// `FS_IOC_FSSETXATTR`, `_IOW('X', 32, struct fsxattr)`.
const SET: Opcode = opcode::write::<FsXattr>(b'X', 32);

/// The project id of an open regular file or directory, 0 = none.
///
/// `ENOTTY` or `EOPNOTSUPP` where the file system knows no projects.
pub(super) fn project(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(get(fd)?.project)
}

/// Sets the project id of an open regular file or directory and leaves the rest of its `fsxattr` as it is.
pub(super) fn set_project(fd: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let value = FsXattr { project, ..get(fd)? };
    // SAFETY: the opcode encodes the direction and size of `FsXattr`, from which the kernel only reads those 28 bytes.
    unsafe { rustix::ioctl::ioctl(fd, Setter::<SET, FsXattr>::new(value)) }
}

fn get(fd: BorrowedFd<'_>) -> io::Result<FsXattr> {
    // SAFETY: the opcode encodes the direction and size of `FsXattr`; the kernel fills all 28 bytes, and every bit pattern is
    // a valid `FsXattr`.
    unsafe { rustix::ioctl::ioctl(fd, Getter::<GET, FsXattr>::new()) }
}
