#!/usr/bin/env python3
"""The judge finds nothing in what the program leaves behind, and everything that was damaged or forged on purpose.

COPAL_BIN is the program `copal`.
"""
import os
import random
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import forge
import judge
import maintenance
import reader
from inventory import ERROR, NOTE
from test_reader import flipped

COPAL = os.environ.get("COPAL_BIN")


class Made:
    """A repository of the program in a directory of its own, with all that the program keeps locally."""

    def __init__(self, at, name="repo"):
        self.at, self.repo, self.key = at, at / name, at / f"{name}.key"
        self.env = dict(os.environ, HOME=str(at), XDG_CACHE_HOME=str(at / "cache"), XDG_STATE_HOME=str(at / "state"))
        at.mkdir(exist_ok=True)

    def command(self, *args, key=None):
        opened = [] if args[0] == "init" else ["--key-file", key or self.key]
        return [COPAL, "--repo", self.repo, *opened, *args]

    def __call__(self, *args, key=None):
        subprocess.run(self.command(*args, key=key), env=self.env, check=True, capture_output=True)

    def kill_when(self, reached, *args):
        """Runs the program until `reached(repo)` and ends it with SIGKILL; whether it came to that."""
        process = subprocess.Popen(self.command(*args), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None and not reached(self.repo):
                pass
        finally:
            process.kill()
            process.wait()
        return reached(self.repo)

    def judged(self, repo=None):
        return judge.judge(repo or self.repo, reader.bundle_from_file(self.key))

    def opened(self):
        return judge.Judge(reader.Store(self.repo), reader.bundle_from_file(self.key))

    def copy(self, at):
        """An independent one with the same bytes."""
        other = Made(at)
        shutil.copytree(self.repo, other.repo)
        shutil.copy(self.key, other.key)
        shutil.copytree(self.at / "state", at / "state")
        return other


def make_source(at):
    """Enough, so that the first session writes a segment; the later ones keep their entries inline."""
    noise = random.Random(7)
    (at / "a/b").mkdir(parents=True)
    (at / "a/large").write_bytes(noise.randbytes(1_300_000))
    for n in range(6):
        (at / f"a/b/{n}").write_bytes(noise.randbytes(20_000))
    return at


def work(made, source):
    """Sessions of two writers, records of forgets, and packs that are needed in part."""
    made("init", "--key-out", made.key)
    made("key", "export", "--role", "writer", "--out", made.at / "writer.key")
    made("backup", source)
    (source / "a/b/1").write_bytes(random.Random(8).randbytes(70_000))
    (source / "a/large").unlink()
    made("backup", source, key=made.at / "writer.key")
    (source / "a/b/2").unlink()
    made("backup", "--tag", "x", source)
    made("forget", "--keep-last", "1", "--group-by", "")


@unittest.skipUnless(COPAL, "COPAL_BIN is not set")
class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="copal-judge-")
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.at = Path(cls.temporary.name)
        cls.source = make_source(cls.at / "source")
        cls.worked = Made(cls.at / "worked")
        work(cls.worked, cls.source)
        cls.count = 0

    def fresh(self, of=None):
        type(self).count += 1
        return (of or self.worked).copy(self.at / str(self.count))

    def assert_clean(self, made, notes=False):
        self.assertEqual([f for f in made.judged() if f.weight == ERROR or not notes], [])

    def assert_found(self, made, weight, *texts):
        found = [f"{f.object}: {f.text}" for f in made.judged() if f.weight == weight]
        for text in texts:
            self.assertTrue(any(text in f for f in found), f"no {weight} says {text!r}: {found}")


