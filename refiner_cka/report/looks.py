"""Colours and markers of the page's lines: those of the figures, and their like on a dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import colors

from ..plots.models import entries as entries
from ..plots.models import palette
from ..results.result import Result
from ..sums import Array

DARK = "#15171c"
"""The dark ground."""

CONTRAST = 4.5
"""Least contrast of a line with the dark ground; WCAG 2.2 asks for 3 of graphics (1.4.11), and lines are thin."""

SYMBOLS = {
    "o": ("circle", "●"),
    "s": ("square", "■"),
    "^": ("triangle-up", "▲"),
    "D": ("diamond", "◆"),
    "v": ("triangle-down", "▼"),
    "P": ("cross", "✚"),
    "<": ("triangle-left", "◀"),
    "X": ("x", "✖"),
    ">": ("triangle-right", "▶"),
    "*": ("star", "★"),
}
"""Marker of a figure -> its name in plotly, and a character for legends."""


class Look(NamedTuple):
    """How the lines of one model look.

    Attributes:
        light: colour on a light ground.
        dark: colour on a dark ground.
        symbol: marker, as plotly calls it.
        character: the marker as a character.
    """

    light: str
    dark: str
    symbol: str
    character: str


def looks(result: Result, names: Sequence[str]) -> list[Look]:
    """Return the look of each model or group, in the colours and markers of the figures."""
    return [look_of(**look) for look in palette(result, names)]


def look_of(color: Any, marker: str, markerfacecolor: str = "") -> Look:
    """Return what matplotlib's words for a line are in the page's; a marker with a face of its own is hollow."""
    symbol, character = SYMBOLS[marker]
    colour = colors.to_hex(color)
    return Look(colour, on_dark(colour), symbol + ("-open" if markerfacecolor else ""), character)


def on_dark(colour: str) -> str:
    """Return a colour, mixed with as much white as it takes to be seen on the dark ground."""
    own = np.array(colors.to_rgb(colour))
    shares = (own + (1.0 - own) * step for step in np.linspace(0.0, 1.0, 41))
    return next(colors.to_hex(each) for each in shares if contrast(each) >= CONTRAST)


def contrast(colour: Array) -> float:
    """Return the contrast ratio of a colour `(3,)` with the dark ground, by WCAG 2.2."""
    light, dark = (_luminance(each) + 0.05 for each in (colour, np.array(colors.to_rgb(DARK))))
    return float(max(light, dark) / min(light, dark))


def scale(name: str) -> list[list[float | str]]:
    """Return a colour map as plotly takes it."""
    shades = mpl.colormaps[name]
    return [[share, colors.to_hex(shades(share))] for share in np.linspace(0.0, 1.0, 17).tolist()]


def _luminance(colour: Array) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
