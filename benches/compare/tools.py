"""How each tool is called. A tool is an object with `argv`s for the steps; `Tool` says which. All encrypt, all compress with
zstd at level 3 or what they call so, all else is as the tool sets it."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "correct horse battery staple"


@dataclass
class Place:
    """Where one run of a tool has its things: all below `root`, so that no tool and no round shares a cache."""

    root: Path
    source: Path

    @property
    def repo(self):
        return self.root / "repo"

    @property
    def out(self):
        return self.root / "out"

    @property
    def log(self):
        return self.root / "log"


class Tool:
    """One backup program; what is below is Copal's, and restic's and rustic's with few changes."""

    name = "copal"
    version_argv = ("version",)
    exact = True  # whether a check that reads all data is there

    def __init__(self, binary):
        self.binary = str(binary)

    def version(self):
        ran = subprocess.run([self.binary, *self.version_argv], capture_output=True, text=True)
        return ran.stdout.strip().splitlines()[0]

    def env(self, place):
        """Nothing of ours but the path: what a tool finds in its environment is what stands here."""
        home = place.root / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state"),
                "XDG_DATA_HOME": str(home / "data"), "TMPDIR": str(home), **self.own_env(place)}

    def own_env(self, place):
        return {"COPAL_REPOSITORY": str(place.repo), "COPAL_PASSWORD": PASSWORD}

    def prepare(self, place):
        """Makes the repository; outside of all timing."""
        self._quietly(place, "init")

    def backup(self, place, version):
        return [self.binary, "backup", "--no-progress", "--compression", "auto", str(place.source)]

    def restore(self, place):
        """Of the latest snapshot, into `place.out`."""
        return [self.binary, "restore", "--no-progress", f"latest:{place.source}", "--target", str(place.out)]

    def restored(self, place):
        """Where the files are after `restore` that were in the source."""
        return place.out

    def one(self, place, path):
        """Writes one file of the latest snapshot to stdout, or (where `one_restored` says so) below `place.out`."""
        return [self.binary, "dump", "latest", str(place.source / path)]

    def one_restored(self, place, path):
        return None

    def check(self, place):
        return [self.binary, "check", "--no-progress", "--read-data"]

    def forget(self, place, keep):
        """Drops all snapshots but the last `keep`, and gives the space back, with up to 5 % unused left in what stays."""
        return [self.binary, "forget", "--no-progress", "--keep-last", str(keep), "--prune", "--max-unused", "5%"]

    def details(self, place):
        """Figures of its own about the repository, for the record."""
        return {}

    def _quietly(self, place, *args, cwd="/"):
        ran = subprocess.run([self.binary, *map(str, args)], env=self.env(place), cwd=cwd, text=True, capture_output=True)
        if ran.returncode != 0:
            raise SystemExit(f"{self.name} {args[0]}: {ran.stderr.strip()}")
        return ran.stdout


class Copal(Tool):
    def details(self, place):
        """Bytes of blobs as stored; the rest of the repository is headers, padding, keys, sessions and pins."""
        return {"blob_bytes": json.loads(self._quietly(place, "stats", "--mode", "raw-data", "--json"))["total_size"]}


class Restic(Tool):
    name = "restic"

    def own_env(self, place):
        return {"RESTIC_REPOSITORY": str(place.repo), "RESTIC_PASSWORD": PASSWORD}

    def backup(self, place, version):
        return [self.binary, "backup", "--quiet", "--compression", "auto", str(place.source)]

    def restore(self, place):
        return [self.binary, "restore", "--quiet", f"latest:{place.source}", "--target", str(place.out)]

    def check(self, place):
        return [self.binary, "check", "--quiet", "--read-data"]

    def forget(self, place, keep):
        return [self.binary, "forget", "--quiet", "--keep-last", str(keep), "--prune", "--max-unused", "5%"]


class Rustic(Tool):
    name = "rustic"
    version_argv = ("--version",)

    def own_env(self, place):
        return {"RUSTIC_REPOSITORY": str(place.repo), "RUSTIC_PASSWORD": PASSWORD, "RUSTIC_NO_PROGRESS": "true"}

    def prepare(self, place):
        self._quietly(place, "init", "--set-compression", "3")

    def backup(self, place, version):
        return [self.binary, "backup", str(place.source)]

    def restore(self, place):
        return [self.binary, "restore", f"latest:{place.source}", str(place.out)]

    def one(self, place, path):
        return [self.binary, "dump", f"latest:{place.source / path}"]

    def check(self, place):
        return [self.binary, "check", "--read-data"]

    def forget(self, place, keep):
        """Its own default waits a day before it deletes, which would free nothing here."""
        return [self.binary, "forget", "--keep-last", str(keep), "--prune", "--max-unused", "5%", "--instant-delete"]


