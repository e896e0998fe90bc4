"""Everything that a tree has comes back, or is reported: compared by rsync and by compare.py, which know nothing of copal."""

import datetime
import os
import re
import subprocess
import unittest
from pathlib import Path

import every_attribute
import inodes
from compare import compare
from filesystems import Mounted
from place import GIB, MIB, Case, figures

RSYNC = ["rsync", "-aHAXSn", "--atimes", "--checksum", "--itemize-changes", "--delete"]
RSYNC.append(f"--exclude={every_attribute.TOO_FAR_FOR_RSYNC}")
# What one file system keeps and the other does not: restoring there reports it, and may report nothing else.
LACKING = ("chattr flags are", "project is", "cannot make the symbolic link: File name too long")


def rsync_differences(a, b):
    """Paths that rsync would change in `b` to make it like `a`."""
    done = subprocess.run([*RSYNC, "--out-format=%i %n", f"{a}/", f"{b}/"], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="surrogateescape").splitlines()


class AttributesCase(Case):
    """A place, file systems in it, and comparisons; each test has one repository."""

    maxDiff = 4000

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("NOT TESTED: owners, devices and mounts need root")
        self.at = self.place(gib=2)
        self.at.init()

    def mounted(self, name, kind, size=GIB):
        made = Mounted(self.at, name, kind, size)
        self.addCleanup(made.close)
        return made.path

    def restored(self, source, into):
        """Restores the latest snapshot of `source` below `into`: where it is now, and the problems that were reported, by path."""
        ran = self.at.run("restore", "latest", "--target", into, "--json", "--no-progress")
        target, reported = Path(f"{into}{source}"), {}
        for problem in ran.problems():
            path = os.path.relpath(problem["item"], target)
            reported.setdefault(path, []).append(problem["error"]["message"])
        self.assertEqual(ran.code, 3 if reported else 0, repr(ran))
        return target, reported

    def assert_same(self, source, target, reported):
        """No difference but those that were reported, of the very paths."""
        silent = [(path, what) for path, what in compare(source, target) if path not in reported]
        self.assertEqual(silent, [])

    def assert_same_to_rsync(self, source, target):
        """After the other comparisons: it reads holes, and where a file system had reserved room they look like data then."""
        self.assertEqual(rsync_differences(source, target) + rsync_differences(target, source), [])

    def system_trees(self, sources, size):
        """Trees of the machine, backed up where they are. Reading moves their access times; nothing else may differ."""
        backup = self.at.json("backup", *sources, "--one-file-system")
        into = self.mounted("ext4", "ext4", size)
        _, reported = self.restored(sources[0], into)
        self.assertEqual(reported, {})
        for source in sources:
            target = Path(f"{into}{source}")
            seen = [(path, what) for path, what in compare(source, target) if not what.startswith("st_atime")]
            self.assertEqual(seen, [])
            lines = rsync_differences(source, target) + rsync_differences(target, source)
            self.assertEqual([line for line in lines if not re.match(r"\.[fdLDS][.u]+ ", line)], [])
        figures("system trees", files=backup["total_files_processed"], mib=backup["total_bytes_processed"] / MIB)


class Attributes(AttributesCase):
    def assert_lacks_only_what_it_may(self, reported):
        told = [message for messages in reported.values() for message in messages]
        self.assertEqual([message for message in told if not message.startswith(LACKING)], [])

    def test_every_attribute_from_ext4(self):
        self.every_attribute_from("ext4", "xfs")

    def test_every_attribute_from_xfs(self):
        self.every_attribute_from("xfs", "ext4")

    def every_attribute_from(self, kind, other):
        """Restored into the same kind of file system without a word, and into the other with what that cannot take."""
        source = self.mounted("source", kind) / "tree"
        every_attribute.make(source)
        self.at.ok("backup", source)
        same, reported = self.restored(source, self.mounted(kind, kind))
        self.assertEqual(reported, {})
        self.assert_same(source, same, {})
        target, reported = self.restored(source, self.mounted(other, other))
        self.assert_lacks_only_what_it_may(reported)
        self.assert_same(source, target, reported)
        self.assert_same_to_rsync(source, same)

    def test_restoring_over_another_state_leaves_nothing_of_it(self):
        source = self.mounted("source", "ext4") / "tree"
        every_attribute.make(source)
        self.at.ok("backup", source)
        into = self.mounted("target", "ext4")
        target = Path(f"{into}{source}")
        target.parent.mkdir(parents=True)
        every_attribute.make(target)
        for path in (target / "modes").iterdir():
            os.chmod(path, 0o755)
        (target / "surplus").mkdir()
        self.at.ok("restore", "latest", "--target", into, "--delete")
        self.assert_same(source, target, {})
        self.assert_same_to_rsync(source, target)

    def test_times_of_birth_are_stored(self):
        source = self.mounted("source", "ext4") / "tree"
        source.mkdir()
        (source / "file").write_bytes(b"x")
        self.at.ok("backup", source)
        [node] = self.at.json("cat", "tree", f"latest:{source}")["nodes"]
        whole, fraction = re.fullmatch(r"([^.]+?)(?:\.(\d+))?\+00:00", node["btime"]).groups()
        seconds = datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp()
        self.assertEqual((seconds, int((fraction or "").ljust(9, "0"))), inodes.birth(source / "file"), node)

    def test_usr_include(self):
        self.system_trees([Path("/usr/include")], 2 * GIB)


if __name__ == "__main__":
    unittest.main()
