"""image.py ARCHIVE --layer TAR... (--tag NAME --entrypoint JSON)...: an archive of images that `ctr images import` takes.

The images of one archive have the same layers (uncompressed tar files, lowest first) and differ in what they start.
"""

import argparse
import hashlib
import io
import json
import tarfile


def digest(path):
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config(entrypoint, layers):
    """An image's configuration. Nothing in it depends on when it was made."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("archive")
    parser.add_argument("--layer", action="append")
    parser.add_argument("--tag", action="append")
    parser.add_argument("--entrypoint", action="append", type=json.loads)
    arguments = parser.parse_args()
    layers = [digest(path) for path in arguments.layer]
    with tarfile.open(arguments.archive, "w") as archive:

        def add(name, data):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        for name, path in zip(layers, arguments.layer, strict=True):
            archive.add(path, f"{name}/layer.tar")
        manifest = []
        for tag, entrypoint in zip(arguments.tag, arguments.entrypoint, strict=True):
            text = json.dumps(config(entrypoint, layers)).encode()
            name = hashlib.sha256(text).hexdigest() + ".json"
            add(name, text)
            manifest.append({"Config": name, "RepoTags": [tag], "Layers": [f"{layer}/layer.tar" for layer in layers]})
        add("manifest.json", json.dumps(manifest).encode())


main()