class Kopia(Tool):
    name = "kopia"
    version_argv = ("--version",)

    def own_env(self, place):
        return {"KOPIA_PASSWORD": PASSWORD, "KOPIA_CHECK_FOR_UPDATES": "false"}

    def prepare(self, place):
        self._quietly(place, "repository", "create", "filesystem", "--path", place.repo)
        self._quietly(place, "policy", "set", "--global", "--compression", "zstd")

    def backup(self, place, version):
        return [self.binary, "--no-progress", "snapshot", "create", str(place.source)]

    def _latest(self, place):
        return json.loads(self._quietly(place, "snapshot", "list", "--json", place.source))[-1]["rootEntry"]["obj"]

    def restore(self, place):
        return [self.binary, "--no-progress", "snapshot", "restore", self._latest(place), str(place.out)]

    def one(self, place, path):
        return [self.binary, "show", f"{self._latest(place)}/{path}"]

    def check(self, place):
        return [self.binary, "--no-progress", "content", "verify", "--download-percent=100"]

    def forget(self, place, keep):
        return None  # its maintenance frees only what is old


class Borg(Tool):
    name = "borg"
    version_argv = ("--version",)

    def own_env(self, place):
        return {"BORG_REPO": str(place.repo), "BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(place.root / "home")}

    def prepare(self, place):
        self._quietly(place, "init", "--encryption", "repokey-blake2")

    def backup(self, place, version):
        return [self.binary, "create", "--compression", "zstd,3", f"::v{version}", str(place.source)]

    def _latest(self, place):
        return "::" + json.loads(self._quietly(place, "list", "--json"))["archives"][-1]["name"]

    def restore(self, place):
        """Borg extracts into the directory that it is called in."""
        return ["env", "--chdir", str(place.out), self.binary, "extract", self._latest(place)]

    def restored(self, place):
        return place.out / place.source.relative_to("/")

    def one(self, place, path):
        return [self.binary, "extract", "--stdout", self._latest(place), str((place.source / path).relative_to("/"))]

    def check(self, place):
        return [self.binary, "check", "--verify-data"]

    def forget(self, place, keep):
        return ["sh", "-c", f'"$0" prune --keep-last {keep} && "$0" compact --threshold 5', self.binary]


class Bupstash(Tool):
    name = "bupstash"
    version_argv = ("--version",)
    exact = False

    def own_env(self, place):
        return {"BUPSTASH_REPOSITORY": str(place.repo), "BUPSTASH_KEY": str(place.root / "key")}

    def prepare(self, place):
        self._quietly(place, "init")
        self._quietly(place, "new-key", "--output", place.root / "key")

    def backup(self, place, version):
        """`--xattrs` because the others store them too."""
        return [self.binary, "put", "--quiet", "--xattrs", "--compression", "zstd:3", f"version={version}", "::",
                str(place.source)]

    def restore(self, place):
        return [self.binary, "restore", "--quiet", "--ownership", "--xattrs", "--into", str(place.out), "version=2"]

    def one(self, place, path):
        return [self.binary, "get", "--quiet", "--pick", str(path), "version=2"]

    def check(self, place):
        return None  # there is none

    def forget(self, place, keep):
        return None  # it chooses by query, not by number


class Vykar(Tool):
    name = "vykar"
    version_argv = ("--version",)

    def own_env(self, place):
        return {"VYKAR_CONFIG": str(place.root / "vykar.yaml"), "VYKAR_PASSPHRASE": PASSWORD}

    def prepare(self, place):
        config = {"repositories": [{"url": str(place.repo)}], "sources": [str(place.source)],
                  "encryption": {"mode": "auto"}, "compression": {"algorithm": "zstd", "zstd_level": 3}}
        (place.root / "vykar.yaml").write_text(json.dumps(config))  # which is YAML too
        self._quietly(place, "init")

    def backup(self, place, version):
        return [self.binary, "backup"]

    def restore(self, place):
        return [self.binary, "restore", "latest", str(place.out)]

    def restored(self, place):
        return place.out

    def one(self, place, path):
        return [self.binary, "restore", "latest", str(place.out), "--pattern", str(path)]

    def one_restored(self, place, path):
        return self.restored(place) / path

    def check(self, place):
        return [self.binary, "check", "--verify-data"]

    def forget(self, place, keep):
        return None  # how much it leaves unused cannot be told


TOOLS = {tool.name: tool for tool in (Copal, Restic, Rustic, Kopia, Borg, Vykar, Bupstash)}
