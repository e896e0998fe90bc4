"""Backups and restores that are killed at random points: nothing that was promised may be gone.

Two kinds of rounds alternate, a first backup of a new tree and one of a changed tree. Each: run copal and kill it; the
repository must be sound, every snapshot that it lists must be the tree that it was made from; then the same backup once more to
its end, which must use what the killed one left.
"""

import random
import shutil

import trees
from place import MIB

FILES, FILE_BYTES = 24, MIB
# Small packs and chunks: a killed backup of a small tree leaves some whole packs.
SMALL = ["--memory", "64M"]
ROUNDS_OF_A_REPOSITORY = 6


class Kept:
    """The snapshots of a repository, and the trees that they were made from. Failures are AssertionErrors."""

    files, file_bytes = FILES, FILE_BYTES

    def __init__(self, new_place, seed):
        self.new_place, self.seed, self.draw = new_place, seed, random.Random(seed)
        self.seconds, self.states = {}, {}
        self.killed = 0

    def run(self, count):
        """`count` rounds, of which a repository serves for a few."""
        for done in range(0, count, ROUNDS_OF_A_REPOSITORY):
            place = self.new_place()
            try:
                place.init("--chunk-size", "64K")
                self.states = {}
                self.calibrate(place)
                self.rounds(place, range(done, min(done + ROUNDS_OF_A_REPOSITORY, count)))
            finally:
                place.close()

    def new_tree(self, place):
        tree = place.path / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        trees.noise(tree, self.files, self.file_bytes, self.draw.random())

    def backup(self, place):
        ran = place.ok(*SMALL, "backup", place.path / "tree", "--json", "--no-progress")
        self.note(place, trees.manifest(place.path / "tree"))
        return ran

    def note(self, place, state):
        """Snapshots that are new were made from the tree as it is."""
        for snapshot in place.json("snapshots"):
            self.states.setdefault(snapshot["id"], state)

    def check(self, place, *words):
        found = place.json("check", *words)
        assert (found["num_errors"], found["findings"], found["unchecked"]) == (0, [], []), found
        assert found["snapshots"] == len(self.states), found
        return found

    def restore_all(self, place):
        for snapshot, state in self.states.items():
            self.restore(place, snapshot, state)

    def restore(self, place, snapshot, state):
        out = place.path / "out"
        place.ok("restore", f"{snapshot}:{place.path}/tree", "--target", out)
        assert trees.manifest(out) == state, f"snapshot {snapshot} is not the tree that it was made from"
        shutil.rmtree(out)


class Rounds(Kept):
    """Backups and restores are killed."""

    def __init__(self, new_place, seed):
        super().__init__(new_place, seed)
        self.adopting = self.adopted_bytes = self.committed = self.restores_killed = 0

    def rounds(self, place, numbers):
        for n in numbers:
            self.round(place, ["first", "changed"][n % 2])
        self.kill_restore(place)

    def calibrate(self, place):
        """How long an undisturbed backup takes, once: the times to kill at are drawn from it."""
        if not self.seconds:
            self.new_tree(place)
            self.seconds["first"] = self.backup(place).seconds
            trees.change(place.path / "tree", self.draw.random())
            self.seconds["changed"] = self.backup(place).seconds

    def round(self, place, kind):
        if kind == "first":
            self.new_tree(place)
        else:
            trees.change(place.path / "tree", self.draw.random())
        state, before = trees.manifest(place.path / "tree"), len(self.states)
        after = self.draw.uniform(0, self.seconds[kind] * 1.05)
        self.killed += place.kill(after, *SMALL, "backup", place.path / "tree")
        self.note(place, state)
        self.committed += len(self.states) - before
        left = self.check(place)
        self.restore_all(place)
        ran = self.backup(place)
        self.must_adopt(ran, left, self.check(place))

    def must_adopt(self, ran, left, after):
        """What whole packs a killed backup left is in use after the next one, which stored so much less."""
        assert after["unlisted_packs"] == 0, f"{after} after {ran}, which found {left}"
        if left["unlisted_packs"]:
            self.adopting += 1
            self.adopted_bytes += left["unlisted_bytes"]
            whole = after["pack_bytes"] - left["pack_bytes"] + left["unlisted_bytes"]
            assert ran.json()["data_added_packed"] <= FILES * FILE_BYTES * 1.1 - left["unlisted_bytes"] * 0.9, (
                f"stored again what was there: {ran}, which found {left}, and all of it takes {whole} bytes"
            )

    def kill_restore(self, place):
        """A restore that was killed is completed by the next one into the same directory."""
        snapshot, state = list(self.states.items())[-1]
        words = ["restore", f"{snapshot}:{place.path}/tree", "--target", place.path / "out"]
        seconds = place.ok(*words).seconds
        shutil.rmtree(place.path / "out")
        self.restores_killed += place.kill(self.draw.uniform(0.02, seconds), *words)
        self.restore(place, snapshot, state)

    def summary(self):
        """What happened, for the figures."""
        return {
            "killed": self.killed,
            "committed_before_the_kill": self.committed,
            "rounds_that_reused": self.adopting,
            "reused_mib": self.adopted_bytes / MIB,
            "restores_killed": self.restores_killed,
        }
