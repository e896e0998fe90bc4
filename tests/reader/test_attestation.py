"""An attestation verified as an auditor would: from docs/format.md "Attestations" and ROOT's public key alone."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from elements import Refused, verify

COPAL = os.environ.get("COPAL_BIN")


def read(text, root):
    """Returns the fields and the snapshots of an attestation that ROOT signed; refuses any other."""
    statement, _, signature = text[:-1].rpartition("\nsignature ")
    statement += "\n"
    verify(root, b"copal 1 attestation", statement.encode(), bytes.fromhex(signature))
    first, *lines = statement.splitlines()
    names = ["repository", "root", "made", "verified-from", "verified-to", "packs", "bytes", "snapshots"]
    fields = dict(line.split(" ") for line in lines[: len(names)])
    snapshots = lines[len(names) :]
    if first != "copal attestation 1" or list(fields) != names or len(snapshots) != int(fields["snapshots"]):
        raise Refused("not an attestation")
    return fields, snapshots


@unittest.skipUnless(COPAL, "COPAL_BIN is not set")
class Attestation(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.dir = Path(kept.name)
        (self.dir / "src").mkdir()
        (self.dir / "src/file").write_text("content\n")

    def copal(self, *words):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "COPAL_PASSWORD": "p", "COPAL_REPOSITORY": str(self.dir / "repo")}
        return subprocess.run([COPAL, *words], cwd=self.dir, env=env, check=True, capture_output=True, text=True).stdout

    def test_what_the_owner_signed_is_verified_without_a_key_of_the_repository(self):
        self.copal("init")
        self.copal("backup", "src")
        self.copal("check", "--read-data", "--attest", "said")
        text = (self.dir / "said").read_text()
        root = bytes.fromhex(text.splitlines()[2].removeprefix("root "))
        fields, snapshots = read(text, root)
        self.assertLessEqual(int(fields["verified-from"]), int(fields["verified-to"]))
        packs = [path for path in (self.dir / "repo/pack").rglob("*") if path.is_file()]
        self.assertEqual((int(fields["packs"]), int(fields["bytes"])), (len(packs), sum(p.stat().st_size for p in packs)))
        listed = self.copal("list", "snapshots").split()
        self.assertEqual(snapshots, listed)
        with self.assertRaises(Refused):
            read(text.replace("\npacks ", "\npacks 9"), root)


if __name__ == "__main__":
    unittest.main()
