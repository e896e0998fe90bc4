//! The system calls that need `unsafe`. Everything else goes through rustix's safe wrappers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

/// `struct fsxattr` of linux/fs.h: 28 bytes, no padding between fields.
#[repr(C)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`.
const FSGETXATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);

/// The project id of an open file or directory (project quotas of XFS, ext4, f2fs), 0 = none.
///
/// Errors: `ENOTTY`, `EOPNOTSUPP` or `EINVAL` where the file system has no such thing.
pub(crate) fn project_id(fd: impl AsFd) -> io::Result<u32> {
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, of which `FsXattr` has the size and layout (the size is a
    // part of the opcode, see the test), and reads nothing; every bit pattern is a valid `FsXattr`.
    let got = unsafe { ioctl(fd, Getter::<FSGETXATTR, FsXattr>::new()) }?;
    Ok(got.projid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcode_is_that_of_the_kernel_header() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(FSGETXATTR as u32, 0x801c_581f);
    }

    #[test]
    fn a_new_file_belongs_to_no_project() {
        let file = tempfile::tempfile().unwrap();
        match project_id(&file) {
            Ok(id) => assert_eq!(id, 0),
            Err(e) => assert!(matches!(e.raw_os_error(), Some(25 | 95 | 22)), "{e}"),
        }
    }
}
