#!/usr/bin/env python3
"""compare.py A B: every difference between two trees, a line each: what rsync sees, and what it does not (holes, chattr flags,
project ids, ACLs by their raw bytes). Exit code 1 if there are any. Times of birth and change cannot be set and are left out.
"""

import os
import stat
import sys

import inodes
import trees


def compare(a, b):
    """Yields (path relative to the trees, what differs)."""
    first, second = _walk(a), _walk(b)
    for path in sorted(first.keys() ^ second.keys()):
        yield path, "is there only in " + ("the first" if path in first else "the second")
    for path in sorted(first.keys() & second.keys()):
        for what in _differences(os.path.join(a, path), os.path.join(b, path)):
            yield path, what
    if _links(first) != _links(second):
        yield ".", "hard links join other names"


def _walk(root):
    """Paths relative to `root`, with their stat."""
    found = {".": os.lstat(root)}
    for folder, dirs, files in os.walk(root, onerror=_fail):
        for name in dirs + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = os.lstat(path)
    return found


def _fail(error):
    raise error


def _links(tree):
    """Sets of names that are one file."""
    found = {}
    for path, st in tree.items():
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            found.setdefault(st.st_ino, set()).add(path)
    return sorted(map(sorted, found.values()))


def _differences(a, b):
    x, y = os.lstat(a), os.lstat(b)
    for name in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns", "st_atime_ns"):
        if getattr(x, name) != getattr(y, name):
            yield f"{name}: {getattr(x, name)} and {getattr(y, name)}"
    if stat.S_IFMT(x.st_mode) != stat.S_IFMT(y.st_mode):
        return
    if not stat.S_ISDIR(x.st_mode) and x.st_nlink != y.st_nlink:
        yield f"st_nlink: {x.st_nlink} and {y.st_nlink}"
    if stat.S_ISLNK(x.st_mode) and os.readlink(a) != os.readlink(b):
        yield f"points to {os.readlink(a)!r} and {os.readlink(b)!r}"
    for name, of in (("extended attributes", xattrs), ("chattr flags", inodes.flags), ("project", inodes.project)):
        if of(a) != of(b):
            yield f"{name}: {of(a)!r} and {of(b)!r}"
    if stat.S_ISREG(x.st_mode):
        yield from _content(a, b, x, y)


def xattrs(path):
    """All of them, as bytes. XFS shows root each access list a second time, in another form: that is no attribute."""
    names = set(os.listxattr(path, follow_symlinks=False))
    for acl, copy in (("access", "FILE"), ("default", "DEFAULT")):
        if f"system.posix_acl_{acl}" in names:
            names.discard(f"trusted.SGI_ACL_{copy}")
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _content(a, b, x, y):
    if x.st_size != y.st_size:
        yield f"st_size: {x.st_size} and {y.st_size}"
        return
    extents = trees.data_extents(a)
    if extents != trees.data_extents(b):
        yield f"data at {extents} and {trees.data_extents(b)}"
        extents = [(0, x.st_size)]
    with open(a, "rb") as first, open(b, "rb") as second:
        for at, end in extents:
            first.seek(at), second.seek(at)
            while at < end:
                size = min(1 << 20, end - at)
                if first.read(size) != second.read(size):
                    yield f"other bytes in the {size} that begin at {at}"
                    return
                at += size


def main():
    found = list(compare(*map(os.path.abspath, sys.argv[1:3])))
    for path, what in found:
        print(f"{os.fsencode(path)!r}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
