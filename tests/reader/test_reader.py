#!/usr/bin/env python3
"""The reader against repositories that the program made: all of it comes back, and what was tampered with is refused.

COPAL_BIN is the program `copal`; MAKE_REPOSITORY is the example of that name (without it, cargo builds and runs it).
"""
import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import check
import reader

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VECTORS = ROOT / "engine/tests/vectors"
COPAL = os.environ.get("COPAL_BIN")
MAKE = os.environ.get("MAKE_REPOSITORY")


def read(*args, check=True):
    """Runs the reader, as a user would."""
    done = subprocess.run([sys.executable, HERE / "reader.py", *args], capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{args}: {done.stderr}")
    return done


def make_source(root, changed=False):
    """Everything that has a form of its own in the format."""
    noise = random.Random(1)
    root.mkdir()
    (root / "a/b").mkdir(parents=True)
    (root / "empty dir").mkdir()
    (root / "a/empty").touch()
    (root / "a/small").write_bytes(b"changed" if changed else b"hello")
    (root / "a/mapped").write_bytes(noise.randbytes(3 << 20))
    (root / "a/large").write_bytes(noise.randbytes(100 << 20))
    (root / "a/text").write_bytes(b"text that compresses\n" * 100_000)
    with open(root / "a/holes", "wb") as f:
        f.seek(1 << 20)
        f.write(noise.randbytes(300_000))
        f.seek(1 << 20, os.SEEK_CUR)
        f.write(b"end")
        f.truncate(8 << 20)
    with open(root / "a/only a hole", "wb") as f:
        f.truncate(5 << 20)
    os.symlink("../nowhere", root / "a/link")
    os.mkfifo(root / "a/fifo")
    os.link(root / "a/small", root / "a/b/same as small")
    (root / os.fsdecode(b"\xff\xfe not UTF-8")).write_bytes(b"x")
    os.chmod(root / "a/small", 0o4751)
    os.utime(root / "a/small", ns=(-1_500_000_001, -2_250_000_003))
    try:
        os.setxattr(root / "a/small", "user.copal", b"\0value")
    except OSError:
        pass  # not everywhere
    many = root / "many"
    many.mkdir()
    for n in range(3_000):
        (many / f"file-{n}").write_bytes(b"content of %d" % n)
    return root


def make_small(root):
    root.mkdir()
    (root / "one").write_bytes(b"one small file")
    return root


def listing(root):
    """What must be equal on both sides."""
    found = {}
    for base, dirs, files in os.walk(os.fsencode(root)):
        for name in [b""] * (base == os.fsencode(root)) + dirs + files:
            path = os.path.join(base, name) if name else base
            s = os.lstat(path)
            value = [stat.S_IFMT(s.st_mode), None if stat.S_ISLNK(s.st_mode) else s.st_mode, s.st_mtime_ns]
            if stat.S_ISREG(s.st_mode):
                value += [Path(os.fsdecode(path)).read_bytes(), s.st_nlink]
                value += [(x, os.getxattr(path, x)) for x in os.listxattr(path) if x.startswith("user.")]
            elif stat.S_ISLNK(s.st_mode):
                value.append(os.readlink(path))
            found[os.path.relpath(path, os.fsencode(root))] = value
    return found


def make(*args):
    """Runs the example."""
    run = [MAKE] if MAKE else ["cargo", "run", "-q", "-p", "copal-engine", "--example", "make_repository", "--"]
    return subprocess.run([*run, *args], cwd=ROOT, check=True, capture_output=True, text=True)


class Case(unittest.TestCase):
    def assert_same(self, source, dest):
        a, b = listing(source), listing(dest)
        self.assertEqual(a.keys(), b.keys())
        for path, value in a.items():
            self.assertTrue(value == b[path], f"{path!r} differs")

    def assert_refused(self, *args):
        done = read(*args, check=False)
        self.assertEqual(done.returncode, 1, (args, done.stdout))
        self.assertTrue(done.stderr.startswith("refused: "), done.stderr)
        return done.stderr


class Made(Case):
    """A repository of the example: all roles, rotation, revocation, segments and inline ones."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="copal-reader-")
        cls.addClassCleanup(cls.temporary.cleanup)
        at = cls.at = Path(cls.temporary.name)
        cls.sources = [make_source(at / "first"), make_source(at / "second", True), make_small(at / "third")]
        made = make(at / "repo", at / "keys", *cls.sources)
        cls.ids = made.stdout.split()
        cls.repo = at / "repo"

    def read(self, *args, key="owner", repo=None):
        return read("--key-file", self.at / f"keys/{key}.key", repo or self.repo, *args).stdout

    def test_snapshots(self):
        lines = self.read("snapshots").splitlines()
        self.assertEqual([x.split()[0] for x in lines], self.ids)
        for line in lines:
            self.assertEqual(line.split()[2:], ["whole", "host", "/source"])

    def test_ls(self):
        self.assertEqual(self.read("ls", "latest").split()[-1], "source")
        names = [x.split()[-1] for x in self.read("ls", self.ids[0][:12], "/source/many").splitlines()]
        self.assertEqual(names, sorted(f"file-{n}" for n in range(3_000)))
        self.assertIn("-> ../nowhere", self.read("ls", self.ids[0], "/source/a/link"))

    def test_extract(self):
        for n, source in enumerate(self.sources):
            self.read("extract", self.ids[n], "/source", self.at / f"out{n}", key="reader")
            self.assert_same(source, self.at / f"out{n}")
            shutil.rmtree(self.at / f"out{n}")
        self.read("extract", self.ids[0], "/source/a/large", self.at / "file")
        self.assertTrue((self.at / "file").read_bytes() == (self.sources[0] / "a/large").read_bytes())

    def open(self, key="owner", repo=None):
        return reader.Repository(reader.Store(repo or self.repo), reader.bundle_from_file(self.at / f"keys/{key}.key"))

    def test_check(self):
        for key in ("owner", "reader", "writer", "maintainer"):
            said = check.check(self.open(key))
            self.assertTrue(said.startswith("3 snapshots, "), said)
            # Names, and so tags, are open to these alone.
            self.assertEqual(not said.endswith(" 0 tags"), key in ("owner", "reader"), said)

    def test_every_form_occurs(self):
        """Otherwise the other tests would show less than they seem to."""
        r = self.open()
        kinds = {n.kind for n in r.directory(r.find(r.snapshots[0], b"/source/a").children[0])}
        self.assertLessEqual({reader.FILE, reader.MAPPED, reader.LARGE}, kinds)
        self.assertTrue(any(s.segments for s in r.snapshots) and any(s.inline for s in r.snapshots))
        self.assertTrue(any(e.at for copies in r.index.values() for *_, e in copies), "no frame of several blobs")
        self.assertEqual(r.form(reader.TREE, r.find(r.snapshots[0], b"/source/many").children[0], 2)[1], 1, "no stretches")
        self.assertEqual(len(r.config.recipients), 3)
        self.assertTrue(any(m.revoked for m in r.config.members.values()))

    def test_roles(self):
        self.assertEqual(len(self.read("snapshots", key="writer").splitlines()), 3)
        for key in ("writer", "maintainer"):
            self.assert_refused("--key-file", self.at / f"keys/{key}.key", self.repo, "ls", "latest")

    def test_rotation(self):
        """The bundle from before it opens what is older, and nothing newer."""
        old = self.at / "keys/first.key"
        self.read("extract", self.ids[0], "/source/a/small", self.at / "small", key="first")
        self.assertEqual((self.at / "small").read_bytes(), b"hello")
        for id in self.ids[1:]:
            self.assertIn("somebody else", self.assert_refused("--key-file", old, self.repo, "ls", id, "/source"))

    def test_slots(self):
        secret = self.at / "secret"
        for flag, text in (("--passphrase-file", "correct horse\n"), ("--recovery-code-file", (self.at / "keys/code").read_text())):
            secret.write_text(text)
            self.assertEqual(len(read(flag, secret, self.repo, "snapshots").stdout.splitlines()), 3)
            secret.write_text(text.translate(str.maketrans("eE0123456789", "oF1234567890")))
            self.assert_refused(flag, secret, self.repo, "snapshots")

    def refuses(self, repo=None):
        with self.assertRaises(reader.Refused) as caught:
            check.check(self.open(repo=repo))
        return str(caught.exception)

    def test_every_object_is_protected(self):
        for prefix in ("cfg", "snap", "idx", "pack", "pin"):
            for path in sorted(p for p in (self.repo / prefix).rglob("*") if p.is_file()):
                size = path.stat().st_size
                # Magic, suite, ids, sealed parts, padding, signature; a hash covers all of a pack, which takes long to read.
                for at in {9, size // 2} if prefix == "pack" else {0, 8, 9, 41, size // 3, size // 2, size - 70, size - 1}:
                    with self.subTest(path=path, at=at), flipped(path, at):
                        self.refuses()

    def test_what_is_extracted_is_verified_by_itself(self):
        """A byte of a frame: the file in it is refused by its own digest, without the hash of the pack."""
        r = self.open()
        child = r.find(next(s for s in r.snapshots if s.id.hex() == self.ids[2]), b"/source/one").children[0]
        (pack, _, _, entry), = r.index[reader.DATA, child]
        path = self.repo / (reader.pack_stem(pack) + pack.id.hex())
        for at in (0, 31, 32, entry.stored // 2, entry.stored - 1):
            with flipped(path, entry.offset + at):
                said = self.assert_refused("--key-file", self.at / "keys/owner.key", self.repo, "extract", self.ids[2],
                                           "/source/one", self.at / f"none{at}")
                self.assertIn(child.hex(), said)

    def changed(self, change):
        """What the reader says of a repository whose names `change` made others; bytes are shared with the original."""
        with tempfile.TemporaryDirectory(dir=self.at) as other:
            repo = Path(other) / "repo"
            shutil.copytree(self.repo, repo, copy_function=os.link)
            change(repo)
            return self.refuses(repo)

    def test_objects_stay_in_their_places(self):
        def swap(prefix):
            def change(repo):
                a, b = sorted(p for p in (repo / prefix).rglob("*") if p.is_file())[:2]
                a.rename(repo / "x"), b.rename(a), (repo / "x").rename(b)
            return change

        for prefix in ("cfg", "snap", "pack", "pin"):
            with self.subTest(prefix):
                self.changed(swap(prefix))

    def test_what_is_missing_is_missed(self):
        for prefix in ("idx", "pack"):
            with self.subTest(prefix):
                said = self.changed(lambda repo: next(p for p in (repo / prefix).rglob("*") if p.is_file()).unlink())
                self.assertIn("is missing", said)

    def test_config_is_chained_and_pinned(self):
        self.assertIn("not chained", self.changed(lambda repo: sorted((repo / "cfg").iterdir())[1].unlink()))
        other = self.at / "other"
        make(other / "repo", other / "keys")
        for key in (self.at / "keys/owner.key", other / "keys/owner.key"):
            repo = other / "repo" if key.is_relative_to(self.at / "keys") else self.repo
            self.assertIn("another ROOT", self.assert_refused("--key-file", key, repo, "snapshots"))

    def test_future_maintenance_is_refused(self):
        def change(repo):
            (repo / "base").mkdir()
            (repo / "base/0000000000000001").touch()
        self.assertIn("base/", self.changed(change))

    def test_what_is_no_record_of_forgotten_snapshots_is_refused(self):
        def change(repo):
            (repo / "forget").mkdir()
            (repo / "forget/0000000000000001").write_bytes(b"copalfo1\1" + bytes(20 + 64))
        self.assertIn("small order", self.changed(change))


@contextlib.contextmanager
def flipped(path, at):
    flip(path, at)
    try:
        yield
    finally:
        flip(path, at)


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


@unittest.skipUnless(COPAL, "COPAL_BIN is not set")
class Program(Case):
    """A repository of the program, with its defaults."""

    def test_all_comes_back(self):
        with tempfile.TemporaryDirectory(prefix="copal-reader-") as at:
            at = Path(at)
            source = make_source(at / "source")
            key = at / "key"
            env = dict(os.environ, HOME=str(at), XDG_CACHE_HOME=str(at / "cache"), XDG_STATE_HOME=str(at / "state"))
            for args in (["init", "--key-out", key], ["--key-file", key, "backup", source]):
                subprocess.run([COPAL, "--repo", at / "repo", *args], env=env, check=True, capture_output=True)
            self.assertEqual(len(read("--key-file", key, at / "repo", "snapshots").stdout.splitlines()), 1)
            check.check(reader.Repository(reader.Store(at / "repo"), reader.bundle_from_file(key)))
            read("--key-file", key, at / "repo", "extract", "latest", source, at / "out")
            self.assert_same(source, at / "out")


class Elements(unittest.TestCase):
    def test_xwing(self):
        for v in json.loads((VECTORS / "xwing.json").read_text())["vectors"]:
            key = reader.XWing(bytes.fromhex(v["seed"]))
            self.assertEqual(key.public.hex(), v["pk"])
            self.assertEqual(key.decapsulate(bytes.fromhex(v["ct"])).hex(), v["ss"])

    def test_varint(self):
        for data, value in ((b"\0", 0), (b"\x7f", 127), (b"\x80\1", 128), (b"\xff" * 9 + b"\1", 2**64 - 1)):
            self.assertEqual(reader.Cursor(data).varint(), value)
        for data in (b"", b"\x80", b"\x80\0", b"\xff\x80\0", b"\xff" * 9 + b"\2", b"\xff" * 10 + b"\1"):
            self.assertRaises(reader.Refused, reader.Cursor(data).varint)

    def test_signed(self):
        for data, value in ((b"\0", 0), (b"\1", -1), (b"\2", 1), (b"\xff" * 9 + b"\1", -2**63)):
            self.assertEqual(reader.Cursor(data).signed(), value)

    def test_list_and_option(self):
        c = reader.Cursor(b"\x05\0\0")
        self.assertRaises(reader.Refused, c.list, c.u8)
        c = reader.Cursor(b"\2\0")
        self.assertRaises(reader.Refused, c.option, c.u8)

    def test_padme(self):
        self.assertEqual([reader.padme(n) for n in (0, 1, 2, 3, 9, 65, 1000, 2**20 + 1)], [0, 1, 2, 3, 10, 72, 1024, 2**20 + 2**15])


if __name__ == "__main__":
    unittest.main()
