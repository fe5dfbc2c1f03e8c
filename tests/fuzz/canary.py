"""What notices that something in a file was executed, and what would execute it."""

import os
import sys
from pathlib import Path

_EVENTS = (
    *("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.chmod"),
    *("subprocess.", "socket.", "pty.", "webbrowser.", "urllib.", "ctypes.dlopen"),
)
_FILE = "ran"

_heard: list[str] = []


def trip(*_arguments):
    """What a payload calls."""
    _heard.append("trip")
    return {}


class Trap(dict):
    """An object of which every way to build it is a payload."""

    __slots__ = ()

    def __new__(cls, *_arguments):
        trip()
        return super().__new__(cls)

    __setstate__ = __setitem__ = append = extend = add = __call__ = trip


def watch():
    """Heed from now on, as long as this process lives, what starts programs, connects, or makes the file `ran`."""
    sys.addaudithook(_hear)


def _hear(event, arguments):
    if event.startswith(_EVENTS) or (event == "open" and arguments[0] == _FILE):
        _heard.append(event)


def executed(folder, kept):
    """Return what was executed since the last call, as it shows here and in a folder that should hold one file."""
    found = [*_heard, *(path.name for path in Path(folder).iterdir() if path.name != kept)]
    found += ["import"] if sys.modules.pop("tests.fuzz.trap", None) else []
    found += ["environment"] if os.environ.pop("RAN", None) else []
    _heard.clear()
    return found


# Each puts one object on the stack of an unpickler, and has done its harm by then.
PAYLOADS = {
    "a call": b"ctests.fuzz.canary\ntrip\n)R",
    "an import": b"ctests.fuzz.trap\nvalue\n",
    "a program": b"cposix\nsystem\n(S'touch ran'\ntR",
    "a program, by INST": b"(S'touch ran'\niposix\nsystem\n",
    "a program, by OBJ": b"(cposix\nsystem\nS'touch ran'\no",
    "a program, by a dotted name": b"\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R",
    "a process": b"csubprocess\nPopen\n((S'touch'\nS'ran'\nltR",
    "source": b'cbuiltins\nexec\n(S\'import os; os.environ["RAN"] = "1"\'\ntR',
    "an expression": b"cbuiltins\neval\n(S'__import__(\"tests.fuzz.trap\")'\ntR",
    "a Python 2 name": b'c__builtin__\neval\n(S\'open("ran", "w")\'\ntR',
    "a file": b"cio\nopen\n(S'ran'\nS'w'\ntR",
    "an attribute": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch ran'\ntR",
    "a partial call": b"cfunctools\npartial\n(ctests.fuzz.canary\ntrip\ntR)R",
    "a new object": b"ctests.fuzz.canary\nTrap\n)\x81",
    "a state": b"ctests.fuzz.canary\nTrap\n)R}S'a'\nI1\nsb",
    "items": b"ctests.fuzz.canary\nTrap\n)R(I1\nI2\nu",
    "a list's items": b"ctests.fuzz.canary\nTrap\n)R(I1\nI2\ne",
}
