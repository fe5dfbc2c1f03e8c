"""Everything this package refuses, the one warning it gives, and what keeps their messages to one line."""

import difflib
import sys
import warnings
from collections.abc import Sequence


class RefinerCkaError(Exception):
    """Base of every refusal. The message is one line: what is wrong and what to do."""


class DataError(RefinerCkaError):
    """The images are missing, too few, unreadable or not what the models take."""


class ModelError(RefinerCkaError):
    """A model is unknown, or cannot be built or reached."""


class CheckpointError(ModelError):
    """Weights cannot be read, or do not fit the model."""


class LayerError(RefinerCkaError):
    """A layer or its readout cannot be used: no match, never called, called several times."""


class DeviceError(RefinerCkaError):
    """The device or the precision asked for does not exist on this machine."""


class ProcessError(RefinerCkaError):
    """Another process of the run ended before its time, and says why itself."""


class ResultError(RefinerCkaError):
    """A result cannot answer the question, or results cannot be merged."""


class ResultFileError(RefinerCkaError):
    """A result file cannot be read, written or replaced."""


class AnalysisWarning(UserWarning):
    """Something in the result is undefined, was left out or assumed; the rest stands."""


def warn(line: str) -> None:
    """Give the warning; it points at whoever called this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(line, AnalysisWarning, stacklevel=level)


def one_line(error: BaseException, *, path: bool = False) -> str:
    """Return what any exception says: its first line, in at most 160 characters; its class if it says nothing.

    Args:
        error: the exception.
        path: whether to keep the path that an error of the operating system names; most refusals name it already.
    """
    reason = None if path else getattr(error, "strerror", None)
    lines = (line.strip() for line in str(reason or error).splitlines())
    return clipped(next(filter(None, lines), type(error).__name__))


def clipped(text: str) -> str:
    """Return at most 160 characters of what may be endless, such as a name from a file."""
    return text if len(text) <= 160 else f"{text[:157]}..."


def printable(text: str) -> str:
    """Return text fit for a terminal, a figure and a digest: control characters and stray bytes are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def some(names: Sequence[str], shown: int = 3) -> str:
    """Return the first of many names and how many more there are: `a, b, c (+4 more)`."""
    more = f" (+{len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(map(clipped, names[:shown])) + more


def known_names(name: str, known: Sequence[str]) -> str:
    """Return what to choose instead of a name that is none: the nearest, if one is near, and the first of all."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{f'did you mean {near[0]}? ' if near else ''}choose among {some(known, 12)}"
