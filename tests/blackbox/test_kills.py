"""SIGKILL at random points of backups, restores, prunes, folds and changes of keys. `tests/long kills` does ten times as many."""

import unittest

from key_kills import KeyRounds
from kills import Rounds
from place import Case, Place, figures
from prune_kills import FoldRounds, PruneRounds

SEED = 20


class Kills(Case):
    def some(self, kind, name, count, server=None):
        """`count` rounds of a kind, of which some were in time."""
        rounds = kind(lambda: Place(server), SEED)
        rounds.run(count)
        figures(name, rounds=count, **rounds.summary())
        self.assertGreater(rounds.killed, count // 3, "too few were killed: are the times right?")

    def test_prunes_on_disk(self):
        self.some(PruneRounds, "killed prunes on disk", 12)

    def test_prunes_on_s3(self):
        self.some(PruneRounds, "killed prunes on S3", 4, self.server())

    def test_folds(self):
        self.some(FoldRounds, "killed folds on disk", 4)

    def test_keys(self):
        self.some(KeyRounds, "killed changes of keys on disk", 10)

    def rounds(self, name, count, server=None):
        rounds = Rounds(lambda: Place(server), SEED)
        rounds.run(count)
        figures(name, rounds=count, **rounds.summary())
        self.assertGreater(rounds.killed, count // 2, "too few were killed: are the times right?")
        self.assertGreater(rounds.adopting, 0, "no killed backup left anything to reuse")

    def test_on_disk(self):
        self.rounds("kills on disk", 50)

    def test_on_s3(self):
        self.rounds("kills on S3", 10, self.server())


if __name__ == "__main__":
    unittest.main()
