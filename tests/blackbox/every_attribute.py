"""A tree with every kind of file and attribute that Linux has, made with other tools than ours. Needs root, and a file system
with projects (filesystems.py)."""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys

import inodes

BLOCK = 4096
# rsync would read 256 GiB of zeros to compare it.
TOO_FAR_FOR_RSYNC = "too far for rsync"


def make(root):
    """Makes it as the new directory `root`. Flags and times come last: what is immutable stays as it is."""
    root = str(root)
    os.mkdir(root)
    for part in (kinds, modes, names, links, holes, xattrs, acls, capabilities, projects, empty_and_deep, times, flags):
        part(_folder(root, part.__name__))


def _folder(root, name):
    path = os.path.join(root, name)
    os.mkdir(path)
    return path


def _file(folder, name, data=b"content\n"):
    path = os.path.join(folder, name) if isinstance(name, str) else os.fsencode(folder) + b"/" + name
    with open(path, "wb") as file:
        file.write(data)
    return path


def kinds(folder):
    os.mkfifo(f"{folder}/fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # paths of sockets are short
        listener.bind("socket")
        os.chdir(here)
    os.mknod(f"{folder}/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(f"{folder}/big char", 0o600 | stat.S_IFCHR, os.makedev(511, 0x3FFFF))
    os.mknod(f"{folder}/block", 0o660 | stat.S_IFBLK, os.makedev(7, 300))
    for name in ("fifo", "socket", "null", "block"):
        os.chown(f"{folder}/{name}", 12, 34)
        os.setxattr(f"{folder}/{name}", "trusted.special", name.encode())
    _file(folder, "empty", b"")
    _file(folder, "large", os.urandom(9 << 20))


def modes(folder):
    for mode in [*range(0o1000), *range(0o1000, 0o10000, 0o1000), *range(0o1777, 0o10000, 0o1000)]:
        path = _file(folder, f"{mode:05o}")
        os.chown(path, mode % 7 * 1000, (mode + 3) % 5 * 100_000)
        os.chmod(path, mode)
    for mode in (0o000, 0o111, 0o1777, 0o2755, 0o4700, 0o7777):
        path = _folder(folder, f"dir{mode:05o}")
        _file(path, "in it")
        os.chown(path, 65534, 4_000_000_000)
        os.chmod(path, mode)


def names(folder):
    for byte in range(1, 256):
        if byte != ord("/"):
            _file(folder, b"a" + bytes([byte]))
            if byte != ord("."):
                _file(folder, bytes([byte]))
    for name in (b"...", b" lead", b"trail ", b"-rf", b"a\nb", b"\xff" * 255, "ü".encode(), "u\u0308".encode(), b"x" * 255):
        _file(folder, name)


def links(folder):
    first, second = _folder(folder, "one"), _folder(folder, "two")
    for n in range(5):
        path = _file(first, f"file{n}", b"many names %d\n" % n)
        os.link(path, f"{second}/same{n}")
        os.link(path, f"{folder}/top{n}")
    os.symlink("nowhere", f"{folder}/dangling")
    os.symlink("one", f"{folder}/to a directory")
    os.symlink("/" + "x" * 1000, f"{folder}/long")
    with contextlib.suppress(OSError):  # XFS takes 1,023 bytes
        os.symlink("/" + "x" * 4000, f"{folder}/longer")
    os.symlink(b"\xff\x01 odd", os.fsencode(folder) + b"/odd")
    os.link(f"{folder}/dangling", f"{second}/dangling twice", follow_symlinks=False)
    os.mkfifo(f"{folder}/fifo")
    os.link(f"{folder}/fifo", f"{second}/fifo twice")
    for name in ("dangling", "long"):
        os.chown(f"{folder}/{name}", 1, 2, follow_symlinks=False)
        os.setxattr(f"{folder}/{name}", "trusted.link", b"of the link", follow_symlinks=False)
        os.utime(f"{folder}/{name}", ns=(1, 2_000_000_003), follow_symlinks=False)


def holes(folder):
    """Data (length in blocks) at odd places, and lengths that are no whole blocks."""
    cases = {"none": ([(0, 3)], 0), "start": ([(5, 1)], 0), "end": ([(0, 1)], 777), "only": ([], 1_000_001)}
    cases["many"] = ([(3 * n * n, 1 + n % 3) for n in range(1, 60)], 1)
    cases["far"] = ([(1, 1), (1 << 16, 2)], 123)
    cases[TOO_FAR_FOR_RSYNC] = ([(1, 1), (1 << 20, 2), ((1 << 26) - 1, 1)], 123)
    for name, (extents, more) in cases.items():
        with open(f"{folder}/{name}", "wb") as file:
            # Its length first: a file that grows gets more from XFS than is written.
            file.truncate(max([(at + blocks) * BLOCK for at, blocks in extents], default=0) + more)
            for at, blocks in extents:
                file.seek(at * BLOCK)
                file.write(os.urandom(blocks * BLOCK))
    _file(folder, "zeros that are stored", bytes(300_000))
    with open(f"{folder}/reserved", "wb") as file:
        file.write(b"x" * BLOCK)
        os.posix_fallocate(file.fileno(), 0, 64 * BLOCK)
    with open(f"{folder}/a hole in a long file", "wb") as file:
        file.write(os.urandom(20 << 20))
    subprocess.run(["fallocate", "-p", "-o", str(7 << 20), "-l", str(3 * BLOCK), f"{folder}/a hole in a long file"], check=True)


def xattrs(folder):
    path = _file(folder, "file")
    for name in ("user.plain", "trusted.secret", "security.module", "user." + "n" * 250):
        os.setxattr(path, name, name.encode())
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.every byte", bytes(range(256)))
    os.setxattr(path, b"user.\xff\n=", b"odd name")
    os.setxattr(_folder(folder, "dir"), "user.dir", b"of a directory")
    long = _file(folder, "long value")
    os.setxattr(long, "user.long", os.urandom(3000))
    os.setxattr(_file(folder, "read only"), "user.x", b"y")
    os.chmod(f"{folder}/read only", 0o400)


def acls(folder):
    path, within = _file(folder, "file"), _folder(folder, "dir")
    run = lambda *words: subprocess.run(["setfacl", *words], check=True)
    run("-m", "u:1001:rwx,u:1002:---,g:2001:r-x,m::rx", path)
    run("-m", "u:1001:rwx", within)
    run("-d", "-m", "u:1003:r,g:2002:rwx,o::-", within)
    _file(within, "with what it got by default")
    _folder(within, "dir below")


def capabilities(folder):
    path = _file(folder, "program")
    os.chmod(path, 0o755)
    subprocess.run(["setcap", "cap_net_raw,cap_net_admin+eip", path], check=True)
    owned = _file(folder, "of another, setuid")
    os.chown(owned, 1234, 5678)
    os.chmod(owned, 0o6755)
    subprocess.run(["setcap", "cap_chown+ep", owned], check=True)


def projects(folder):
    try:
        inodes.set_project(_file(folder, "file"), 17)
    except OSError as error:
        if error.errno not in inodes.UNSUPPORTED:
            raise
        print("    NOT TESTED: project ids; this file system has none", file=sys.stderr)
        return
    within = _folder(folder, "dir")
    inodes.set_project(within, 4_000_000_000)
    inodes.set_flags(within, "P")
    _file(within, "of its directory's")
    inodes.set_project(_file(within, "of another"), 5)


def empty_and_deep(folder):
    _folder(folder, "empty")
    path = folder
    for level in range(30):
        path = _folder(path, f"{level:02}" + "d" * 90)
    _file(path, "at the bottom")
    path = _folder(folder, "levels")
    for _ in range(300):
        path = _folder(path, "l")
    _file(path, "f")


def times(folder):
    for n, ns in enumerate([0, 1, 999_999_999, -1, -1_500_000_001, 2**31 * 10**9 + 5, 4_102_444_800_123_456_789]):
        path = _file(folder, f"file{n}")
        os.utime(path, ns=(ns + 7, ns))
        within = _folder(folder, f"dir{n}")
        _file(within, "in it")
        os.utime(within, ns=(ns, ns + 9))


def flags(folder):
    """Each flag that this file system takes, and this process may set, on a file and a directory; links to what is immutable."""
    for letter in "suScdAjtDTia":
        path = _file(folder, f"file +{letter}")
        within = _folder(folder, f"dir +{letter}")
        _file(within, "in it")
        _try_flags(path, letter)
        _try_flags(within, letter)
    linked = _file(folder, "linked +i")
    os.link(linked, f"{folder}/linked +i again")
    _try_flags(linked, "i")
    _try_flags(_file(folder, "many"), "dAS")


def _try_flags(path, letters):
    try:
        inodes.set_flags(path, letters)
    except OSError as error:
        # +j wants CAP_SYS_RESOURCE, which root in a container may lack.
        if error.errno not in (*inodes.UNSUPPORTED, errno.EPERM):
            raise
