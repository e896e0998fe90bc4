"""Changes of keys that are killed at random points: the owner still gets in, sees everything, and does it again.

Who rotates a key file finds the new key in its place or beside it (`KEY.new`) after a kill; who opens the repository with a
password has the same password.
"""

import trees
from kills import Kept
from place import KIB

PASSWORD = "correct horse"
KINDS = ["add", "enroll", "revoke", "rotate", "rotate a password"]
WRONG_KEY = 12


class KeyRounds(Kept):
    """Each round kills a change of keys, makes it, and backs up: the owner's key of then restores everything."""

    files, file_bytes = 4, 50 * KIB

    def __init__(self, new_place, seed):
        super().__init__(new_place, seed)
        self.took_effect = self.drawn = 0

    def calibrate(self, place):
        """A password, and how long each change takes, once."""
        (place.path / "password").write_text(PASSWORD)
        place.ok("key", "add", "--new-password-file", place.path / "password")
        self.new_tree(place)
        self.backup(place)
        for kind in KINDS if not self.seconds else ():
            words, options = self.command(place, kind)
            self.seconds[kind] = place.ok(*words, **options).seconds
            self.renew(place, kind)

    def rounds(self, place, numbers):
        for n in numbers:
            self.round(place, KINDS[n % len(KINDS)])

    def round(self, place, kind):
        words, options = self.command(place, kind)
        before = place.json("key", "list")
        self.killed += place.kill(self.draw.uniform(0.2, 1.05) * self.seconds[kind], *words, **options)
        self.must_open(place, kind)
        self.took_effect += place.json("key", "list") != before
        words, options = self.command(place, kind)
        place.ok(*words, **options)
        self.renew(place, kind)
        self.backup(place)
        self.must_open(place, kind)
        self.restore_all(place)

    def command(self, place, kind):
        """Words and options that make a change; what it needs is made."""
        self.drawn += 1
        out, password = place.path / f"out{self.drawn}.key", place.path / "password"
        match kind:
            case "add":
                return ["key", "add", "--new-password-file", password, "--label", "added"], {}
            case "enroll":
                return ["key", "enroll-writer", "--out", out], {}
            case "revoke":
                writer = place.json("key", "enroll-writer", "--out", out)["id"]
                place.ok("backup", place.path / "tree", key=out)
                self.note(place, trees.manifest(place.path / "tree"))
                return ["key", "revoke", writer], {}
            case "rotate":
                return ["key", "rotate"], {}
            case "rotate a password":
                return ["--password-file", password, "key", "rotate"], {"key": False}

    def renew(self, place, kind):
        """After a rotation the other way in gets the new key, as the program says that it must be handed out."""
        if kind == "rotate":
            for slot in place.json("key", "list")["slots"]:
                place.ok("key", "remove", slot["id"])
            place.ok("key", "add", "--new-password-file", place.path / "password")
        if kind == "rotate a password":
            self.export(place)

    def export(self, place):
        place.key.unlink()
        place.ok("--password-file", place.path / "password", "key", "export", "--role", "owner", "--out", place.key, key=False)

    def must_open(self, place, kind):
        """The owner's key opens the repository, and shows all that it holds."""
        if kind == "rotate a password":
            self.export(place)
        self.check(place)
        listed = {snapshot["id"] for snapshot in place.json("snapshots")}
        assert listed == set(self.states), f"after a killed {kind}: {listed ^ set(self.states)}"

    def summary(self):
        """What happened, for the figures."""
        return {"killed": self.killed, "took_effect": self.took_effect}
