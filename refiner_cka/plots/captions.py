"""What a figure says of its own numbers: what they rest on, what its bands are, and why a line is dashed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import jackknife, means
from ..results.estimate import Estimate
from ..results.result import Result
from ..results.statistics import RESOLVED
from .bands import Curve, is_bounded
from .style import GREY, SMALL, plural, wrapped

_LINE = 1.25 * SMALL / 72
"""Height of a line of the smallest text in inches."""


def write(ax: Axes, parts: Iterable[str]) -> None:
    """Write a caption below the figure of some axes, which grows by its height.

    Args:
        ax: any of the figure's.
        parts: what begins on a line of its own, broken where it is longer than the figure is wide; empty ones are
            left out.
    """
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches()
    text = wrapped(parts, width)
    figure.set_size_inches(width, height + _LINE * len(text.splitlines()))
    figure.supxlabel(text, fontsize=SMALL, color=GREY, parse_math=False)


def of_similarity(result: Result, index: str, drawn: Sequence[Curve]) -> str:
    """Return what similarities rest on, and what those of their bands are that are over images."""
    folds, least = result.folds, jackknife.MIN_FOLDS
    bands = _bands(drawn, folds) if folds >= least else f"no error bands: fewer than {least} images"
    if not any(curve.each.over == "images" for curve in drawn):
        bands = ""
    return joined(plural(result.images, "image"), _batches(result, index), bands)


def of_means(result: Result, drawn: Sequence[Curve]) -> str:
    """Return what means over images rest on, and what their bands are."""
    folds, least = result.folds, means.MIN_FOLDS
    bands = _bands(drawn, folds) if folds >= least else f"no error bands: fewer than {least} images"
    estimates = [curve.each for curve in drawn]
    if not any(estimate.over == "images" for estimate in estimates):
        bands = ""
    size = result.provenance.get("batch_size")
    batches = f"batches of {size}" if size else ""
    return joined(plural(result.images, "image"), batches, bands, outlined(estimates))


def _batches(result: Result, index: str) -> str:
    """Return in batches of how many images an index was measured; its label may say so itself."""
    label, size = result.quantity(index).label, result.provenance.get("batch_size")
    if label != named(result, index):
        return label
    return f"{label} batches of {size}" if size else ""


def _bands(drawn: Sequence[Curve], folds: int) -> str:
    """Return what bands over images are; nothing if there are none."""
    over_images = [curve for curve in drawn if curve.each.over == "images"]
    if not any(is_bounded(curve.each).any() for curve in over_images):
        return ""
    both = any(curve.whole is not None for curve in over_images)
    which = ": dark for each layer, light for the whole curve" if both else ""
    of = "" if both else " for each layer"
    return f"95 % bands{of}, jackknife over {plural(folds, 'fold')} of images{which}"


def outlined(drawn: Sequence[Estimate]) -> str:
    """Return what outlined bands of means over trainings are; nothing if there are none."""
    counts = sorted({curve.trainings for curve in drawn if curve.over == "trainings"})
    return f"outlined: SD over {' or '.join(map(str, counts))} trainings" if counts else ""


def unresolved(result: Result, index: str, drawn: Sequence[Estimate]) -> str:
    """Return why curves are dashed, or nothing if none is."""
    dashed = [curve for curve in drawn if not curve.resolved and np.isfinite(curve.values).any()]
    if not dashed:
        return ""
    if result.folds < (least := jackknife.MIN_FOLDS):
        return f"dashed: unresolved (fewer than {least} images, so no errors)"
    name = named(result, index)
    return f"dashed: unresolved ({name}(first, last) is not {RESOLVED:g} SE above 0)"


def named(result: Result, index: str) -> str:
    """Return the name of an index in formulas: its label without what that adds in brackets."""
    return result.quantity(index).label.partition(" (")[0] or index


def joined(*parts: str) -> str:
    """Return what is not empty, on one line."""
    return "; ".join(filter(None, parts))
