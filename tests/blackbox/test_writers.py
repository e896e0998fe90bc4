"""Two to eight backups at once into one repository."""

import unittest

from place import MIB, Case, figures
from writers import OWN, SHARED, Writers

# Names, attributes, index and padding beside the bytes of files.
OVERHEAD = 1.15


class ManyWriters(Case):
    def new(self, count, server=None):
        place = self.place(server, gib=2)
        place.init("--chunk-size", "64K")
        return place, Writers(place, count)

    def test_what_a_first_writer_stored_is_stored_once(self):
        for server in (None, self.server()):
            place, writers = self.new(8, server)
            writers.backup(writers.names[:1])
            seconds = writers.backup(writers.names[1:])
            writers.verify()
            stored, wanted = place.stored_bytes() / MIB, SHARED + 8 * OWN
            figures("writers after the first", writers=8, seconds=seconds, stored_mib=stored, distinct_mib=wanted)
            self.assertLess(stored, wanted * OVERHEAD)

    def test_all_begin_at_once(self):
        """Nobody sees what others have not committed yet, so shared data is stored by each at worst. A second run adds nothing."""
        for count in (2, 8):
            place, writers = self.new(count)
            seconds = writers.backup(writers.names)
            stored = place.stored_bytes()
            writers.backup(writers.names)
            writers.verify()
            more = place.stored_bytes() - stored
            figures(
                "writers at once", writers=count, seconds=seconds, stored_mib=stored / MIB, distinct_mib=SHARED + count * OWN,
                stored_by_the_next_run_mib=more / MIB,
            )  # fmt: skip
            self.assertLess(stored, count * (SHARED + OWN) * MIB * OVERHEAD)
            self.assertLess(more, count * MIB)


if __name__ == "__main__":
    unittest.main()
