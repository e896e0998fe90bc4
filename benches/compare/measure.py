"""Runs one command and tells what it took: time, processor seconds, memory, and how busy the machine was with other things.

Processor seconds are those of the command and of all processes that it started and that ended: a tool whose work is done
by a second process is not cheaper for it. Memory is sampled every SAMPLE_EVERY seconds, summed over the same processes, and
beside that stands the kernel's own peak of the largest single one.
"""

import ctypes
import os
import resource
import subprocess
import threading
import time

SAMPLE_EVERY = 0.02
TICKS = os.sysconf("SC_CLK_TCK")
PROCESSORS = os.cpu_count()
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Failed(Exception):
    """A command that did not exit with 0; the text has its last words."""


def adopt_orphans():
    """From now on processes whose parent ends become ours, so that their processor seconds are not lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def run(argv, *, env, log, cwd="/", stdout=None):
    """Runs `argv` to its end and returns the figures of a step; what it prints goes to `log`, or stdout to a file.

    Returns `wall`, `cpu` and of that `user` in seconds, `rss` (largest process) and `rss_sum`, `anon_sum` (all processes) in bytes, and
    `other_load`: the share of the whole machine, 0 to 1, that neither the command nor this harness used.
    """
    os.sync()  # what earlier steps wrote is not this one's to wait for
    with open(log, "ab") as words, open(stdout or os.devnull, "wb") as out:
        before = _busy_ticks(), _own_cpu()
        start = time.monotonic()
        child = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                                 stdout=out if stdout else words, stderr=words)
        sampler = _Sampler(child.pid)
        sampler.start()
        code, user, system, rss = _wait_for_all(child)
        wall = time.monotonic() - start
        sampler.stop()
    if code != 0:
        raise Failed(f"{argv[0]}: exit code {code}: {_last_words(log)}")
    cpu = user + system
    busy = (_busy_ticks() - before[0]) / TICKS - cpu - (_own_cpu() - before[1])
    other_load = max(0.0, busy) / (wall * PROCESSORS)
    return {"wall": wall, "cpu": cpu, "user": user, "rss": rss, "rss_sum": sampler.rss, "anon_sum": sampler.anon,
            "other_load": other_load, "loadavg": os.getloadavg()[0]}


def _wait_for_all(child):
    """Reaps until no process is left. The kernel adds the figures of a process to its parent's when that one waits for it,
    so nothing is counted twice."""
    code, user, system, rss = None, 0.0, 0.0, 0
    while True:
        try:
            pid, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            child.returncode = code  # Popen must not wait for it again
            return code, user, system, rss
        user, system = user + used.ru_utime, system + used.ru_stime
        rss = max(rss, used.ru_maxrss * 1024)
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)


class _Sampler(threading.Thread):
    """Peaks of memory of a process and all below it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.rss, self.anon, self.ended = pid, 0, 0, threading.Event()

    def run(self):
        while not self.ended.wait(SAMPLE_EVERY):
            sizes = [_memory(pid) for pid in _descendants(self.pid)]
            self.rss = max(self.rss, sum(size[0] for size in sizes))
            self.anon = max(self.anon, sum(size[1] for size in sizes))

    def stop(self):
        self.ended.set()
        self.join()


def _descendants(pid):
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children") as children:
                for child in children.read().split():
                    yield from _descendants(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return


def _memory(pid):
    """(RSS, anonymous RSS) of a process in bytes; zeros once it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0, 0


def _busy_ticks():
    """Ticks that all processors together were not idle, stolen ones with them: another guest's load is load too."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
    return user + nice + system + irq + softirq + steal


def _own_cpu():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _last_words(log):
    with open(log, "rb") as words:
        words.seek(max(0, os.path.getsize(log) - 2000))
        return words.read().decode(errors="replace").strip()
