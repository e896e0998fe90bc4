"""Sampled damage to a repository on disk: what is broken is named by `check --read-data`, and no restore gives a wrong byte."""

import os
import random
import shutil
from pathlib import Path

import trees
from place import KIB

KINDS = ("cfg", "idx", "pack", "pin", "snap")
# Codes of docs/cli.md that an operation on a damaged repository may end with: no repository if its config is gone, wrong key
# if what the key must fit is broken.
CHECK_CODES = (1, 10, 12)
RESTORE_CODES = (0, 1, 3, 10, 12)
# What check cannot know of: a session without its snapshot was interrupted for all that the store tells, and what a finished
# session left beside its snapshot says no more than that it ran.
UNSEEN = {("snap", "delete"), ("pin", "delete")}
# The end of the chain of configs leaves no gap: everything that relies on it is named instead.
NAMED_BY_WHAT_IT_HURTS = {("cfg", "delete")}


def flip(path, draw, _):
    """One bit, anywhere."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path, draw, _):
    """Some or all of the end is gone."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def delete(path, *_):
    """The object is gone."""
    path.unlink()


def swap(path, draw, others):
    """Another object of the same kind stands there, itself sound."""
    path.write_bytes(draw.choice(others).read_bytes())


DAMAGES = (flip, flip, truncate, delete, swap)


class Damages:
    """A repository of a few snapshots on disk, damaged and mended again and again."""

    def __init__(self, place, seed):
        self.place, self.seed, self.draw = place, seed, random.Random(seed)
        self.states, self.counts, self.unseen = {}, {}, 0
        place.init("--chunk-size", "64K")
        tree = place.path / "tree"
        trees.noise(tree, 40, 100 * KIB, seed)
        for n in range(3):
            os.symlink("nowhere", tree / f"link{n}")
            trees.change(tree, self.draw.random())
            place.ok("backup", tree)
            for snapshot in place.json("snapshots"):
                self.states.setdefault(snapshot["id"], trees.manifest(tree))

    def run(self, count):
        """`count` damages, each to an object of a kind that takes turns."""
        for n in range(count):
            kind, how = KINDS[n % len(KINDS)], self.draw.choice(DAMAGES)
            objects = [name for name in self.place.objects() if name.startswith(kind + "/")]
            name = self.draw.choice(objects)
            self.one(kind, name, how, [other for other in objects if other != name])

    def one(self, kind, name, how, others):
        path = Path(self.place.repo) / name
        sound = path.read_bytes()
        how(path, self.draw, [Path(self.place.repo) / other for other in others])
        self.counts[how.__name__] = self.counts.get(how.__name__, 0) + 1
        try:
            self.check(kind, name, how.__name__)
            # With and without what this machine remembers of the repository.
            for cache in ([], ["--no-cache"]):
                self.restore(name, how.__name__, cache)
        finally:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sound)

    def check(self, kind, name, how):
        ran = self.place.run("check", "--read-data", "--no-cache", "--json", "--no-progress")
        if ran.code == 0 and (kind, how) in UNSEEN:
            self.unseen += 1
            return
        assert ran.code in CHECK_CODES, f"{how} of {name} was not seen: {ran!r}"
        assert name in ran.out + ran.err or (kind, how) in NAMED_BY_WHAT_IT_HURTS, f"{how} of {name} is not named: {ran!r}"

    def restore(self, name, how, cache):
        """Every file is right, or reported, or the whole restore fails."""
        out, state = self.place.path / "out", list(self.states.values())[-1]
        words = ["restore", f"{list(self.states)[-1]}:{self.place.path}/tree", "--target", out, *cache, "--json"]
        ran = self.place.run(*words, "--no-progress")
        assert ran.code in RESTORE_CODES, f"{how} of {name}: {ran!r}"
        found = trees.manifest(out) if out.exists() else {}
        wrong = {path for path in found if found[path] != state.get(path)}
        missing = state.keys() - found.keys()
        reported = {os.path.relpath(problem["item"], out) for problem in ran.problems()}
        silent = {path for path in missing if not self.is_reported(path, reported)}
        assert not wrong, f"{how} of {name}: wrong bytes in {wrong}: {ran!r}"
        assert ran.code in (1, 10, 12) or not silent, f"{how} of {name}: silently missing {silent}: {ran!r}"
        assert ran.code != 0 or not reported, f"{how} of {name}: exit code 0 with problems: {ran!r}"
        shutil.rmtree(out, ignore_errors=True)

    @staticmethod
    def is_reported(path, reported):
        """The path itself, or a directory that it is in."""
        parts = Path(path).parts
        return "." in reported or any(os.path.join(*parts[:n]) in reported for n in range(1, len(parts) + 1))
