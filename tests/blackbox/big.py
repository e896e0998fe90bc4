"""Much of one kind: many small files, one big file, one sparse image. Each returns figures that were measured, and fails if a byte
is not as it was. What is no longer needed is removed at once: disk is short."""

import shutil
import time

import trees
from compare import compare
from place import GIB, MIB

# What a process may take of memory beside mapped files: the default of --memory.
PEAK_MAX = 256 * MIB


def measured(place, *words):
    """Runs copal with its memory watched; (summary, seconds, MiB at the peak)."""
    ran = place.ok(*words, "--json", "--no-progress", measure=True)
    assert ran.peak <= PEAK_MAX, f"took {ran.peak / MIB:.0f} MiB: {ran!r}"
    return ran.json(), ran.seconds, ran.peak / MIB


def put(found, name, seconds, peak):
    """Adds a measurement to figures."""
    found[f"{name}_seconds"], found[f"{name}_peak_mib"] = round(seconds, 2), round(peak, 1)


def small_files(place, count):
    """Backup, repeat and restore of `count` small files."""
    tree, out = place.path / "tree", place.path / "out"
    found = {"files": count, "bytes": trees.small_files(tree, count)}
    # Files that changed less than two seconds before a backup are read again by the next.
    time.sleep(2.1)
    summary, *figures = measured(place, "backup", tree)
    assert summary["files_new"] == count, summary
    put(found, "backup", *figures)
    found["stored_bytes"] = summary["data_added_packed"]
    summary, *figures = measured(place, "backup", tree)
    # Directories above the tree are stored too, and others change in /tmp.
    assert (summary["files_unmodified"], summary["data_blobs"]) == (count, 0) and summary["data_added"] < MIB, summary
    put(found, "repeat", *figures)
    _, *figures = measured(place, "restore", f"latest:{tree}", "--target", out)
    put(found, "restore", *figures)
    differences = [(path, what) for path, what in compare(tree, out) if path != "." and not what.startswith("st_atime")]
    assert differences == [], differences[:20]
    _, *figures = measured(place, "check", "--read-data")
    put(found, "check_read_data", *figures)
    shutil.rmtree(tree), shutil.rmtree(out)
    return found


def big_file(place, size):
    """Backup and restore of one file of `size` bytes."""
    path = place.path / "big"
    trees.big_file(path, size, seed=3)
    found = {"bytes": size}
    summary, *figures = measured(place, "backup", path)
    assert summary["total_bytes_processed"] == size, summary
    put(found, "backup", *figures)
    found["stored_bytes"] = summary["data_added_packed"]
    path.unlink()
    out = place.path / "out"
    _, *figures = measured(place, "restore", f"latest:{place.path}", "--target", out)
    put(found, "restore", *figures)
    assert trees.is_big_file(out / "big", size, seed=3), "the restored file has other bytes"
    shutil.rmtree(out)
    return found


def sparse_file(place, size, data):
    """Backup and restore of an image of `size` bytes with `data` bytes in it, beside a plain file of as many bytes."""
    plain, image, out = place.path / "plain", place.path / "image", place.path / "out"
    trees.big_file(plain, data, seed=4)
    trees.sparse_file(image, size, data, seed=5)
    found = {"bytes": size, "data_bytes": data}
    for name, path in (("plain", plain), ("sparse", image)):
        summary, *figures = measured(place, "backup", path)
        put(found, f"{name}_backup", *figures)
        found[f"{name}_stored_bytes"] = summary["data_added_packed"]
        _, *figures = measured(place, "restore", f"latest:{place.path}", "--target", out)
        put(found, f"{name}_restore", *figures)
        path.unlink()
    assert trees.is_big_file(out / "plain", data, seed=4), "the restored file has other bytes"
    assert trees.is_sparse_file(out / "image", size, data, seed=5), "the restored image has other bytes or holes"
    for verb in ("backup", "restore"):
        found[f"{verb}_ratio"] = round(found[f"sparse_{verb}_seconds"] / found[f"plain_{verb}_seconds"], 2)
    shutil.rmtree(out)
    return found
