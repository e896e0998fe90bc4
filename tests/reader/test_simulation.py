#!/usr/bin/env python3
"""The judge on what simulated schedules leave behind: nothing is against the documents, and what was reported is there.

SIM_STATES is a directory that engine/tests/sim has filled: for each schedule a repository, its owner's key, and the ids that must be there.
"""
import os
import unittest
from pathlib import Path

import judge
import reader
from inventory import ERROR

STATES = os.environ.get("SIM_STATES")


@unittest.skipUnless(STATES, "SIM_STATES is not set")
class Left(unittest.TestCase):
    def test_what_schedules_leave(self):
        keys = sorted(Path(STATES).glob("*.key"))
        self.assertTrue(keys)
        for key in keys:
            repo = key.with_suffix("")
            with self.subTest(seed=repo.name):
                left = judge.Judge(reader.Store(repo), reader.bundle_from_file(key))
                self.assertEqual([f for f in left.findings if f.weight == ERROR], [])
                there = {s.id.hex() for s in left.live}
                self.assertLessEqual(set(key.with_suffix(".committed").read_text().split()), there)


if __name__ == "__main__":
    unittest.main()
