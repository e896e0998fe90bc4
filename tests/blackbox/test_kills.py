"""SIGKILL at random points of a backup and a restore. `tests/long kills` does ten times as many."""

import unittest

from kills import Rounds
from place import Case, Place, figures

SEED = 20


class Kills(Case):
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
