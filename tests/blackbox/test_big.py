"""Many small files, a big file, a sparse image, and how much memory they take. `tests/long` has ten times as much of each."""

import unittest

import big
from place import GIB, MIB, Case, figures


class Big(Case):
    def small(self, name, make, *arguments, gib):
        place = self.place(gib=gib)
        place.init()
        figures(name, **make(place, *arguments))

    def test_a_hundred_thousand_small_files(self):
        self.small("small files", big.small_files, 100_000, gib=2)

    def test_a_file_of_2_gib(self):
        self.small("big file", big.big_file, 2 * GIB, gib=5)

    def test_an_image_of_2_gib_with_100_mib_in_it(self):
        self.small("sparse file", big.sparse_file, 2 * GIB, 100 * MIB, gib=2)


if __name__ == "__main__":
    unittest.main()
