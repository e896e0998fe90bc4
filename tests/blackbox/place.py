"""A place to run copal in: a temporary directory with a home, a repository and its key of its own.

COPAL_BIN is the program; COPAL_TEST_S3 describes servers, as tests/servers/s3 says.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from pathlib import Path

from s3client import Bucket

COPAL = os.environ["COPAL_BIN"]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Ran:
    """What a run left behind: exit `code`, `out`, `err`, `seconds`, and `peak` memory in bytes where it was measured."""

    def __init__(self, words, code, out, err, seconds, peak):
        self.words, self.code, self.out, self.err, self.seconds, self.peak = words, code, out, err, seconds, peak

    def __repr__(self):
        return f"copal {' '.join(map(str, self.words))}: exit code {self.code}\n{self.out[-3000:]}\n{self.err[-3000:]}"

    def json(self):
        """The last line of stdout: a summary or a document."""
        return json.loads(self.out.splitlines()[-1])

    def problems(self):
        """Lines of type `error` on stderr, with --json."""
        lines = [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]
        return [line for line in lines if line["message_type"] == "error"]


class Place:
    """`path` is the directory, `repo` what --repo is told. On disk, or with `server` (a description) below a prefix of its bucket."""

    def __init__(self, server=None, gib=1):
        self.path = Path(tempfile.mkdtemp(prefix="copal-blackbox-")).resolve()
        need_free_disk(self.path, gib)
        self.server, self.prefix = server, f"blackbox-{uuid.uuid4().hex[:12]}"
        self.repo = s3_url(server, self.prefix) if server else str(self.path / "repository")
        self.key, self.home = self.path / "key", self.path / "home"
        self.home.mkdir()

    def close(self):
        """Removes everything."""
        shutil.rmtree(self.path)
        if self.server:
            bucket = Bucket(self.server)
            for key in bucket.list(self.prefix + "/"):
                bucket.delete(key)

    def environment(self, home=None):
        """HOME, PATH and the server's keys; nothing else of the caller's."""
        env = {"HOME": str(home or self.home), "PATH": os.environ["PATH"]}
        if self.server:
            env.update(s3_environment(self.server))
        return env

    def command(self, words, key=None):
        """The whole command line; a `key` of False: `words` say themselves what opens the repository."""
        with_key = () if words[0] == "init" or key is False else ("--key-file", key or self.key)
        return [COPAL, "--repo", self.repo, *with_key, *words]

    def init(self, *words):
        """Makes the repository, and its key file."""
        return self.ok("init", "--key-out", self.key, *words)

    def run(self, *words, key=None, home=None, env=None, measure=False, cwd=None):
        """Runs copal to its end."""
        env = {**self.environment(home), **(env or {})}
        return run_program(self.command(words, key), words, env, measure, cwd)

    def ok(self, *words, **options):
        """Runs copal, and it must succeed."""
        ran = self.run(*words, **options)
        assert ran.code == 0, repr(ran)
        return ran

    def json(self, *words, **options):
        """Runs copal with --json, and it must succeed: its last line."""
        return self.ok(*words, "--json", "--no-progress", **options).json()

    def start(self, *words, key=None, home=None, output=None):
        """Starts copal and returns the process. Its output goes to the files `output`.out and `output`.err, or nowhere."""
        command, env = self.command(words, key), self.environment(home)
        with (
            open(f"{output}.out" if output else os.devnull, "wb") as out,
            open(f"{output}.err" if output else os.devnull, "wb") as err,
        ):
            return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def kill(self, after, *words, **options):
        """Runs copal and kills it (SIGKILL) `after` so many seconds, or not if it ends before. Whether it was killed."""
        process = self.start(*words, **options)
        try:
            process.wait(after)
            return False
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True

    def objects(self, kind=""):
        """Files of a repository on disk, as paths relative to it, sorted: all or those whose names begin with `kind`."""
        root = Path(self.repo)
        return sorted(str(f.relative_to(root)) for f in root.rglob(kind + "*/**/*" if kind else "*") if f.is_file())

    def stored_bytes(self):
        """Sizes of all objects together."""
        if self.server:
            return sum(Bucket(self.server).list(self.prefix + "/").values())
        return sum((Path(self.repo) / name).stat().st_size for name in self.objects())


def run_program(command, words, env, measure=False, cwd=None):
    """Runs a program to its end; with `measure`, its memory is watched. Failures show `words`."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with watch_memory(process.pid) if measure else contextlib.nullcontext([None]) as peak:
        out, err = process.communicate()
    text = lambda data: data.decode(errors="surrogateescape")
    return Ran(words, process.returncode, text(out), text(err), time.monotonic() - started, peak[0])


@contextlib.contextmanager
def watch_memory(pid, every=0.02):
    """Peak of anonymous and shared memory of a process in bytes, looked at every 20 ms: mapped files are not counted, the
    kernel takes those back when it needs memory. Yields a list of one number that grows."""
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(every):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                now = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
                peak[0] = max(peak[0], now * KIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def need_free_disk(path, gib):
    """Fails before anything is made, rather than half way through with a full disk."""
    free = shutil.disk_usage(path).free / GIB
    if free < gib + 1:
        raise RuntimeError(f"this test takes {gib} GiB below {path} and wants 1 more to stay free; there are {free:.1f} GiB")


def servers():
    """Descriptions of the S3 servers that were started."""
    path = os.environ.get("COPAL_TEST_S3")
    if not path:
        return []
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def s3_url(server, prefix, endpoint=None, bucket=None):
    """What --repo takes."""
    return f"s3:{endpoint or server['endpoint']}/{bucket or server['bucket']}/{prefix}"


def s3_environment(server):
    """How copal learns the server's keys and region."""
    keys = {"AWS_ACCESS_KEY_ID": server["access_key"], "AWS_SECRET_ACCESS_KEY": server["secret_key"]}
    return {**keys, "AWS_REGION": server["region"], "AWS_EC2_METADATA_DISABLED": "true"}


def figures(name, **values):
    """Prints measured figures as one line of JSON."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"test": name, **rounded}), file=sys.stderr, flush=True)


def processor_seconds():
    """Spent by this process and by those that it waited for: says what a test costs even where others keep the machine busy."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Case(unittest.TestCase):
    """A test that makes places, which are removed at its end, and says how long it took."""

    def run(self, result=None):
        started, processor = time.monotonic(), processor_seconds()
        super().run(result)
        took, of_processor = time.monotonic() - started, processor_seconds() - processor
        print(f"    {self.id()}: {took:.1f} s, {of_processor:.1f} s of a processor", file=sys.stderr, flush=True)

    def place(self, server=None, gib=1):
        """A new place that is removed at the end of the test."""
        place = Place(server, gib)
        self.addCleanup(place.close)
        return place

    def server(self):
        """The first S3 server; without one the test is skipped, and says so."""
        found = servers()
        if not found:
            self.skipTest("NOT TESTED: COPAL_TEST_S3 names no server")
        return found[0]
