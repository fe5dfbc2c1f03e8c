"""One panel of a figure as it is asked for: `KIND[,key=value...]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import ArtistInspector
from matplotlib.axes import Axes
from matplotlib.mathtext import MathTextParser

from .. import grammar
from ..errors import ResultError, one_line, printable

_OBJECTS = {
    *(
        "agg_filter",
        "animated",
        "axes_locator",
        "clip_box",
        "clip_on",
        "clip_path",
        "figure",
        "gid",
    ),
    *("in_layout", "label", "mouseover", "path_effects", "picker", "prop_cycle", "rasterized"),
    *(
        "rasterization_zorder",
        "sketch_params",
        "snap",
        "subplotspec",
        "transform",
        "url",
        "navigate",
    ),
    *("navigate_mode", "forward_navigation_events", "position", "visible"),
}
"""Properties of axes that text cannot give, or that are not of the panel alone."""

TEXTS = ("title", "xlabel", "ylabel")
"""Properties of axes that are text, in which there may be formulas between dollars."""

_RANGES = ("xlim", "ylim")
"""Properties of axes that are ranges."""

_NUMBERS = ("vmin", "vmax")
"""Options that are numbers; all others are names."""

PROPERTIES = sorted(set(ArtistInspector(Axes).get_setters()) - _OBJECTS)
"""What `Axes.set` takes and a panel may have."""


class Panel:
    """What one panel shows.

    Attributes:
        kind: one of the kinds of panels.
        of: what it is of: models, or a measure or reference; nothing means what the kind shows by default.
        file: the name of the file it is of; all files if empty.
        options: of the kind.
        properties: of its axes, see `Axes.set`.
    """

    def __init__(
        self, kind: str, *, of: str | Sequence[str] = (), file: str = "", **keys: Any
    ) -> None:
        self.kind, self.of, self.file = kind, of, file
        self.properties = {key: value for key, value in keys.items() if key in PROPERTIES}
        self.options = {key: value for key, value in keys.items() if key not in PROPERTIES}

    @classmethod
    def parse(cls, text: str) -> Panel:
        """Return what a text asks for, as in `curve,normalize=first-last,ylim=0:2`.

        Raises:
            ResultError: no kind; a key twice.
        """
        kind, *pairs = grammar.split(text)
        keys: dict[str, Any] = {}
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key in keys:
                raise ResultError(f"{key!r} is given twice in --panel {text!r}")
            keys[key] = _value(key, printable(value))
        return cls(kind.strip(), **keys)

    def dress(self, ax: Axes) -> None:
        """Give axes the properties that are asked for.

        Raises:
            ResultError: a value that they do not take.
        """
        if "title" in self.properties:
            ax.set_title("", loc="left")
        for key, value in self.properties.items():
            try:
                if key in _RANGES and (isinstance(value, str) or np.size(value) != 2):
                    raise ValueError("give a range LOW:HIGH")
                ax.set(**{key: _formula(value) if key in TEXTS else value})
                text = {"title": ax.title, "xlabel": ax.xaxis.label, "ylabel": ax.yaxis.label}.get(
                    key
                )
                if text is not None:
                    text.set_parse_math(True)
                ax.get_xlim(), ax.get_ylim()
            except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
                raise ResultError(
                    f"{key}={value} of the panel {self.kind}: {one_line(error)}"
                ) from error


def _value(key: str, text: str) -> Any:
    """Return what a value means: a range `low:high`, a number, or text."""
    if key in TEXTS or (key not in PROPERTIES and key not in _NUMBERS):
        return text
    parts = [_number(part) for part in text.split(":")]
    if len(parts) > 1 and all(part is None or isinstance(part, float) for part in parts):
        return tuple(parts)
    return grammar.literal(text)


def _number(text: str) -> float | str | None:
    """Return a number, nothing for an end that is left open, or the text itself."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def _formula(text: Any) -> str:
    """Return text whose formulas can be drawn.

    Raises:
        ValueError: one cannot.
    """
    parse: Callable[[str], Any] = MathTextParser("path").parse
    try:
        parse(str(text))
    except ValueError:
        raise ValueError("no formula that matplotlib can draw; write \\$ for a dollar") from None
    return str(text)
