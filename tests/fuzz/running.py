"""Cases of the fuzzing, each in a forked process with limits on time and memory."""

import json
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from refiner_cka.results.jackknife import critical
from tests.fuzz import canary
from tests.fuzz.corpus import honest
from tests.fuzz.kinds import KINDS
from tests.fuzz.reading import READ, REFUSED, SKIPPED, outcome

SECONDS, MEMORY = 20, 2 * 2**30
"""What one case may take: seconds of a core, and bytes beside what the process has."""

_PATIENCE = 4
"""So many times as long it may wait: the machine may have other work."""

_TOGETHER = 25
"""Cases that one process does in turn: a fork takes as long as some of them. When one ends it, another goes on."""

_LIBTIFF = re.compile(r"[\w.]+: .*\.")
"""What libtiff prints past Python, wherever it is used, of a damaged file."""


@dataclass(frozen=True)
class Case:
    """What came of one case.

    Attributes:
        number: of the case; with the seed it says all.
        kind: name of its kind.
        outcome: `refused`, `skipped`, `read`, or whatever was wrong, which may be many lines.
        seconds: of a core that it took.
        memory: bytes that it took beside what the process had.
    """

    number: int
    kind: str
    outcome: str
    seconds: float = 0.0
    memory: int = 0

    @property
    def fine(self):
        return self.outcome in (READ, REFUSED, SKIPPED)


def prepare():
    """Import and make in this process what every case needs."""
    PIL.Image.init()
    # Looks for the threads of BLAS once, in libraries that it opens for that.
    critical(np.eye(3), "simultaneous")
    for kind in KINDS.values():
        for whole in honest(kind.honest):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"case{kind.suffix}")
                path.write_bytes(whole)
                # A plain pickle is no checkpoint.
                expected = REFUSED if kind.honest == "pickle" else READ
                assert outcome(kind.read, path) == expected, kind


def kind_of(number, kinds=KINDS):
    """Return the name of the kind of a case: the kinds take turns."""
    return list(kinds)[number % len(kinds)]


def content(number, seed, kinds=KINDS):
    """Return the bytes of the file of a case."""
    rng = random.Random(f"{seed} {number}")
    kind = kinds[kind_of(number, kinds)]
    files = honest(kind.honest)
    return kind.mutate(rng.choice(files), rng, rng.choice(files))


def run(numbers, seed, folder, kinds=KINDS, seconds=SECONDS):
    """Yield what came of each case, in order.

    Args:
        numbers: of the cases.
        seed: of all.
        folder: an empty one.
        kinds: of files.
        seconds: of a core that one may take.
    """
    left = list(numbers)
    while left:
        group = left[:_TOGETHER]
        done, status = _forked(group, seed, folder, kinds, seconds)
        if len(done) < len(group):
            number = group[len(done)]
            done.append(Case(number, kind_of(number, kinds), _ending(status)))
        yield from done
        left = left[len(done) :]


def _forked(group, seed, folder, kinds, seconds):
    """Do some cases in a process of its own; return what came of those that it ended, and how it ended."""
    reader, writer = os.pipe()
    sys.stdout.flush()  # else the other process has it to write, too
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _limit(folder)
            with open(writer, "w") as results:
                for number in group:
                    results.write(json.dumps(_one(number, seed, kinds, seconds)) + "\n")
                    results.flush()
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as results:
        lines = results.read().splitlines()
    return [Case(*json.loads(line)) for line in lines], os.waitpid(pid, 0)[1]


def _ending(status):
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with {os.waitstatus_to_exitcode(status)}"


def _limit(folder):
    """Bound this process and have the canary watch it; what is printed goes to a file."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    printed = os.open(f"{folder}/printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number in (1, 2):
        os.dup2(printed, number)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    canary.watch()


def _allow(seconds):
    """Let this process take so many seconds more of a core, and wait some times as long."""
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))
    signal.alarm(_PATIENCE * seconds)


def _one(number, seed, kinds, seconds):
    """Do one case; return what `Case` takes."""
    name = kind_of(number, kinds)
    path = Path(f"case{kinds[name].suffix}").absolute()
    try:
        path.write_bytes(content(number, seed, kinds))
    except Exception:
        return number, name, f"not made: {traceback.format_exc()}"
    canary.executed(path.parent, path.name)
    Path("/proc/self/clear_refs").write_text("5")  # the most memory is counted anew
    before, begin = _memory("VmRSS"), time.process_time()
    _allow(seconds)
    try:
        found = outcome(kinds[name].read, path)
    except BaseException:
        found = traceback.format_exc()
    signal.alarm(0)
    took, memory = time.process_time() - begin, max(0, _memory("VmHWM") - before)
    found = _beside(path) or found
    path.unlink(missing_ok=True)
    return number, name, found, took, memory


def _beside(path):
    """Return what a case did that no reading does: run something, or print past the command line."""
    executed = canary.executed(path.parent, path.name)
    for other in path.parent.iterdir():
        with suppress(OSError):
            other.unlink()
    sys.stdout.flush()
    text = os.pread(1, os.fstat(1).st_size, 0).decode(errors="replace")
    os.ftruncate(1, 0)
    if executed:
        return f"executed: {executed}"
    beyond = [line for line in text.splitlines() if not _LIBTIFF.fullmatch(line)]
    return f"printed: {text}" if beyond else ""


def _memory(name):
    """Return what the kernel says of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
