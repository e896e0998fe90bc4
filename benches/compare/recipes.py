"""How the workloads are made: each `wN(root, scale)` fills `root`/source and `root`/steps/K/in, and returns for each step
from version 2 on which paths leave (see workload.py). Seeds and versions are fixed: what is made differs between machines
only where a registry, or /usr, does."""

import os
import random
import shutil
import sqlite3
import subprocess
import zlib
from pathlib import Path

from workload import files

SEED = 20_261_121
KIB, MIB = 1024, 1024 * 1024


# W1: Go modules ---------------------------------------------------------------------------------------------------------

MODULES = {  # four versions each, oldest first
    "k8s.io/kubernetes": ("v1.34.0", "v1.34.2", "v1.35.4", "v1.36.1"),
    "k8s.io/client-go": ("v0.36.4", "v0.36.5", "v0.36.6", "v0.37.0"),
    "github.com/aws/aws-sdk-go": ("v1.55.5", "v1.55.6", "v1.55.7", "v1.55.8"),
    "google.golang.org/api": ("v0.309.0", "v0.310.0", "v0.311.0", "v0.312.0"),
    "golang.org/x/tools": ("v0.49.0", "v0.50.0", "v0.51.0", "v0.52.0"),
}


def w1(root, scale):
    """Source trees in four versions, from the Go module proxy; a small scale takes the last modules only."""
    modules = list(MODULES.items())[-max(1, round(scale * len(MODULES))):]
    trees = [_modules(root, {name: versions[k] for name, versions in modules}, k) for k in range(4)]
    for path in list(trees[0]):
        _move(trees[0][path], root / "source" / path)
        trees[0][path] = root / "source" / path
    leaving = [_step(root, step, trees) for step in (2, 3, 4)]
    shutil.rmtree(root / "modules")
    return leaving


def _modules(root, wanted, k):
    """Downloads modules and returns their files: {path below the source: where it is}; paths have no versions in them."""
    cache = root / "modules" / str(k)
    env = dict(os.environ, GOMODCACHE=str(cache), GOFLAGS="-modcacherw", GOTOOLCHAIN="local")
    for name, version in wanted.items():
        subprocess.run(["go", "mod", "download", f"{name}@{version}"], env=env, cwd="/", check=True)
    return {str(Path(name) / path.relative_to(cache / f"{name}@{version}")): path
            for name, version in wanted.items() for path in files(cache / f"{name}@{version}")}


def _step(root, step, trees):
    """Puts what the tree `step` has and the one before has not into the step, and returns what leaves. A file that stays
    keeps being the one in `source` (or in the earlier step that brought it)."""
    before, after = trees[step - 2], trees[step - 1]
    same = {path for path in before.keys() & after.keys() if before[path].read_bytes() == after[path].read_bytes()}
    for path in list(after):
        if path in same:
            after[path] = before[path]
        else:
            place = root / "steps" / str(step) / "in" / path
            _move(after[path], place)
            after[path] = place
    return [path for path in before if path not in same]


def _move(old, new):
    new.parent.mkdir(parents=True, exist_ok=True)
    os.rename(old, new)


# W2: a disk image -------------------------------------------------------------------------------------------------------

PACKAGES = """gcc-12 g++-12 cpp-12 libgcc-12-dev libstdc++-12-dev clang-14 libllvm14 libclang-cpp14 llvm-14-dev llvm-14
    libclang-common-14-dev golang-1.19-go golang-1.19-src python3.11 libpython3.11 libpython3.11-stdlib libpython3.11-dev
    perl perl-modules-5.36 libperl5.36 openjdk-17-jre-headless openjdk-17-jdk-headless nodejs libnode108 ruby3.1 libruby3.1
    postgresql-15 postgresql-client-15 mariadb-server-core git vim vim-runtime emacs-common emacs-bin-common cmake
    cmake-data linux-image-amd64 fonts-dejavu-core fonts-noto-core libreoffice-core libreoffice-common qemu-system-common
    qemu-system-data samba-libs samba tcl8.6 tk8.6 libboost1.74-dev""".split()
