"""Several writers at once in one repository, each with a key and a home of its own. Their sources share a half."""

import time

import trees
from place import MIB

SHARED, OWN = 24, 8  # files of 1 MiB


class Writers:
    """`count` enrolled writers of `place`, whose repository exists."""

    def __init__(self, place, count):
        self.place, self.names = place, [f"writer{n}" for n in range(count)]
        for n, name in enumerate(self.names):
            self.home(name).mkdir()
            place.ok("key", "enroll-writer", "--out", self.key(name))
            trees.noise(self.tree(name) / "shared", SHARED, MIB, seed="shared")
            trees.noise(self.tree(name) / "own", OWN, MIB, seed=f"own {n}")

    def home(self, name):
        return self.place.path / f"home of {name}"

    def key(self, name):
        return self.place.path / f"{name}.key"

    def tree(self, name):
        return self.place.path / f"tree of {name}"

    def backup(self, names):
        """All of them at once; each must succeed. Seconds."""
        started = time.monotonic()
        words = [["backup", self.tree(name), "--host", name] for name in names]
        running = [
            self.place.start(*line, key=self.key(name), home=self.home(name))
            for name, line in zip(names, words, strict=True)
        ]
        codes = [process.wait() for process in running]
        assert codes == [0] * len(names), dict(zip(names, codes, strict=True))
        return time.monotonic() - started

    def verify(self):
        """The repository is sound, and what each backed up last comes back to its owner."""
        found = self.place.json("check", "--read-data")
        assert (found["num_errors"], found["unchecked"], found["unlisted_packs"]) == (0, [], 0), found
        for name in self.names:
            out = self.place.path / f"out of {name}"
            self.place.ok("restore", f"latest:{self.tree(name)}", "--host", name, "--target", out)
            assert trees.manifest(out) == trees.manifest(self.tree(name)), name
