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

/// From now on memory from 1 MiB on goes back to the system when it is freed; for the start of a program.
///
/// glibc otherwise learns from each large block that is freed to keep the next ones, up to 32 MiB each and in every thread:
/// twice as much as is in use, in a program whose work is packs. Other libraries do it by themselves.
pub fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    {
        const M_MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: it takes two ints and is safe to call from any thread; a refusal leaves all as it was.
        unsafe { mallopt(M_MMAP_THRESHOLD, 1 << 20) };
    }
}

/// Takes or gives back a write lease on an open file, as Samba does; the kernel's wish to have it back is a SIGURG, which
/// nobody minds. For tests of the reader that must wait for it.
#[cfg(test)]
pub(crate) fn set_write_lease(fd: impl AsFd, held: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const F_SETSIG: i32 = 10;
    const F_SETLEASE: i32 = 1024;
    const F_WRLCK: i32 = 1;
    const F_UNLCK: i32 = 2;
    const SIGURG: i32 = 23;
    unsafe extern "C" {
        fn fcntl(fd: i32, command: i32, ...) -> i32;
    }
    let fd = fd.as_fd().as_raw_fd();
    for (command, argument) in [(F_SETSIG, SIGURG), (F_SETLEASE, if held { F_WRLCK } else { F_UNLCK })] {
        // SAFETY: both commands take an int and touch no memory of this process; the descriptor is borrowed, so open.
        if unsafe { fcntl(fd, command, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcode_is_that_of_the_kernel_header() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(FSGETXATTR, 0x801c_581f);
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