MORE_PACKAGES = """apache2-bin nginx-core php8.2-cli redis-server sqlite3 tmux htop gdb valgrind strace rsync wget curl
    imagemagick-6-common ghostscript graphviz bind9-libs openssh-server fish zsh-common""".split()
IMAGE_BYTES = 4 * 1024 * MIB


def w2(root, scale):
    """An ext4 image of unpacked Debian packages; version 2 has twenty packages more and 200 files fewer."""
    first = PACKAGES[:max(2, round(scale * len(PACKAGES)))]
    more = MORE_PACKAGES[:max(1, round(scale * len(MORE_PACKAGES)))]
    tree, size = root / "tree", round(IMAGE_BYTES * max(scale, 1 / 16))
    _unpack(root, first, tree)
    _image(tree, root / "source" / "disk.img", size)
    unpacked = sorted(files(tree))
    for path in random.Random(SEED).sample(unpacked, min(len(unpacked) // 10, 200)):
        path.unlink()
    _unpack(root, more, tree)
    _image(tree, root / "steps/2/in/disk.img", size)
    shutil.rmtree(tree)
    shutil.rmtree(root / "packages")
    return [["disk.img"]]


def _unpack(root, packages, tree):
    """Fetches packages and unpacks them, those that this release of Debian has."""
    store = root / "packages"
    store.mkdir(exist_ok=True)
    tree.mkdir(exist_ok=True)
    for package in packages:
        found = subprocess.run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package], cwd=store,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if found.returncode != 0:
            print(f"W2: no package {package} here, left out")
    for archive in sorted(store.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", archive, tree], check=True)
        archive.unlink()


def _image(tree, image, size):
    image.parent.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, E2FSPROGS_FAKE_TIME="1700000000")
    identity = "6c1e4b1e-5d0c-4c7e-9a53-0b1f6f2f5a10"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-U", identity, "-E", f"hash_seed={identity}", "-d", tree, image,
                    f"{size // KIB}K"], env=env, check=True)


# W3: a database ---------------------------------------------------------------------------------------------------------

ROWS = 1_700_000


