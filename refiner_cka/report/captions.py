"""What stands below a figure of the page: sentences that say what its numbers rest on and how to read it."""

from __future__ import annotations

import numpy as np

from ..plots.bands import Chance
from ..sums import Array
from .texts import number

BELOW = -0.05
"""A least value below this is said where the scale ends at 0: chance lies on both sides of 0."""


def sentences(*parts: str) -> str:
    """Return what is not empty as sentences."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def grey(chance: Chance | None) -> str:
    """Return what the grey band is; nothing if there is none."""
    if chance is None:
        return ""
    return f"grey: where unrelated images lie (95 %{', approximate' if chance.rough else ''})"


def scale(values: Array) -> list[str]:
    """Return what of a matrix its colours do not tell: what is below 0, or undefined."""
    least = np.nanmin(values, initial=0.0)
    return [
        f"least {number(least)}, in the colour of 0" if least < BELOW else "",
        "blank: undefined" if np.isnan(values).any() else "",
    ]
