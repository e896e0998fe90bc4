#!/usr/bin/env python3
"""The long forms of the tests beside it, one by name: long.py NAME [NUMBER...]. tests/long calls it and says what takes how long."""

import os
import sys
import unittest
from pathlib import Path

import big
from damage import Damages
from key_kills import KeyRounds
from kills import Rounds
from place import GIB, Case, Place, figures
from prune_kills import FoldRounds, PruneRounds
from stress import Stress
from test_attributes import AttributesCase

NUMBERS = [int(word) for word in sys.argv[2:] if word.isdigit()]
STORES = [word for word in sys.argv[2:] if not word.isdigit()]


def number(n, default):
    """The n-th number of the command line."""
    return NUMBERS[n] if len(NUMBERS) > n else default


class Kills(Case):
    def runTest(self):
        prunes, on_s3 = number(2, 500), self.server()
        for kind, what, count, server in (
            (PruneRounds, "prunes on disk", prunes, None),
            (PruneRounds, "prunes on S3", number(3, 100), on_s3),
            (FoldRounds, "folds on disk", prunes // 5, None),
            (KeyRounds, "changes of keys on disk", prunes // 5, None),
            (Rounds, "backups on disk", number(0, 500), None),
            (Rounds, "backups on S3", number(1, 100), on_s3),
        ):
            rounds = kind(lambda server=server: Place(server), seed=int.from_bytes(os.urandom(4), "big"))
            try:
                rounds.run(count)
            finally:
                figures(f"killed {what}", rounds=count, seed=rounds.seed, **rounds.summary())


class Stressed(Case):
    def runTest(self):
        place = Place(None if STORES == ["disk"] else self.server(), gib=10)
        stress = Stress(place, seed=int.from_bytes(os.urandom(4), "big"))
        try:
            stress.run(number(0, 10) * 60)
        except BaseException:
            print(f"what the run has left stays: {place.path}, {place.repo}", file=sys.stderr)
            raise
        finally:
            figures("stress", minutes=number(0, 10), store=STORES, seed=stress.seed, **stress.summary())
        place.close()


class Damage(Case):
    def runTest(self):
        damages = Damages(self.place(), seed=int.from_bytes(os.urandom(4), "big"))
        damages.run(number(0, 2000))
        figures("damage", seed=damages.seed, **damages.counts, unseen=damages.unseen)


class Usr(AttributesCase):
    def runTest(self):
        self.system_trees([Path("/usr/include"), Path("/usr/lib"), Path("/usr/share")], 12 * GIB)


class Big(Case):
    make, name, arguments, gib = None, None, (), 0

    def runTest(self):
        place = self.place(gib=self.gib)
        place.init()
        figures(self.name, **type(self).make(place, *self.arguments))


class Files(Big):
    make, name, arguments, gib = big.small_files, "small files", (number(0, 1_000_000),), 11


class File(Big):
    make, name, arguments, gib = big.big_file, "big file", (number(0, 20) * GIB,), 1.2 * number(0, 20)


class Sparse(Big):
    make, name, arguments, gib = big.sparse_file, "sparse file", (number(0, 20) * GIB, GIB), 4


TESTS = {"kills": Kills, "stress": Stressed, "damage": Damage, "usr": Usr, "files": Files, "file": File, "sparse": Sparse}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TESTS:
        sys.exit(f"usage: long.py {'|'.join(TESTS)} [NUMBER...]")
    result = unittest.TextTestRunner(verbosity=2).run(TESTS[sys.argv[1]]())
    sys.exit(not result.wasSuccessful())