def w3(root, scale):
    """A SQLite database of 1 KiB rows with an index on a random column; versions 2 and 3 each update 1 % of the rows."""
    rows, draw = max(1000, round(ROWS * scale)), random.Random(SEED)
    path = root / "source" / "rows.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, key INTEGER, body BLOB)")
        database.executemany("INSERT INTO rows VALUES (?, ?, ?)",
                             ((k, draw.getrandbits(62), _body(draw)) for k in range(rows)))
        database.execute("CREATE INDEX by_key ON rows (key)")
    for step in (2, 3):
        new = root / f"steps/{step}/in/rows.db"
        new.parent.mkdir(parents=True)
        shutil.copyfile(path, new)
        with sqlite3.connect(new) as database:
            database.executemany("UPDATE rows SET key = ?, body = ? WHERE id = ?",
                                 ((draw.getrandbits(62), _body(draw), k) for k in draw.sample(range(rows), rows // 100)))
        path = new
    return [["rows.db"], ["rows.db"]]


def _body(draw):
    """About 1 KiB that zstd takes to some six tenths: half of it hexadecimal digits, half random."""
    return draw.randbytes(256).hex().encode() + draw.randbytes(490)


# W4: small files --------------------------------------------------------------------------------------------------------

SMALL_FILES = 200_000


def w4(root, scale):
    """Small files with log-normal sizes (median 4 KiB), seven tenths of them text; version 2 rewrites 1 % of them."""
    count, draw = max(200, round(SMALL_FILES * scale)), random.Random(SEED)
    words = _Words(draw)
    names = [f"{k // 5000:03}/{k // 100 % 50:02}/{draw.getrandbits(40):010x}.{k % 100:02}" for k in range(count)]
    for name in names:
        _write(root / "source" / name, words.file())
    rewritten = draw.sample(names, count // 100)
    for name in rewritten:
        _write(root / "steps/2/in" / name, words.file())
    return [rewritten]


class _Words:
    """Texts of made-up words whose frequencies follow Zipf's law, and noise."""

    def __init__(self, draw):
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        weights = range(len(letters), 0, -1)
        self.draw = draw
        self.words = ["".join(draw.choices(letters, weights, k=draw.randint(2, 11))) for _ in range(4096)]
        self.frequencies, total = [], 0.0
        for rank in range(1, 4097):
            total += 1 / rank
            self.frequencies.append(total)

    def file(self):
        size = min(8 * MIB, int(self.draw.lognormvariate(8.3178, 1.0)))  # e^8.3178 = 4096
        if self.draw.random() < 0.3:
            return self.draw.randbytes(size)
        text = " ".join(self.draw.choices(self.words, cum_weights=self.frequencies, k=size // 5 + 1))
        return text.encode()[:size]


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# W5: bytes that do not shrink -------------------------------------------------------------------------------------------

def w5(root, scale):
    """4 GiB of AES-CTR; version 2 has 100 inserts and 100 deletes of 1 to 8192 bytes at places drawn evenly."""
    size, draw = max(16 * MIB, round(4096 * MIB * scale)), random.Random(SEED)
    path, new = root / "source" / "bytes.bin", root / "steps/2/in/bytes.bin"
    new.parent.mkdir(parents=True)
    with open(path, "wb") as out:
        zeros = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
        subprocess.run(["openssl", "enc", "-aes-256-ctr", "-nosalt", "-K", "0" * 63 + "1", "-iv", "0" * 32],
                       stdin=zeros.stdout, stdout=out, check=True)
        zeros.wait()
    edits = sorted((draw.randrange(size), draw.randint(1, 8192), k < 100) for k in range(200))
    with open(path, "rb") as old, open(new, "wb") as out:
        for at, length, insert in edits:
            _copy(old, out, max(0, at - old.tell()))
            if insert:
                out.write(draw.randbytes(length))
            else:
                old.seek(length, os.SEEK_CUR)
        _copy(old, out, size)
    return [["bytes.bin"]]


def _copy(old, out, length):
    while length > 0:
        piece = old.read(min(length, 4 * MIB))
        if not piece:
            return
        out.write(piece)
        length -= len(piece)


# W6: an installed system ------------------------------------------------------------------------------------------------

def w6(root, scale):
    """A copy of /usr (at a small scale, of a share of its files); version 2 has 1 % of the files changed by a piece in
    their middle, 0.5 % gone and 0.5 % renamed."""
    paths = sorted(path for path in files("/usr", links=True)
                   if zlib.crc32(os.fsencode(path)) % 10_000 < scale * 10_000)
    for path in paths:
        place = root / "source" / path.relative_to("/usr")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
    draw = random.Random(SEED)
    regular = sorted(str(path.relative_to(root / "source")) for path in files(root / "source") if path.stat().st_size > 0)
    chosen = draw.sample(regular, len(regular) // 50)
    changed, renamed = chosen[:len(chosen) // 2], chosen[len(chosen) // 2:len(chosen) * 3 // 4]
    for name in changed:
        _write(root / "steps/2/in" / name, _edited((root / "source" / name).read_bytes(), draw))
    for name in renamed:
        place = root / "steps/2/in" / (name + ".renamed")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / "source" / name, place)
    return [chosen]


def _edited(content, draw):
    at = draw.randrange(len(content))
    piece = draw.randbytes(draw.randint(1, 4096))
    return content[:at] + piece + content[at + len(piece):]


RECIPES = {"W1": w1, "W2": w2, "W3": w3, "W4": w4, "W5": w5, "W6": w6}
TITLES = {
    "W1": "Go modules, four versions",
    "W2": "ext4 image of Debian packages",
    "W3": "SQLite database, 1 % of rows updated",
    "W4": "small files, log-normal",
    "W5": "AES-CTR bytes, 200 edits",
    "W6": "copy of /usr, 1 % changed",
}
