"""File systems of their own in sparse image files: every one has what the machine's own may lack, and nobody else writes to it."""

import subprocess
import sys
from pathlib import Path

# How to make one, best first: a kernel that was built without quota formats mounts no ext4 that knows projects.
MAKE = {
    "ext4": [["mkfs.ext4", "-q", "-F", "-O", "project,quota", "-E", "quotatype=prjquota"], ["mkfs.ext4", "-q", "-F"]],
    "xfs": [["mkfs.xfs", "-q", "-f"]],
}


class Mounted:
    """A new file system of `kind` (ext4 or xfs) and `size` bytes, mounted at `path`; needs root."""

    def __init__(self, place, name, kind, size):
        self.kind, self.image, self.path = kind, place.path / f"{name}.img", place.path / name
        with open(self.image, "wb") as file:
            file.truncate(size)
        self.path.mkdir()
        if not any(self._mount(make) for make in MAKE[kind]):
            raise RuntimeError(f"this kernel mounts no {kind}, or not from a loop device")

    def _mount(self, make):
        subprocess.run([*make, self.image], check=True)
        done = subprocess.run(["mount", "-o", "loop,noatime", self.image, self.path], capture_output=True)
        if done.returncode:
            print(f"    NOT TESTED: no file system by {' '.join(make)}: this kernel cannot mount it", file=sys.stderr)
        return done.returncode == 0

    def close(self):
        """Unmounts it, and removes the image: nothing in it needs to be removed one by one, not even what is immutable."""
        subprocess.run(["umount", self.path], check=True)
        Path(self.image).unlink()
        self.path.rmdir()