class Clean(Case):
    def test_backups_of_two_writers(self):
        self.assert_clean(self.worked)
        r = self.worked.opened()
        self.assertEqual((len(r.committed), len(r.live), len(r.config.members)), (3, 1, 2))
        self.assertTrue(r.segments and any(s.inline for s in r.committed.values()))

    def test_tag_rewrite_and_check(self):
        made = self.fresh()
        for args in (["tag", "--add", "y"], ["rewrite", "--exclude", "b", "--forget"], ["check", "--read-data"]):
            made(*args)
            self.assert_clean(made)

    def test_prune(self):
        made = self.fresh()
        for _ in range(2):
            made("prune", "--max-unused", "0", "--yes")
            self.assert_clean(made)
            made("backup", self.source)
            made("forget", "--keep-last", "1")
            self.assert_clean(made)
        self.assertTrue(made.opened().base.floors)

    def test_copy_and_rotation(self):
        made = self.fresh()
        made("key", "rotate", "--key-out", made.at / "new.key")
        made.key = made.at / "new.key"
        made("backup", self.source)
        self.assert_clean(made)
        other = Made(made.at, "other")
        other("init", "--key-out", other.key)
        other("copy", "--from-repo", made.repo, "--from-key-file", made.key)
        self.assert_clean(other)
        self.assertEqual(len(other.opened().live), 2)

    def test_killed_backup(self):
        made = self.fresh()
        (self.source / "more").write_bytes(random.Random(9).randbytes(9_000_000))
        self.addCleanup((self.source / "more").unlink)
        packs = len(list((made.repo / "pack").rglob("*-*-*"))) or len(reader.Store(made.repo).list("pack/"))
        self.assertTrue(made.kill_when(lambda repo: len(reader.Store(repo).list("pack/")) > packs, "backup", self.source))
        self.assert_clean(made)  # its session is open
        made("backup", self.source)
        self.assert_clean(made)

    def test_killed_prunes(self):
        """Cut off at each of its objects: nothing that is needed is gone, and the next one finishes it."""
        for object in ("gc/0000000000000001", "gc/0000000000000001.sweep", "base/0000000000000001"):
            with self.subTest(object):
                made = self.fresh()
                made.kill_when(lambda repo: (repo / object).exists(), "prune", "--max-unused", "0", "--yes")
                self.assert_clean(made, notes=True)
                made("prune", "--max-unused", "0", "--yes")
                self.assert_clean(made, notes=True)
                self.assertEqual(made.opened().sweeps, {})


