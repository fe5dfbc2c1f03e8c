"""How the text of an option is taken apart: `HEAD,key=value,key=value`, the same wherever it is written."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

_OPTION = re.compile(r",(?=[A-Za-z_]\w*=)")


def split(text: str) -> list[str]:
    """Return the head and what follows it; a comma starts an option only where `key=` comes after it."""
    return _OPTION.split(text.strip())


def heads(parts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each text that may be the head, longest first, with the options left: a name may hold `,key=`."""
    for count in range(len(parts), 0, -1):
        yield ",".join(parts[:count]), parts[count:]


def literal(text: str) -> Any:
    """Return a Python literal, or the text itself; `true`, `false` and `none` in any case are meant as such."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def told_apart(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return for each of different paths, given in parts, those that tell it from the others, joined by `/`.

    Paths of different lengths keep all of their parts below the folder that they share.
    """
    if len({len(path) for path in paths}) > 1:
        folders = zip(*(path[:-1] for path in paths), strict=False)
        shared = len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, folders)))
        return ["/".join(path[shared:]) for path in paths]
    kept = [place for place, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]
    return ["/".join(path[place] for place in kept) for path in paths]
