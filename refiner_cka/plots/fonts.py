"""Embedded fonts: the letters of a PDF, taken from a font that is read whole once and not for every file."""

from __future__ import annotations

import contextlib
import inspect
import io
import string
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.font_manager import get_font

from .patching import replaced

_LAYOUT_TABLES = {"GDEF", "GPOS", "GSUB", "MATH", "kern"}
"""Of a font: ligatures, kerning, formulas."""


@dataclass(frozen=True)
class _Few:
    """A font with few of the letters of another.

    Attributes:
        data: its file.
        places: number of a letter in the other -> in this one.
    """

    data: bytes
    places: Mapping[int, int]


_few: dict[Any, _Few] = {}
"""File of a font, and which one in it -> one with letters of it: those that are usual, and what was drawn."""


@contextlib.contextmanager
def embedded() -> Iterator[None]:
    """Embed fonts in PDFs inside the block without what arranges letters, each of which has a place there.

    A third of the time that a PDF takes goes into reading its fonts, of which matplotlib reads all letters and
    embeds a few. What is embedded is the same whichever of the two it is taken from.
    """
    from fontTools import subset
    from matplotlib.backends import _backend_pdf_ps as backend

    with replaced(subset, "load_font", partial(_without_layout, subset.load_font)):
        whole = backend.get_glyphs_subset
        if by_number():
            with replaced(backend, "get_glyphs_subset", partial(_subset, whole)):
                yield
        else:
            yield


def by_number() -> bool:
    """Return whether matplotlib asks for letters by their numbers in a font: from 3.11 on, as long as it does."""
    from matplotlib.backends import _backend_pdf_ps as backend

    asked = [*inspect.signature(backend.get_glyphs_subset).parameters]
    found = getattr(getattr(backend, "SubsetResults", None), "_fields", ())
    return asked == ["fontfile", "glyphs"] and found == ("font", "glyph_index_map")


def _without_layout(load: Any, *args: Any, **kwargs: Any) -> Any:
    font = load(*args, **kwargs)
    for table in _LAYOUT_TABLES & {*font.keys()}:
        del font[table]
    return font


def _subset(whole: Any, file: Any, wanted: Iterable[int]) -> Any:
    """Return letters of a font as `whole` does, taken from one with few."""
    from fontTools import subset

    letters = {*wanted}
    few = _few.get(file)
    if few is None or not letters <= few.places.keys():
        known: Set[int] = few.places.keys() if few else _usual(file)
        few = _few[file] = _reduced(whole, file, letters | known)

    def load(_file: Any, *args: Any, **kwargs: Any) -> Any:
        return whole_font(io.BytesIO(few.data), *args, **kwargs)

    whole_font = subset.load_font
    with replaced(subset, "load_font", load):
        found = whole(file, {few.places[letter] for letter in letters})
    return _renumbered(found, {letter: few.places[letter] for letter in letters})


@contextlib.contextmanager
def _renumbered(found: Any, places: Mapping[int, int]) -> Iterator[Any]:
    with found as subset:
        places = {letter: subset.glyph_index_map[place] for letter, place in places.items()}
        yield subset._replace(glyph_index_map=places)


def _reduced(whole: Any, file: Any, letters: Set[int]) -> _Few:
    data = io.BytesIO()
    with whole(file, letters) as subset:
        subset.font.save(data, reorderTables=False)
        return _Few(data.getvalue(), dict(subset.glyph_index_map))


def _usual(file: Any) -> set[int]:
    """Return the numbers of letters that a keyboard has, and of `ff` to `ffl`, which many fonts have as one."""
    font = get_font(file)
    letters = [*string.printable.strip(), *map(chr, range(0xFB00, 0xFB05))]
    return {font.get_char_index(ord(letter)) for letter in letters}