class Damaged(Case):
    """Every object deleted, cut and flipped; where the loss of one cannot show, that is said."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        made = cls.made = cls.worked
        secret = made.at / "password"
        secret.write_text("correct horse\n")
        made("key", "add", "--new-password-file", secret)
        made("prune", "--max-unused", "0", "--yes")
        made("backup", "--force", "--tag", "newer", cls.source)
        (cls.source / "b").mkdir()
        (cls.source / "b/large").write_bytes(random.Random(10).randbytes(2_500_000))
        made("backup", cls.source)
        (cls.source / "b/large").write_bytes(random.Random(11).randbytes(2_500_000))
        made("backup", cls.source)
        made("forget", "latest~1")
        made("check", "--read-data")

    def keys(self):
        return reader.Store(self.made.repo).list("")

    def test_whole(self):
        self.assert_clean(self.made)
        kinds = {key.split("/")[0] for key in self.keys()}
        self.assertEqual(kinds, {"cfg", "key", "pin", "pack", "idx", "snap", "base", "check", "forget"})

    def test_flipped(self):
        for key in self.keys():
            size = (self.made.repo / key).stat().st_size
            for at in {8, size // 2, size - 1}:
                with self.subTest(key=key, at=at), flipped(self.made.repo / key, at):
                    # Without its password, a key slot shows only its form.
                    if not key.startswith("key/") or at == 8:
                        self.assertIn(ERROR, {f.weight for f in self.made.judged()})

    def test_truncated(self):
        for key in self.keys():
            path = self.made.repo / key
            data = path.read_bytes()
            path.chmod(0o600)
            path.write_bytes(data[:-1])
            with self.subTest(key=key):
                self.assertIn(ERROR, {f.weight for f in self.made.judged()})
            path.write_bytes(data)

    def test_deleted(self):
        """Without one of these a repository is as it was once, or could have been: nothing that is left names them."""
        r = self.made.opened()
        named = {id for s in r.committed.values() for id in [s.previous, *[id for _, _, id in s.view]]} | {x.id for x in r.base.snapshots}
        unnamed = {f"snap/{judge.who(*at)}" for at, s in r.committed.items() if s.id not in named and at not in r.folded}
        self.assertEqual(len(unnamed), 1)
        for key in self.keys():
            path, kept = self.made.repo / key, self.at / "kept"
            path.rename(kept)
            with self.subTest(key=key):
                self.assertEqual(not self.made.judged(), key in unnamed or key.startswith(("check/", "key/", "forget/")))
            kept.rename(path)

    def test_swapped(self):
        for prefix in ("idx", "pack", "snap", "pin", "cfg"):
            a, b = [self.made.repo / k for k in self.keys() if k.startswith(prefix + "/")][:2]
            for first, second in ((a, b), (b, a)):
                with self.subTest(prefix):
                    other = self.fresh(self.made)
                    x, y = (other.repo / p.relative_to(self.made.repo) for p in (first, second))
                    y.unlink()
                    shutil.copy(x, y)
                    self.assertIn(ERROR, {f.weight for f in other.judged()})

    def test_what_nobody_knows(self):
        other = self.fresh(self.made)
        for key in ("lost/1", "gc/0000000000000001.other", "snap/x", "probe/0123", "pack/x"):
            (other.repo / key).parent.mkdir(exist_ok=True)
            (other.repo / key).touch()
        self.assert_found(other, NOTE, "lost/1", "gc/0000000000000001.other", "snap/x", "probe/0123", "pack/x")
        self.assert_clean(other, notes=True)


class Forged(Case):
    """Well-sealed objects that say what they must not: each is found, and by the rule that it breaks."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        made = cls.made = cls.worked
        cls.before = {key: (made.repo / key).read_bytes() for key in reader.Store(made.repo).list("pack/")}
        made("prune", "--max-unused", "0", "--yes")
        (cls.source / "new").write_bytes(b"new in the last session")
        made("backup", cls.source, key=made.at / "writer.key")
        cls.r = made.opened()
        cls.base = cls.r.base
        cls.writer, cls.seed = reader.bundle_from_file(made.at / "writer.key").own
        cls.last = next(s for (writer, _), s in cls.r.newer.items() if writer == cls.writer)
        # A pack that base publishes and the last session relies on, and that session's own.
        cls.old = next(p for p in cls.r.listed.values() if cls.r.publishers.get(p.id, "").startswith("idx/"))
        cls.own = cls.last.inline.packs[0]

    def put(self, made, key, data):
        path = made.repo / key
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def put_base(self, made, **changes):
        b = self.base._replace(**changes)
        self.put(made, f"base/{b.n:016x}", forge.base(self.r, f"base/{b.n:016x}", b))

    def condemned(self, pack):
        return maintenance.Condemned(pack.id, pack.writer, pack.session, pack.seq, pack.size)

    def put_generation(self, made, g, condemn=None, sweep=None, dead=()):
        key = f"gc/{g:016x}"
        if condemn is not None:
            self.put(made, key, forge.condemn(self.r, key, {}, list(map(self.condemned, condemn))))
        if sweep is not None:
            self.put(made, key + ".sweep", forge.sweep(self.r, key + ".sweep", dead, list(map(self.condemned, sweep))))

    def test_what_is_forged_is_well_formed(self):
        made = self.fresh()
        self.put_base(made)
        self.assertEqual((made.repo / "base/0000000000000001").read_bytes(), (self.made.repo / "base/0000000000000001").read_bytes())
        self.put_base(made, n=2, before=self.base.id)
        self.assert_clean(made, notes=True)
        self.put_generation(made, 2, [self.old], [])
        self.assert_clean(made, notes=True)

    def test_base(self):
        made = self.fresh()
        for changes, *texts in (
            ({"dropped": [self.old.id]}, f"pack {self.old.id.hex()}: dropped"),
            ({"segments": []}, "its segments lack", "is not in the index"),
            ({"snapshots": [x._replace(id=bytes(32)) for x in self.base.snapshots]}, "is not the one of base/"),
        ):
            with self.subTest(changes.keys()):
                self.put_base(made, **changes)
                self.assert_found(made, ERROR, *texts)

    def test_step_from_base_to_base(self):
        made = self.fresh()
        for changes, text in (
            ({"before": bytes(32)}, "is not chained"), ({"floors": {}}, "the floor of"), ({"forgets": 0}, "counts fewer"),
            ({"done": []}, "counts fewer"), ({"snapshots": []}, "no longer lists"),
        ):
            with self.subTest(text):
                self.put_base(made, n=2, **({"before": self.base.id} | changes))
                self.assert_found(made, ERROR, text)

    def test_floor_above_what_is_not_listed(self):
        made = self.fresh()
        self.put_base(made, floors=self.base.floors | {self.writer: self.last.session.n + 1})
        self.assert_found(made, NOTE, f"{judge.snap(self.last)}: a dead session's")

    def test_sweep(self):
        made = self.fresh()
        for condemn, sweep, dead, text in (
            ([self.old], [self.old], [], "named by gc/0000000000000002.sweep"),
            ([], [self.old], [], "names packs that its condemn does not"),
            ([], [], [(self.last.writer, self.last.session)], "which is committed"),
            ([], [], [(self.writer, self.last.session._replace(n=99))], "no tombstone stands"),
        ):
            with self.subTest(text):
                self.put_generation(made, 2, condemn, sweep, dead)
                self.assert_found(made, ERROR, text)
        (made.repo / "gc/0000000000000002").unlink()
        self.assert_found(made, ERROR, "its condemn is gone")

    def test_sweep_that_counts_as_done(self):
        made = self.fresh()
        self.put_generation(made, max(self.base.done), [self.old], [self.old])
        self.assert_found(made, ERROR, f"holds pack {self.old.id.hex()} not as dropped")

    def test_claims(self):
        made, key = self.fresh(), f"pin/{judge.who(self.last.writer, self.last.session)}.{2:016x}"
        self.put_generation(made, 2, [self.old])
        self.put(made, key, forge.ack(self.r, key, [self.old.id], self.writer, self.seed))
        self.assert_clean(made, notes=True)
        self.put(made, key, forge.ack(self.r, key, [self.own.id], self.writer, self.seed))
        self.assert_found(made, ERROR, "its ack does not claim", "claims packs that its generation does not condemn")
        self.put(made, key, forge.ack(self.r, key, [self.old.id], self.writer, self.seed))
        self.put_generation(made, 2, sweep=[self.old])
        self.assert_found(made, ERROR, "names a pack that session")

    def test_forget_without_the_one_before(self):
        made = self.fresh()
        n = self.base.forgets + 2
        key = f"forget/{n:016x}"
        self.put(made, key, forge.maintenance(self.r, b"copalfo1", b"forget", key, b"\0\0" + forge.listed([])))
        self.assert_found(made, ERROR, f"forget/{n - 1:016x}: is gone")

    def test_pack_that_comes_back(self):
        """A late put, say: nobody counts it, dropped in base or not."""
        made = self.fresh()
        key = next(k for k in self.before if not (made.repo / k).exists())
        self.put(made, key, self.before[key])
        self.assert_found(made, NOTE, f"{key}: nobody publishes it")
        self.put_base(made, n=2, before=self.base.id, dropped=[bytes.fromhex(key[-64:])])
        self.assert_found(made, NOTE, f"{key}: stands though base has dropped it")
        self.assert_clean(made, notes=True)

    def test_who_signs(self):
        """A writer may neither condemn nor forget, whatever it signs."""
        made, key = self.fresh(), "gc/0000000000000002"
        fields = forge.listed([]) + forge.listed([forge.pack(self.condemned(self.old))])
        self.put(made, key, forge.maintenance(self.r, b"copalgc1", b"condemn", key, fields, signer=self.writer, seed=self.seed))
        self.assert_found(made, ERROR, "is no maintainer")


if __name__ == "__main__":
    unittest.main()
