"""What Python has no call for: chattr flags, project ids, extended flags, and statx for times of birth."""

import ctypes
import errno
import fcntl
import os
import stat
import struct

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
GETXATTR, SETXATTR = 0x801C581F, 0x401C5820
# As chattr calls them.
FLAGS = {
    "s": 0x1, "u": 0x2, "c": 0x4, "S": 0x8, "i": 0x10, "a": 0x20, "d": 0x40, "A": 0x80, "j": 0x4000, "t": 0x8000,
    "D": 0x10000, "T": 0x20000, "C": 0x800000, "P": 0x20000000,
}  # fmt: skip
KNOWN = sum(FLAGS.values())
UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)

libc = ctypes.CDLL(None, use_errno=True)


def _opened(path, call):
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return call(descriptor)
    finally:
        os.close(descriptor)


def _has_ioctls(path):
    return stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR)


def flags(path):
    """The chattr flags that users set; 0 where there are none."""
    if not _has_ioctls(path):
        return 0
    try:
        return struct.unpack("=I", _opened(path, lambda fd: fcntl.ioctl(fd, GETFLAGS, bytes(8)))[:4])[0] & KNOWN
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return 0
        raise


def set_flags(path, letters):
    """Adds flags, as chattr +LETTERS."""
    wanted = flags(path) | sum(FLAGS[letter] for letter in letters)
    # The kernel's own flags (extents, inline data) must be given back as they are.
    all_now = struct.unpack("=I", _opened(path, lambda fd: fcntl.ioctl(fd, GETFLAGS, bytes(8)))[:4])[0]
    value = struct.pack("=Q", all_now | wanted)
    _opened(path, lambda fd: fcntl.ioctl(fd, SETFLAGS, value))


def project(path):
    """The project id; 0 where there is none."""
    if not _has_ioctls(path):
        return 0
    try:
        return struct.unpack("=5I8x", _opened(path, lambda fd: fcntl.ioctl(fd, GETXATTR, bytes(28))))[3]
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return 0
        raise


def set_project(path, number):
    """Puts a file or directory into a project."""

    def call(fd):
        value = list(struct.unpack("=5I8x", fcntl.ioctl(fd, GETXATTR, bytes(28))))
        value[3] = number
        fcntl.ioctl(fd, SETXATTR, struct.pack("=5I8x", *value))

    _opened(path, call)


def birth(path):
    """(seconds, nanoseconds) when the inode was born, or None: statx, which has no other way from Python."""
    buffer = ctypes.create_string_buffer(256)
    AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BTIME = -100, 0x100, 0x800
    if libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx", path)
    mask = struct.unpack_from("=I", buffer, 0)[0]
    return struct.unpack_from("=qI", buffer, 0x50) if mask & STATX_BTIME else None
