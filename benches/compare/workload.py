"""A workload: a directory `source` that stands at one of several versions, and can be switched between them.

Between versions only files that differ are moved, in and out by rename, so every other file keeps its inode, mtime and
ctime, and each tool's shortcut for unchanged files works as it would in life.

    NAME/source/...        what is backed up
    NAME/steps/2/...       files that version 2 brings in (while at 1), or those that it took out (while at 2 or later)
    NAME/steps/2.json      {"out": [paths], "in": [paths]}
    NAME/state.json        {"version": 1, "versions": 4, "recipe": ..., "scale": ...}
"""

import json
import os
import shutil
import time
from pathlib import Path

SETTLE_SECS = 3  # programs that distrust what changed within two seconds of a backup read it again in the next


class Workload:
    """A made workload below `root`; `version` counts from 1."""

    def __init__(self, root):
        self.root, self.source = Path(root), Path(root) / "source"
        state = json.loads((self.root / "state.json").read_text())
        self.versions, self.scale, self.version = state["versions"], state["scale"], state["version"]
        if self.version == 0:
            raise SystemExit(f"{root}: a switch of versions was interrupted; delete it, it is made again")

    def switch(self, version):
        """Brings `source` to `version`, and lets some time pass if files were moved."""
        target, at = version, self.version
        if at == target:
            return
        self._note(0)
        while at < target:
            at += 1
            self._swap(at, "out", "in")
        while at > target:
            self._swap(at, "in", "out")
            at -= 1
        self._note(target)
        time.sleep(SETTLE_SECS)

    def _swap(self, step, leave, enter):
        aside = self.root / "steps" / str(step)
        paths = json.loads(aside.with_suffix(".json").read_text())
        for left, right, names in ((self.source, aside / leave, paths[leave]), (aside / enter, self.source, paths[enter])):
            for name in names:
                (right / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(left / name, right / name)
        for name in paths[leave]:
            _remove_empty((self.source / name).parent, self.source)

    def _note(self, version):
        self.version = version
        note(self.root, version, self.versions, self.scale)

    def warm(self):
        """Reads all of `source`, so that no tool pays for the disk what the next one finds cached."""
        for path in files(self.source):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass

    def size(self):
        """(files and links, bytes) of `source` as it stands."""
        sizes = [path.lstat().st_size for path in files(self.source, links=True)]
        return len(sizes), sum(sizes)

    def one_file(self):
        """A file of 1 KB to 1 MB in the middle of all, relative to `source`; None where there is only a single file."""
        paths = sorted(path for path in files(self.source) if 1000 <= path.stat().st_size <= 1_000_000)
        return paths[len(paths) // 2].relative_to(self.source) if paths else None


def make(root, recipe, scale):
    """Makes a workload with `recipe(root, scale)`, which fills `source` and `steps/K/in` and returns for each step the
    paths that leave; does nothing if it is there already at this scale."""
    root = Path(root)
    if (root / "state.json").exists():
        workload = Workload(root)
        if workload.scale == scale:
            return workload
    shutil.rmtree(root, ignore_errors=True)
    (root / "source").mkdir(parents=True)
    leaving = recipe(root, scale)
    for step, out in enumerate(leaving, start=2):
        entering = [str(path.relative_to(root / "steps" / str(step) / "in"))
                    for path in files(root / "steps" / str(step) / "in", links=True)]
        (root / "steps" / f"{step}.json").write_text(json.dumps({"out": sorted(out), "in": sorted(entering)}))
    note(root, 1, 1 + len(leaving), scale)
    return Workload(root)


def note(root, version, versions, scale):
    text = json.dumps({"version": version, "versions": versions, "scale": scale})
    (root / "state.json.new").write_text(text)
    os.replace(root / "state.json.new", root / "state.json")


def files(top, links=False):
    """Regular files below `top`, with `links` also symbolic links, in no order that means anything."""
    for directory, names, leaves in os.walk(top):
        for path in (Path(directory, name) for name in leaves + names):
            if path.is_symlink():
                if links:
                    yield path
            elif path.is_file():
                yield path


def _remove_empty(directory, top):
    while directory != top:
        try:
            directory.rmdir()
        except OSError:  # not empty, or gone with an earlier file
            if directory.exists():
                return
        directory = directory.parent
