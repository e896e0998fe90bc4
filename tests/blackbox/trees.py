"""Trees of generated files: the same bytes for the same seed, so that nothing is kept to compare with but digests."""

import hashlib
import os
import random
import stat
from pathlib import Path

MIB = 1 << 20
REPEATS = 8


def block(seed, size=MIB):
    """`size` bytes of their own, of which an eighth is noise: they compress, and no two blocks share a chunk."""
    part = random.Random(seed).randbytes(max(1, size // REPEATS))
    return (part * (REPEATS + 1))[:size]


def noise(root, count, size, seed):
    """`count` files of `size` bytes that do not compress, in a few directories."""
    draw = random.Random(seed)
    for n in range(count):
        path = Path(root) / f"d{n % 5}" / f"file{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(size))


def change(root, seed):
    """Changes a third of the files of `root` in the middle, removes some, and adds as many."""
    draw = random.Random(seed)
    files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    for path in draw.sample(files, len(files) // 3):
        data = bytearray(path.read_bytes())
        at = draw.randrange(len(data) // 2)
        data[at : at + len(data) // 2] = draw.randbytes(len(data) // 2)
        path.write_bytes(data)
    for path in draw.sample(files, max(1, len(files) // 10)):
        size = path.stat().st_size
        path.unlink()
        (path.parent / f"new{draw.randrange(1 << 30)}").write_bytes(draw.randbytes(size))


def small_files(root, count, per_dir=1000):
    """`count` files of 0 to 2 KiB of text, `per_dir` in a directory; returns the bytes."""
    total = 0
    for first in range(0, count, per_dir):
        folder = Path(root) / f"{first // per_dir // 100:02}" / f"{first // per_dir:05}"
        folder.mkdir(parents=True)
        for n in range(first, min(count, first + per_dir)):
            data = b"line %d of a small file\n" % n * (n * 7919 % 80)
            descriptor = os.open(folder / f"{n}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, data)
            os.close(descriptor)
            total += len(data)
    return total


def big_file(path, size, seed):
    """A file of `size` bytes, whole MiB."""
    with open(path, "wb") as file:
        for n in range(size // MIB):
            file.write(block((seed << 32) + n))
        os.fsync(file.fileno())  # so that what is measured next does not pay for it


def is_big_file(path, size, seed):
    """Whether `path` is what [`big_file`] made; nothing but it is needed to tell."""
    if os.path.getsize(path) != size:
        return False
    with open(path, "rb") as file:
        return all(file.read(MIB) == block((seed << 32) + n) for n in range(size // MIB))


def extents_of_sparse(size, data, seed):
    """Places of `data` bytes in extents of 1 MiB that begin on whole 64 KiB and do not touch one another, sorted."""
    slots = random.Random(seed).sample(range(size // (2 * MIB)), data // MIB)
    draw = random.Random(seed + 1)
    return [slot * 2 * MIB + draw.randrange(16) * 65536 for slot in sorted(slots)]


def sparse_file(path, size, data, seed):
    """A file of `size` bytes with `data` bytes in it, and holes between."""
    with open(path, "wb") as file:
        file.truncate(size)
        for n, at in enumerate(extents_of_sparse(size, data, seed)):
            file.seek(at)
            file.write(block((seed << 32) + n))
        os.fsync(file.fileno())


def is_sparse_file(path, size, data, seed):
    """Whether `path` is what [`sparse_file`] made, holes included (two extents a whole MiB apart touch)."""
    wanted = []
    for at in extents_of_sparse(size, data, seed):
        if wanted and wanted[-1][1] == at:
            wanted[-1] = (wanted[-1][0], at + MIB)
        else:
            wanted.append((at, at + MIB))
    if os.path.getsize(path) != size or data_extents(path) != wanted:
        return False
    with open(path, "rb") as file:
        for n, at in enumerate(extents_of_sparse(size, data, seed)):
            file.seek(at)
            if file.read(MIB) != block((seed << 32) + n):
                return False
    return True


def data_extents(path):
    """Where a file has data, by SEEK_DATA and SEEK_HOLE: a list of (start, end)."""
    found, at = [], 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        while at < size:
            try:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: only a hole is left
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            found.append((start, at))
    finally:
        os.close(descriptor)
    return found


def manifest(root):
    """What a tree holds: for every path below `root` its kind, and a digest of its bytes or where it points."""
    root, found = os.fspath(root), {}
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                what = os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    what = hashlib.file_digest(file, "blake2b").hexdigest()
            else:
                what = stat.S_IFMT(mode)
            found[os.path.relpath(path, root)] = what
    return found
