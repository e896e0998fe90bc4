"""The program on every server that runs: what `init` finds out about it, and that backups come back also where it is weak."""

import json
import os
import secrets
import unittest
from pathlib import Path

from buckets import Place, address, contents


def servers():
    path = os.environ.get("COPAL_TEST_S3")
    return json.loads(Path(path).read_text()) if path else []


class AnyServer(unittest.TestCase):
    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.close)

    def test_what_is_backed_up_comes_back(self):
        if not servers():
            self.skipTest("needs servers (COPAL_TEST_S3)")
        for described in servers():
            with self.subTest(described["name"]):
                self.whole_life(described)

    def whole_life(self, described):
        name, keys = described["name"], (described["access_key"], described["secret_key"])
        repo = address(described, described["bucket"], f"life-{secrets.token_hex(4)}")

        def run(*words, key="owner"):
            return self.place.good("-r", repo, "--key-file", f"{name}-{key}.key", *words, keys=keys)

        made = self.place.good("-r", repo, "init", "--key-out", f"{name}-owner.key", "--json", keys=keys)
        self.verdict(described, made)
        self.assertEqual(self.place.run("-r", repo, "init", "--key-out", "other.key", keys=keys).code, 1)
        run("key", "enroll-writer", "--out", f"{name}-writer.key")
        source = self.place.fill(f"source-{name}", files=300, size=3000)
        (source / "large").write_bytes(os.urandom(30 << 20))
        for key in ("owner", "writer", "owner", "writer"):
            (source / f"of {key}").write_bytes(os.urandom(100_000))
            run("backup", source, key=key)
        self.assertEqual(len(run("snapshots", "--json").lines()[0]), 4)
        run("check", "--read-data")
        target = self.place.dir / f"target-{name}"
        run("restore", "latest", "--target", target)
        self.assertEqual(contents(target / str(source).lstrip("/")), contents(source))

    def verdict(self, described, made):
        """`init` says what describe.py has seen, and where that is too little, what to keep in mind."""
        store = made.lines()[0]["store"]
        self.assertEqual(store["verdict"].removesuffix("-weak-list"), described["create_only"], made)
        self.assertEqual(store["sound"], described["create_only"] == "atomic", made)
        if not store["sound"]:
            for words in ("replaces objects", "change keys on one machine at a time", "never prune here while backups run"):
                self.assertIn(words, made.err)


if __name__ == "__main__":
    unittest.main()
