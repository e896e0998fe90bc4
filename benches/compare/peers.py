"""Finds the programs that are compared, and builds those that it can.

    python3 peers.py                    which are found, and where
    python3 peers.py build rustic       from a registry: rustic, bupstash, borg
    python3 peers.py build restic SRC   from a source directory: restic, kopia, vykar

Programs are looked for in target/peers/bin (or $COPAL_PEERS_DIR/bin), Copal in target/release, and then on the PATH.
Building needs Rust, Go, Python and, in Debian's names, libsodium-dev (bupstash) and libacl1-dev, libssl-dev, liblz4-dev,
libzstd-dev, libxxhash-dev (borg).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(os.environ.get("COPAL_PEERS_DIR", ROOT / "target/peers"))
BIN = PEERS / "bin"
BORG = "borgbackup==1.4.5"
CRATES = {"rustic": "rustic-rs@0.11.4", "bupstash": "bupstash@0.12.0"}


def find_all(names):
    """Maps the names of those that are there to their programs, and says which are not."""
    found = {}
    for name in names:
        here = (BIN / name, ROOT / "target/release" / name)
        program = next((str(path) for path in here if path.exists()), None) or shutil.which(name)
        if program:
            found[name] = program
        else:
            print(f"{name}: not found, left out; peers.py tells how to build it")
    return found


def build(name, source=None):
    BIN.mkdir(parents=True, exist_ok=True)
    if name in CRATES:
        # rustic and bupstash come with a lock file, and bupstash builds with no other versions.
        run("cargo", "install", "--locked", "--root", PEERS, CRATES[name])
    elif name == "borg":
        run(sys.executable, "-m", "venv", PEERS / "borg")
        run(PEERS / "borg/bin/pip", "install", "--quiet", BORG)
        (BIN / "borg").unlink(missing_ok=True)
        (BIN / "borg").symlink_to(PEERS / "borg/bin/borg")
    elif source is None:
        sys.exit(f"{name}: needs its source directory: peers.py build {name} SRC")
    elif name == "restic":
        run("go", "build", "-o", BIN / "restic", "./cmd/restic", cwd=source)
    elif name == "kopia":
        run("go", "build", "-tags", "nohtmlui", "-o", BIN / "kopia", ".", cwd=source)
    elif name == "vykar":
        run("cargo", "build", "--release", "--locked", "--package", "vykar-cli", cwd=source)
        shutil.copy2(Path(source) / "target/release/vykar", BIN / "vykar")
    else:
        sys.exit(f"{name}: not one of restic, kopia, vykar, rustic, bupstash, borg")


def run(*argv, cwd=None):
    subprocess.run([str(arg) for arg in argv], cwd=cwd, check=True)


def main():
    match sys.argv[1:]:
        case []:
            names = ["copal", "restic", "rustic", "kopia", "borg", "vykar", "bupstash"]
            print("\n".join(f"{name}: {program}" for name, program in find_all(names).items()))
        case ["build", name, *source] if len(source) < 2:
            build(name, *source)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
