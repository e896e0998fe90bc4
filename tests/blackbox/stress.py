"""Everything at once in one repository for minutes: eight writers, two pruners, a reader, and SIGKILL for any of the first ten.

Sources are drawn from few directories that all writers share, so that what one snapshot gives up is what the next backup
stores: blobs are condemned, reused and adopted at the same time all the time. Every source is kept as a manifest under the tag
of its backup, so that also what a killed backup has committed is known. The newest snapshots of each writer are never
forgotten, and must be there at the end.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import trees
from place import GIB, KIB, MIB

WRITERS = 8
PRUNERS = ("owner", "maintainer")
KEEP = 4  # snapshots of each writer at least: none of these is ever forgotten
POOL, POOL_FILES = 40, 4  # directories that sources consist of, and files in each
CHOSEN = 6  # directories of a source
STORED_MAX = 8 * GIB  # the run ends as failed above this
SLOW_SECONDS = 90  # longer than a prune waits for an answer
PRUNES = [
    ["prune"],
    ["prune", "--max-unused", "0"],
    ["forget", "--keep-last", str(KEEP), "--group-by", "host", "--prune"],
    ["forget", "--keep-last", str(KEEP), "--group-by", "host"],
    ["forget", "--keep-last", str(KEEP + 2), "--group-by", "host"],
]
SMALL = ["--memory", "64M"]
# Of those that run: killed, and (of backups) stopped until a prune has lost patience.
KILLED, STOPPED = 0.3, 0.01
BUSY = 11


class Stress:
    """One run in `place`, whose repository does not exist yet. Failures are gathered, and told of at the end. `rest`: seconds after
    a prune that was killed, until nothing of it is under way any more."""

    def __init__(self, place, seed, writers=WRITERS, pruners=PRUNERS, rest=0):
        self.place, self.seed, self.names = place, seed, [f"writer{n}" for n in range(writers)]
        self.pruners, self.rest = pruners, rest
        self.counts, self.failures, self.lock = Counter(), [], threading.Lock()
        self.ending, self.one_stopped = threading.Event(), threading.Lock()
        self.versions = {}  # tag of a backup: manifest of its source
        self.committed = {name: [] for name in self.names}  # ids of backups that ended well, in order
        self.forgotten = set()  # ids that a forget has said are forgotten

    def run(self, seconds):
        """Prepares, works for so many seconds, and verifies what came of it."""
        self.prepare()
        threads = [threading.Thread(target=self.loop, args=(self.back_up, name)) for name in self.names]
        threads += [threading.Thread(target=self.loop, args=(self.prune, role)) for role in self.pruners]
        threads += [threading.Thread(target=self.loop, args=(self.read, "reader"))]
        for thread in threads:
            thread.start()
        self.watch(seconds)
        for thread in threads:
            thread.join()
        assert not self.failures, "\n".join(self.failures[:5])
        self.verify()

    def prepare(self):
        self.place.init("--chunk-size", "64K")
        self.place.ok("key", "export", "--role", "maintainer", "--out", self.key("maintainer"))
        shutil.copy(self.place.key, self.key("owner"))
        shutil.copy(self.place.key, self.key("reader"))
        for n in range(POOL):
            draw = random.Random(f"{self.seed} {n}")
            trees.noise(self.pool(n), POOL_FILES, draw.randrange(100 * KIB, 300 * KIB), draw.random())
        for name in [*self.names, "owner", "maintainer", "reader"]:
            self.home(name).mkdir()
            self.logs(name).mkdir()
        for name in self.names:
            self.place.ok("key", "enroll-writer", "--out", self.key(name))
            self.tree(name).mkdir()

    def home(self, name):
        return self.place.path / f"home of {name}"

    def key(self, name):
        return self.place.path / f"{name}.key"

    def tree(self, name):
        return self.place.path / f"tree of {name}"

    def logs(self, name):
        return self.place.path / f"logs of {name}"

    def pool(self, n):
        return self.place.path / "pool" / f"part{n}"

    def watch(self, seconds):
        """Ends all after the time, after a failure, or where the repository grows without bound."""
        until, looks = time.monotonic() + seconds, 0
        while time.monotonic() < until and not self.failures:
            stored, looks = self.stored_bytes(), looks + 1
            if looks % 15 == 1:
                print(f"{until - time.monotonic():.0f} s left, {stored // MIB} MiB stored, {dict(self.counts)}", file=sys.stderr)
            self.counts["stored_mib_max"] = max(self.counts["stored_mib_max"], stored // MIB)
            free = shutil.disk_usage(self.place.path).free
            if stored > STORED_MAX or free < 2 * GIB:
                self.fail(f"{stored / GIB:.1f} GiB are stored, {free / GIB:.1f} GiB of disk are free")
            time.sleep(2)
        self.ending.set()

    def stored_bytes(self):
        """As far as it can be said while objects come and go."""
        try:
            return self.place.stored_bytes()
        except FileNotFoundError:
            return 0

    def loop(self, work, who):
        """`work(who, draw, n)` again and again, until the end or a failure."""
        draw, n = random.Random(f"{self.seed} {who}"), 0
        try:
            while not self.ending.is_set() and not self.failures:
                n += 1
                work(who, draw, n)
        except Exception as failure:  # a thread that ends in silence would be a test that passes
            self.fail(f"{who}, {n}: {failure!r}")

    def fail(self, text):
        with self.lock:
            self.failures.append(text)

    def count(self, what, by=1):
        with self.lock:
            self.counts[what] += by

    def run_or_kill(self, who, draw, n, words, mean):
        """Runs copal as `who`, and perhaps kills it before it has run for about twice the `mean` time. Its exit code, or None
        where it was killed; what it wrote to stdout; and the path of its output for messages."""
        output = self.logs(who) / f"{n:05}"
        process = self.place.start(*words, key=self.key(who), home=self.home(who), output=output)
        kill = draw.random() < KILLED
        after = draw.uniform(0, 2 * mean) if kill else None
        if not kill and "backup" in words and draw.random() < STOPPED:
            self.stop(process, draw.uniform(0, mean))
        code = wait(process, after)
        out = output.with_suffix(".out").read_text(errors="replace")
        return code, out, output

    def stop(self, process, after):
        """One at a time, because prunes wait for it."""
        if self.one_stopped.acquire(blocking=False):
            try:
                time.sleep(after)
                process.send_signal(signal.SIGSTOP)
                self.ending.wait(SLOW_SECONDS)
                process.send_signal(signal.SIGCONT)
                self.count("backups_stopped")
            finally:
                self.one_stopped.release()

    def back_up(self, name, draw, n):
        """A new version of the source, and its backup: to the end, or killed."""
        tag = f"{name}-{n}"
        self.change(name, draw)
        if draw.random() < 0.1:
            shutil.rmtree(self.home(name) / ".cache", ignore_errors=True)
        with self.lock:
            self.versions[tag] = trees.manifest(self.tree(name))
        words = [*SMALL, "backup", self.tree(name), "--host", name, "--tag", tag, "--json", "--no-progress"]
        started = time.monotonic()
        code, out, output = self.run_or_kill(name, draw, n, words, self.mean("backup"))
        if code is None:
            self.count("backups_killed")
            return
        if code != 0:
            raise AssertionError(f"a backup ended with {code}: {tail(output)}")
        self.took("backup", time.monotonic() - started)
        summary = json.loads(out.splitlines()[-1])
        with self.lock:
            self.committed[name].append(summary["snapshot_id"])
            self.counts["backups_done"] += 1
            self.counts["stored_bytes"] += summary["data_added_packed"]

    def change(self, name, draw):
        """Some parts of the source give way to others of the pool, and one file is new."""
        tree = self.tree(name)
        here = {path.name for path in tree.iterdir() if path.is_dir()}
        wanted = set(draw.sample(sorted(here), min(len(here), draw.randrange(CHOSEN + 1))))
        while len(wanted) < CHOSEN:
            wanted.add(f"part{draw.randrange(POOL)}")
        for part in here - wanted:
            shutil.rmtree(tree / part)
        for part in wanted - here:
            shutil.copytree(self.place.path / "pool" / part, tree / part)
        (tree / "own").write_bytes(draw.randbytes(64 * KIB))

    def prune(self, role, draw, n):
        """One of the ways to forget and to prune: to the end, or killed."""
        words = draw.choice(PRUNES)
        started = time.monotonic()
        code, out, output = self.run_or_kill(role, draw, n, [*words, "--json", "--no-progress"], self.mean(words[0]))
        kind = "prunes" if "prune" in " ".join(words) else "forgets"
        if code is None:
            self.count(f"{kind}_killed")
            time.sleep(self.rest)
            return
        documents = [json.loads(line) for line in out.splitlines()]
        self.note(documents)
        if code == BUSY:
            self.count(f"{kind}_busy")
            return
        if code != 0:
            raise AssertionError(f"{' '.join(words)} of the {role} ended with {code}: {tail(output)}")
        self.took(words[0], time.monotonic() - started)
        self.count(f"{kind}_done")

    def note(self, documents):
        """What a forget has forgotten and a prune has given back."""
        for document in documents:
            if isinstance(document, list):
                gone = [s["id"] for group in document for s in group["remove"]]
                with self.lock:
                    self.forgotten.update(gone)
                    self.counts["snapshots_forgotten"] += len(gone)
            elif document["message_type"] == "summary":
                self.count("freed_bytes", document["deleted_bytes"])
                self.count("packs_spared", document["spared_packs"])
                self.count("sessions_ended", document["ended_sessions"])
                self.count("prunes_taken_over", document["finished"])
                self.count(f"relied_on {document['relied_on']}")

    def read(self, who, draw, n):
        """Meanwhile the newest snapshot of somebody comes back as it was."""
        name = draw.choice(self.names)
        found = self.place.json("snapshots", "--host", name, "--latest", "1", key=self.key(who), home=self.home(who))
        if not found:
            time.sleep(0.2)
            return
        self.read_below_prunes(found[-1]["id"], found[-1]["tags"][0], who)
        time.sleep(draw.uniform(0, 2))

    def read_below_prunes(self, snapshot, tag, who):
        """Whatever prunes move below it; only what was forgotten meanwhile may be gone."""
        try:
            self.compare(snapshot, tag, who)
        except AssertionError:
            if snapshot in {s["id"] for s in self.place.json("snapshots")}:
                raise
            self.count("restores_of_what_was_forgotten_meanwhile")
            return
        self.count("restores_meanwhile")

    def compare(self, snapshot, tag, who="owner"):
        """Restores a snapshot and compares it with what was backed up under its tag."""
        out, name = self.place.path / f"out of {who}", tag.split("-")[0]
        shutil.rmtree(out, ignore_errors=True)
        words = ["restore", f"{snapshot}:{self.tree(name)}", "--target", out]
        self.place.ok(*words, key=self.key(who), home=self.home(who))
        assert trees.manifest(out) == self.versions[tag], f"snapshot {snapshot} is not what was backed up as {tag}"
        shutil.rmtree(out)

    def took(self, what, seconds):
        with self.lock:
            self.counts[f"{what}_seconds"] += seconds
            self.counts[f"{what}_times"] += 1

    def mean(self, what):
        """Seconds that such a command takes from start to end."""
        with self.lock:
            return self.counts[f"{what}_seconds"] / (self.counts[f"{what}_times"] or 1) or 1

    def verify(self):
        """All have ended. What is listed can be restored, what must be kept is listed, nothing comes back, and the space does."""
        last = self.place.json("prune")
        self.note([last])
        self.check()
        listed = {s["id"]: s["tags"][0] for s in self.place.json("snapshots")}
        for name in self.names:
            missing = set(self.committed[name][-KEEP:]) - set(listed)
            assert not missing, f"snapshots of {name} were never forgotten and are gone: {missing}"
        back = self.forgotten & set(listed)
        assert not back, f"forgotten snapshots have come back: {back}"
        for snapshot, tag in listed.items():
            self.compare(snapshot, tag)
            self.counts["snapshots_verified"] += 1
        self.give_back()

    def check(self):
        found = self.place.json("check", "--read-data")
        assert (found["num_errors"], found["findings"], found["unchecked"]) == (0, [], []), found

    def give_back(self):
        """After the owner's check has read every pack, one copy of all is enough; whatever was killed, nothing else stays."""
        for _ in range(2):
            self.note([self.place.json("prune", "--max-unused", "0")])
            self.check()
        plan = self.place.json("prune", "--dry-run")["plan"]
        self.counts["stored_mib_at_the_end"] = plan["stored_bytes"] // MIB
        self.counts["used_mib_at_the_end"] = plan["used_bytes"] // MIB
        assert (plan["drop_packs"], plan["unlisted_packs"]) == (0, 0), plan
        assert plan["unused_bytes"] <= plan["used_bytes"] // 10, f"space is not given back: {plan}"

    def summary(self):
        """What happened, for the figures."""
        counts = {name: n for name, n in sorted(self.counts.items()) if not name.endswith(("_times", "_seconds"))}
        counts["freed_mib"] = counts.pop("freed_bytes", 0) // MIB
        counts["stored_mib"] = counts.pop("stored_bytes", 0) // MIB
        return counts


def wait(process, after):
    """The exit code; None where the process ran for longer than `after` seconds and was killed."""
    try:
        return process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def tail(output):
    """The end of what a process has said."""
    both = [output.with_suffix(suffix).read_text(errors="replace")[-2000:] for suffix in (".out", ".err")]
    return f"{output}\n{''.join(both)}"
