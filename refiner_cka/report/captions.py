"""What stands below a figure of the page: sentences that say what its numbers rest on and how to read it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..plots.bands import Chance, Curve, is_bounded
from ..results import jackknife
from ..results.estimate import Estimate
from ..results.result import Result
from ..results.statistics import RESOLVED
from ..sums import Array
from .texts import number

BELOW = -0.05
"""A least value below this is said where the scale ends at 0: chance lies on both sides of 0."""


def sentences(*parts: str) -> str:
    """Return what is not empty as sentences."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def name_of(result: Result, index: str) -> str:
    """Return the name of an index in formulas: its label without what that adds in brackets."""
    return result.quantity(index).label.partition(" (")[0] or index


def rests(result: Result) -> str:
    """Return on how many images, in which batches, numbers rest."""
    size = result.provenance.get("batch_size")
    images = "1 image" if result.images == 1 else f"{result.images:,} images"
    return images + (f" in batches of {size}" if size else "")


def bands(result: Result, drawn: Sequence[Curve], least: int) -> str:
    """Return what bands are; nothing if there are no curves.

    Args:
        result: what was measured.
        drawn: the curves.
        least: how many folds of images it takes for an error.
    """
    over_images = [curve for curve in drawn if curve.each.over == "images"]
    trainings = sorted({curve.each.trainings for curve in drawn if curve.each.over == "trainings"})
    said = []
    if over_images and result.folds < least:
        said.append(f"no error bands, which take at least {least} images")
    elif any(is_bounded(curve.each).any() for curve in over_images):
        both = any(curve.whole is not None for curve in over_images)
        which = "dark of each layer, light of the whole curve" if both else "of each layer"
        said.append(
            f"bands: 95 % intervals, {which}, by a jackknife over {result.folds} folds of images"
        )
    if trainings:
        counts = " or ".join(map(str, trainings))
        said.append(f"dotted bands: one standard deviation over {counts} trainings")
    return "; ".join(said)


def grey(chance: Chance | None) -> str:
    """Return what the grey band is; nothing if there is none."""
    if chance is None:
        return ""
    return f"grey: where unrelated images lie (95 %{', approximate' if chance.rough else ''})"


def unresolved(result: Result, name: str, drawn: Sequence[Estimate]) -> str:
    """Return why curves are dashed; nothing if none is.

    Args:
        result: what was measured.
        name: of the similarity index.
        drawn: the curves.
    """
    if all(curve.resolved or not np.isfinite(curve.values).any() for curve in drawn):
        return ""
    if result.folds < (least := jackknife.MIN_FOLDS):
        return f"dashed: unresolved (fewer than {least} images, so no errors)"
    return (
        f"dashed: unresolved, for {name}(first, last) is not {RESOLVED:g} standard errors above 0"
    )


def scale(values: Array) -> list[str]:
    """Return what of a matrix its colours do not tell: what is below 0, or undefined."""
    least = np.nanmin(values, initial=0.0)
    return [
        f"least {number(least)}, in the colour of 0" if least < BELOW else "",
        "blank: undefined" if np.isnan(values).any() else "",
    ]
