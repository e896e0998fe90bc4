"""Prunes, folds and changes of keys that are killed at random points, beside and without a backup.

A prune is killed where snapshots of changed trees were forgotten. The backup beside it stores again what was forgotten, so that it
reuses the very packs that are about to go. Then: every snapshot that is listed can be restored and is the tree that it was made
from, check finds no damage, and the next prune finishes what was begun. At last the space is back: copies that a killed repack has
left go once the owner's check has read them.
"""

import shutil

import trees
from kills import SMALL, Kept
from place import KIB, MIB

KINDS = {
    "prune": ["prune"],
    "forget --prune": ["forget", "--keep-last", "1", "--group-by", "", "--prune"],
    "repack": ["prune", "--max-unused", "0"],
}
FOLDED = 65  # snapshots after which an owner's backup folds (engine/src/repo/base.rs)


class PruneRounds(Kept):
    """Prunes are killed, every other one beside a backup of another writer."""

    files, file_bytes = 10, 400 * KIB

    def __init__(self, new_place, seed):
        super().__init__(new_place, seed)
        self.beside = self.finished = self.freed = 0

    def calibrate(self, place):
        """How long an undisturbed prune of each kind takes, once; and the writer of the backups beside."""
        place.ok("key", "enroll-writer", "--out", place.path / "writer.key")
        (place.path / "home of the writer").mkdir()
        self.new_tree(place)
        self.backup(place)
        for kind, words in KINDS.items() if not self.seconds else ():
            self.forgettable(place, kind)
            self.seconds[kind] = place.ok(*words).seconds
            self.note_forgotten(place, self.states)

    def rounds(self, place, numbers):
        for n in numbers:
            self.round(place, list(KINDS)[n % len(KINDS)], n // len(KINDS) % 2 == 1)
        self.must_give_back(place)

    def round(self, place, kind, beside):
        self.forgettable(place, kind)
        running = self.start_beside(place) if beside else None
        self.killed += place.kill(self.draw.uniform(0, self.seconds[kind] * (2 if beside else 1.05)), *KINDS[kind])
        if running:
            assert running.wait() == 0, f"a backup beside a killed {kind} ended with {running.returncode}"
        before = dict(self.states)
        self.note(place, trees.manifest(place.path / "tree"))
        assert len(self.states) - len(before) == beside, "a backup is not listed, or a forgotten snapshot has come back"
        self.note_forgotten(place, self.states if kind == "forget --prune" else {})
        assert self.states, "the newest snapshot is gone"
        self.check(place, "--read-data")
        self.restore_all(place)
        self.must_finish(place)

    def forgettable(self, place, kind):
        """A snapshot of a changed tree; all before it are forgotten, unless that is what `kind` does itself."""
        shutil.rmtree(place.path / "before", ignore_errors=True)
        shutil.copytree(place.path / "tree", place.path / "before")
        trees.change(place.path / "tree", self.draw.random())
        self.backup(place)
        if kind != "forget --prune":
            place.ok("forget", "--keep-last", "1", "--group-by", "")
            self.note_forgotten(place, self.states)

    def start_beside(self, place):
        """A backup that stores what was forgotten, under the name of the tree that it once was."""
        shutil.rmtree(place.path / "tree")
        shutil.move(place.path / "before", place.path / "tree")
        self.beside += 1
        words = [*SMALL, "backup", place.path / "tree", "--force"]
        return place.start(*words, key=place.path / "writer.key", home=place.path / "home of the writer")

    def note_forgotten(self, place, may_go):
        """What is not listed any more was to be forgotten."""
        gone = set(self.states) - {snapshot["id"] for snapshot in place.json("snapshots")}
        assert gone <= set(may_go), f"snapshots that nobody forgot are gone: {gone - set(may_go)}"
        for snapshot in gone:
            del self.states[snapshot]

    def must_finish(self, place):
        """The next prune finishes what the killed one began, and nothing of it is left."""
        done = place.json("prune")
        self.finished += done["finished"]
        self.freed += done["deleted_bytes"]
        self.check(place, "--read-data")
        self.restore_all(place)
        plan = place.json("prune", "--dry-run")["plan"]
        assert plan["drop_packs"] == 0, f"the next prune leaves what is not needed: {plan}"

    def must_give_back(self, place):
        """Once an owner's check has read everything, two prunes leave nothing but what is used."""
        for _ in range(2):
            place.ok("prune", "--max-unused", "0")
            self.check(place, "--read-data")
        plan = place.json("prune", "--dry-run")["plan"]
        assert (plan["drop_packs"], plan["unlisted_packs"]) == (0, 0), plan
        assert plan["unused_bytes"] * 20 <= plan["used_bytes"], f"space is not given back: {plan}"

    def summary(self):
        """What happened, for the figures."""
        return {
            "killed": self.killed,
            "beside_a_backup": self.beside,
            "finished_by_the_next": self.finished,
            "freed_mib": self.freed / MIB,
        }


class FoldRounds(Kept):
    """Backups of the owner are killed that fold: each in a copy of a repository on disk in which it is time to."""

    files, file_bytes = 4, 50 * KIB

    def __init__(self, new_place, seed):
        super().__init__(new_place, seed)
        self.folded = self.committed = 0

    def run(self, count):
        place = self.new_place()
        try:
            place.init("--chunk-size", "64K")
            self.many(place)
            kept, states = place.path / "kept", dict(self.states)
            shutil.copytree(place.repo, kept)
            for n in range(count + 1):
                shutil.rmtree(place.repo)
                shutil.copytree(kept, place.repo)
                self.states = dict(states)
                self.round(place) if n else self.calibrate(place)
        finally:
            place.close()

    def many(self, place):
        """Snapshots of few trees, as many as can be without a fold."""
        for n in range(FOLDED - 1):
            if n % 16 == 0:
                self.new_tree(place)
                state = trees.manifest(place.path / "tree")
            place.ok("backup", place.path / "tree")
            if n % 16 == 15:
                self.note(place, state)
        self.note(place, state)
        assert not self.bases(place), "folded already: is FOLDED still right?"

    def calibrate(self, place):
        self.seconds["fold"] = self.backup(place).seconds
        assert self.bases(place), "not folded: is FOLDED still right?"

    def bases(self, place):
        return [name for name in place.objects("base") if name]

    def round(self, place):
        state = trees.manifest(place.path / "tree")
        # The fold is the last that a backup does.
        after = self.draw.uniform(0.4, 1.05) * self.seconds["fold"]
        self.killed += place.kill(after, "backup", place.path / "tree")
        self.note(place, state)
        self.committed += len(self.states) == FOLDED
        self.folded += bool(self.bases(place))
        self.check(place, "--read-data")
        for snapshot in self.draw.sample(sorted(self.states), 4):
            self.restore(place, snapshot, self.states[snapshot])
        self.backup(place)
        assert self.bases(place), "the next backup does not fold either"
        self.check(place)
        place.ok("forget", "--keep-last", "40", "--group-by", "")
        place.ok("prune")
        listed = {snapshot["id"] for snapshot in place.json("snapshots")}
        self.states = {snapshot: state for snapshot, state in self.states.items() if snapshot in listed}
        assert len(self.states) == 40, f"of 40 snapshots {len(self.states)} are left"
        self.check(place, "--read-data")

    def summary(self):
        """What happened, for the figures."""
        return {"killed": self.killed, "committed_before_the_kill": self.committed, "folded_before_the_kill": self.folded}
