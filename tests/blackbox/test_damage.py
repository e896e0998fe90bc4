"""Flips, truncations, deletions and swaps of objects. `tests/long damage` does many more."""

import os
import unittest
from pathlib import Path

import trees
from damage import Damages
from place import MIB, Case, figures

SEED = 7


class Damage(Case):
    def test_no_damage_is_overlooked_or_restored(self):
        damages = Damages(self.place(), SEED)
        damages.run(60)
        figures("damage", **damages.counts, unseen=damages.unseen)

    def test_a_short_pack_is_not_read_again_and_again(self):
        """Each of its blobs would be waited for otherwise: hours, in a large repository."""
        place = self.place()
        place.init("--chunk-size", "64K")
        trees.noise(place.path / "tree", 4, MIB, SEED)
        place.ok("backup", place.path / "tree")
        largest = max((Path(place.repo) / name for name in place.objects("pack")), key=lambda path: path.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 3)
        ran = place.run("check", "--read-data", "--no-cache")
        self.assertEqual(ran.code, 1, repr(ran))
        self.assertNotIn("tries=", ran.err)
        self.assertIn(largest.name, ran.err)


if __name__ == "__main__":
    unittest.main()
