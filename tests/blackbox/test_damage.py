"""Flips, truncations, deletions and swaps of objects. `tests/long damage` does many more."""

import unittest

from damage import Damages
from place import Case, figures

SEED = 7


class Damage(Case):
    def test_no_damage_is_overlooked_or_restored(self):
        damages = Damages(self.place(), SEED)
        damages.run(60)
        figures("damage", **damages.counts, unseen=damages.unseen)


if __name__ == "__main__":
    unittest.main()
