"""Words and numbers as the page's figures take them."""

from __future__ import annotations

import numpy as np

from ..errors import printable
from ..sums import Array

BREAK = "<br>"
"""Between the lines of a text in a figure."""

WIDEST = 60
"""Characters of a name on a line."""

_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})


def plain(text: str) -> str:
    """Return text that a figure shows as it is.

    plotly.js reads tags (`<b>`, `<a href>`), formulas between dollars and entities in every text it draws. It
    decodes entities last, so that what is escaped here is never one of the others.
    """
    return printable(text).translate(_MARKUP)


def broken(text: str) -> str:
    """Return a name as `plain` text on as many lines as it takes to be seen whole."""
    return BREAK.join(plain(text[at : at + WIDEST]) for at in range(0, len(text), WIDEST))


def lines(*parts: str) -> str:
    """Return texts that are `plain` already on lines of their own, empty ones left out."""
    return BREAK.join(filter(None, parts))


def number(value: float | Array) -> str:
    """Return a number as people read it: three decimals, fewer of large ones, digits of small ones."""
    size = abs(float(value))
    if not np.isfinite(size):
        return "undefined"
    if 0.0 < size < 0.0005:
        text = f"{float(value):.1g}"
    else:
        text = f"{float(value):.{3 if size < 10 else 2 if size < 100 else 1}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_error(value: float | Array, error: float | Array) -> str:
    """Return a number with its standard error."""
    return number(value) + (f" ± {number(error)}" if np.isfinite(error) else "")


def between(low: float | Array, high: float | Array) -> str:
    """Return an interval, or nothing where one of its ends is unknown."""
    known = np.isfinite(low) and np.isfinite(high)
    return f"{number(low)} to {number(high)}" if known else ""


def rounded(values: Array, digits: int = 4) -> list[float | None]:
    """Return `(n,)` numbers as JSON: few decimals, of small numbers two digits, and None where undefined."""
    found: list[float | None] = values.round(digits).tolist()
    for place in np.flatnonzero(~(np.abs(values) >= 0.01)):
        found[place] = float(f"{values[place]:.2g}") if np.isfinite(values[place]) else None
    return found
