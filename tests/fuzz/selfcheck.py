"""That the harness would notice: payloads run by what does run them, and reading that goes wrong in every way."""

import os
import pickle
import time

import refiner_cka as rc
from tests.fuzz import canary, running
from tests.fuzz.kinds import Kind


def _run(content):
    """Unpickle as nobody should."""
    # Protocol 2 is the last that translates names of Python 2.
    found = pickle.loads(b"\x80\x02" + content + b".")
    if hasattr(found, "wait"):
        found.wait()


def _refuse(words):
    raise rc.DataError(words)


def _print(path):
    os.write(2, b"hello")
    return "read"


FAULTS = {
    "hangs": (lambda path: time.sleep(60), "ended by SIGALRM"),
    "never ends": (lambda path: any(iter(int, 1)), "ended by SIG"),
    "crashes": (lambda path: os.abort(), "ended by SIGABRT"),
    "takes memory": (lambda path: bytearray(2 * running.MEMORY), "MemoryError"),
    "fails": (lambda path: 1 / 0, "ZeroDivisionError: division by zero"),
    "leaves a file": (lambda path: path.with_name("ran").touch(), "executed: ['ran']"),
    "prints": (_print, "printed: hello"),
    "is refused in two lines": (
        lambda path: _refuse("one\ntwo"),
        "AssertionError: not one line: 'one\\ntwo'",
    ),
}
"""How reading may go wrong, and how the last line begins that is said of it."""


def check(folder):
    """Return how many payloads and other faults were noticed, of how many.

    Args:
        folder: an empty one.
    """
    payloads = {name: _payload(content) for name, content in canary.PAYLOADS.items()}
    faults = {name: _faulty(read) for name, (read, _) in FAULTS.items()}
    said = {
        case.kind: case.outcome.splitlines()[-1]
        for kinds in (payloads, faults)
        for case in running.run(range(len(kinds)), 0, folder, kinds, seconds=1)
    }
    noticed = [said[name].startswith("executed: ") for name in payloads]
    noticed += [said[name].startswith(words) for name, (_, words) in FAULTS.items()]
    return sum(noticed), len(noticed)


def _payload(content):
    return Kind(
        "pickle", ".pkl", lambda data, rng, other: content, lambda path: _run(path.read_bytes())
    )


def _faulty(read):
    return Kind("pickle", ".pkl", lambda data, rng, other: data, read)
