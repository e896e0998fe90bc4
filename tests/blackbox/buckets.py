"""What the tests against buckets and bad stores share: runs the program, makes users, buckets and quotas on Ceph's gateway."""

import json
import os
import secrets
import subprocess
import tempfile
import unittest
from pathlib import Path

from s3client import Bucket, Refused

COPAL = os.environ.get("COPAL_BIN")


def server(name="rgw"):
    """The description of a server; the test is skipped where it does not run."""
    path = os.environ.get("COPAL_TEST_S3")
    servers = json.loads(Path(path).read_text()) if path else []
    for one in servers:
        if one["name"] == name:
            return one
    raise unittest.SkipTest(f"needs {name} (COPAL_TEST_S3)")


class Ran:
    """What a run of the program left behind: `code`, `out`, `err`."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def lines(self):
        """Its documents, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.err}"


class Place:
    """A directory with a home, a source, and a way to run the program; `keys` are (access key, secret key) of a store."""

    def __init__(self):
        self.held = tempfile.TemporaryDirectory(prefix="copal-blackbox-")
        self.dir = Path(self.held.name)
        (self.dir / "home").mkdir()

    def close(self):
        self.held.cleanup()

    def environment(self, keys=None, **more):
        env = {"HOME": str(self.dir / "home"), "PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true"}
        if keys:
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = keys
        return {**env, **more}

    def run(self, *words, keys=None, timeout=300, **more):
        """Runs the program to its end."""
        done = subprocess.run(
            [COPAL, *map(str, words)], env=self.environment(keys, **more), cwd=self.dir, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )
        return Ran(done)

    def good(self, *words, **more):
        """The same; it must succeed."""
        ran = self.run(*words, **more)
        assert ran.code == 0, f"copal {words}: {ran}"
        return ran

    def fill(self, name, files=20, size=40_000):
        """A directory of random files."""
        top = self.dir / name
        (top / "sub").mkdir(parents=True, exist_ok=True)
        for n in range(files):
            (top / ("sub" if n % 3 else ".") / f"file-{n}").write_bytes(os.urandom(size))
        return top


def contents(top):
    """Every file below a directory with its bytes."""
    top = Path(top)
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def address(described, bucket, prefix=""):
    """The text of --repo."""
    return f"s3:{described['endpoint']}/{bucket}" + (f"/{prefix}" if prefix else "")


def new_bucket(described):
    """A bucket with a name of its own, made by the server's first user."""
    bucket = Bucket({**described, "bucket": f"t-{secrets.token_hex(6)}"})
    bucket.create()
    return bucket


def as_user(bucket, keys):
    """The same bucket with other credentials."""
    other = Bucket.__new__(Bucket)
    other.__dict__.update(bucket.__dict__)
    other.access_key, other.secret_key = keys
    return other


def admin(described, *words):
    """radosgw-admin."""
    done = subprocess.run(
        ["radosgw-admin", "--no-mon-config", "-c", described["ceph_conf"], *words],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, f"radosgw-admin {words}: {done.stdout} {done.stderr}"
    return done.stdout


def new_user(described, name):
    """A user without any right: its name on the server, and its keys."""
    name = f"{name}-{secrets.token_hex(4)}"
    keys = (secrets.token_hex(10), secrets.token_hex(20))
    admin(described, "user", "create", f"--uid={name}", f"--display-name={name}",
          f"--access-key={keys[0]}", f"--secret-key={keys[1]}")
    return name, keys


def put_policy(bucket, statements):
    """Replaces the bucket's policy."""
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    bucket.request("PUT", "", query={"policy": ""}, body=text.encode())


def outcome(verb, *arguments, **options):
    """200, or the status of the refusal."""
    try:
        verb(*arguments, **options)
    except Refused as refusal:
        return refusal.status
    return 200
