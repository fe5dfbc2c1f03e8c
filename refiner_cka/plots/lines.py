"""Curves over relative depth: similarity to the last layer, and the difference of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results.estimate import Estimate
from ..results.jackknife import MIN_FOLDS
from ..results.result import Result
from ..results.statistics import RESOLVED, Normalize
from .labels import EndLabels
from .style import (
    COLUMN,
    GREY,
    PAGE,
    SMALL,
    checked_names,
    new_figure,
    note,
    palette,
    paper,
    plural,
    series,
    shortened,
)

DEPTH = "Relative depth (first to last layer)"
FORMULA: dict[Normalize, str] = {
    "first-last": "$s(l)$ = CKA($l$, last) / CKA(first, last)",
    "min-max": "CKA($l$, last), least 0 to greatest 1",
    "none": "CKA($l$, last)",
}

ALONE = 5.0
"""Width in inches of a comparison of one panel, which its caption needs."""

_DASHED = (0.0, (3.0, 1.5))
_MARKED = 12
"""About how many layers of a deep model carry a marker."""


def curves(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    normalize: Normalize = "first-last",
    tokens: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw CKA of each layer with the last over relative depth, one line per model with its 95 % band.

    A group of trainings is drawn as the mean over them, in an outlined band of one standard deviation to either
    side, with a thin line for each. A curve whose values mean little because it divides by a number not clearly
    above 0 is dashed, and a note says so. It does not stretch the axis.

    Args:
        result: what was measured.
        models: the models and groups to draw; if none are named all that have the readout, groups in the place of
            their trainings.
        normalize: `first-last`, `min-max` or `none`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout or normalisation.
    """
    names = checked_names(result, models, tokens)
    drawn, thin = _curves(result, names, normalize, tokens)
    with paper():
        ax = new_figure(COLUMN, 2.3).subplots() if ax is None else ax
        lines = _lines(ax, drawn, palette(result, names), normalize, thin)
        EndLabels(ax, lines, _labels(names, drawn, 18))
        if remarks := [*filter(None, [outlined(drawn), _unresolved(result, drawn)])]:
            note(ax, "\n".join(remarks))
    return ax


def compare(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    normalize: Normalize = "first-last",
    tokens: str | None = None,
) -> Figure:
    """Draw the comparison of models: the raw curve and, beside it, the normalised one, a page wide.

    The two stand together because a ratio hides how small its denominator is.

    Args:
        result: what was measured.
        models: the models and groups to draw; see `curves`.
        normalize: of the second curve: `first-last` or `min-max`; with `none` the raw curve stands alone.
        tokens: readout; the first of the run if none is named.

    Raises:
        ResultError: no such model, readout or normalisation.
    """
    names = checked_names(result, models, tokens)
    shown: list[Normalize] = ["none"] if normalize == "none" else ["none", normalize]
    with paper():
        figure = new_figure(PAGE if len(shown) == 2 else ALONE, 2.6)
        for ax, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            drawn, thin = _curves(result, names, kind, tokens)
            lines = _lines(ax, drawn, palette(result, names), kind, thin)
        # Both panels show the same lines: their names stand at the right of the last.
        EndLabels(ax, lines, _labels(names, drawn, 24))
        remarks = [caption(result, drawn), _unresolved(result, drawn)]
        figure.supxlabel("\n".join(filter(None, remarks)), fontsize=SMALL, color=GREY)
    return figure


def contrast(
    result: Result,
    model: str,
    other: str,
    *,
    normalize: Normalize = "none",
    tokens: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the curve of `model` minus that of `other` over relative depth with its 95 % band.

    Of two models the band is paired and over images; of two groups it is over trainings, and outlined.

    Args:
        result: what was measured.
        model: the model or group whose curve is taken.
        other: the model or group whose curve is taken away.
        normalize: `none`, `min-max` or `first-last`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout or normalisation.
    """
    difference = result.contrast(model, other, normalize=normalize, tokens=tokens)
    with paper():
        ax = new_figure(COLUMN, 2.3).subplots() if ax is None else ax
        ax.axhline(0.0, color=GREY, linewidth=0.6)
        draw_line(ax, difference, series(0), 0, 1)
        first, second = shortened([model, other], 24)
        depth_axis(ax)
        ax.set_ylabel(f"Difference in {FORMULA[normalize].partition(' =')[0]}")
        over = ""
        if difference.over == "trainings":
            over = f"; outlined: 95 % over {difference.trainings} trainings"
        note(ax, f"{first} minus {second}{over}")
    return ax


def caption(result: Result, drawn: Sequence[Estimate] = (), *, means: bool = False) -> str:
    """Return in one line what the numbers and bands of a figure rest on.

    Args:
        result: what was measured.
        drawn: the curves of the figure; all over images if none are given.
        means: whether they are means over images, rather than CKA.
    """
    parts = [plural(result.images, "image")]
    if "batch_size" in result.provenance:
        parts.append(f"{'' if means else 'CKA '}batches of {result.provenance['batch_size']}")
    if not drawn or any(curve.over == "images" for curve in drawn):
        parts.append(_bands(result, means))
    return "; ".join(filter(None, [*parts, outlined(drawn)]))


def _bands(result: Result, means: bool) -> str:
    """Say what bands over images are."""
    if means:
        return "95 % bands over images"
    if result.folds < MIN_FOLDS:
        return f"no error bands: fewer than {MIN_FOLDS} images"
    return f"95 % bands, jackknife over {plural(result.folds, 'fold')} of images"


def outlined(drawn: Sequence[Estimate]) -> str:
    """Say what outlined bands of means over trainings are; nothing if there are none."""
    counts = sorted({curve.trainings for curve in drawn if curve.over == "trainings"})
    return f"outlined: SD over {' or '.join(map(str, counts))} trainings" if counts else ""


def _curves(
    result: Result, names: Sequence[str], normalize: Normalize, tokens: str | None
) -> tuple[list[Estimate], list[list[Estimate]]]:
    """Return the curve of each model or group, and of each group those of its trainings."""
    drawn = [result.curve(name, normalize=normalize, tokens=tokens) for name in names]
    each = [
        [
            result.curve(model, normalize=normalize, tokens=tokens)
            for model in result.groups.get(name, ())
        ]
        for name in names
    ]
    return drawn, each


def _lines(
    ax: Axes,
    drawn: Sequence[Estimate],
    looks: Sequence[dict[str, Any]],
    normalize: Normalize,
    thin: Sequence[Sequence[Estimate]],
) -> list[Line2D]:
    for trainings, look in zip(thin, looks, strict=True):
        draw_thin(ax, trainings, look)
    lines = [
        draw_line(ax, curve, look, number, len(drawn))
        for number, (curve, look) in enumerate(zip(drawn, looks, strict=True))
    ]
    ax.set_ylim(*_limits([*map(with_spread, drawn), *map(_without_error, chain(*thin))], normalize))
    ax.set_ylabel(FORMULA[normalize])
    depth_axis(ax)
    return lines


def depth_axis(ax: Axes) -> None:
    """Make the horizontal axis relative depth."""
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_xlabel(DEPTH)
    ax.spines[["top", "right"]].set_visible(False)


def draw_line(ax: Axes, curve: Estimate, look: dict[str, Any], number: int, of: int) -> Line2D:
    """Draw line `number` of so many with its band, dashed if it is unresolved.

    The band is filled where it is over images, and outlined where it is over trainings: of a mean over trainings
    one standard deviation to either side, of a contrast the 95 % interval.
    """
    curve = with_spread(curve)
    step = -(-len(curve.values) // _MARKED) if len(curve.values) > 1.5 * _MARKED else 1
    (line,) = ax.plot(
        curve.depth,
        curve.values,
        linestyle="-" if curve.resolved else _DASHED,
        # Markers of different models at different depths, so that they do not lie on each other.
        markevery=(number * step // of, step),
        zorder=3,
        **look,
    )
    bounded = np.isfinite(curve.lower) & np.isfinite(curve.upper)
    if bounded.sum() > 1:  # s(first) is 1 whatever is known, and alone no band
        # Many bands on one another would hide the lines.
        alpha = 0.2 * min(1.0, 4 / of)
        over_images: dict[str, Any] = {"color": line.get_color(), "alpha": alpha, "linewidth": 0.0}
        outlined = {
            "facecolor": (line.get_color(), alpha / 3),
            "edgecolor": line.get_color(),
            "linewidth": 0.6,
            "linestyle": (0.0, (1.0, 1.5)),
        }
        style = over_images if curve.over == "images" else outlined
        ax.fill_between(curve.depth, curve.lower, curve.upper, where=bounded.tolist(), **style)
    return line


def draw_thin(ax: Axes, curves: Sequence[Estimate], look: dict[str, Any]) -> None:
    """Draw the lines of single trainings, or of pairs of them, under that of their mean."""
    for curve in curves:
        ax.plot(curve.depth, curve.values, color=look["color"], linewidth=0.4, alpha=0.7, zorder=2)


def with_spread(curve: Estimate) -> Estimate:
    """Return a mean over trainings with one standard deviation to either side; anything else as it is."""
    if curve.over == "images" or curve.spread is None:
        return curve
    return replace(curve, lower=curve.values - curve.spread, upper=curve.values + curve.spread)


def _without_error(curve: Estimate) -> Estimate:
    """Return a curve of which only the values are drawn."""
    return replace(curve, lower=curve.values, upper=curve.values)


def _limits(drawn: Sequence[Estimate], normalize: Normalize) -> tuple[float, float]:
    """Return limits of the vertical axis that show all that is resolved, or else at least the values."""
    resolved = [curve for curve in drawn if curve.resolved]
    shown = [curve.values for curve in resolved or drawn]
    shown += [bound for curve in resolved for bound in (curve.lower, curve.upper)]
    # Raw CKA keeps its whole scale, whatever part of it the curves use.
    everything = np.concatenate([*shown, [1.0] if normalize == "first-last" else [0.0, 1.0]])
    defined = everything[np.isfinite(everything)]
    low, high = float(defined.min()), float(defined.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _labels(names: Sequence[str], drawn: Sequence[Estimate], limit: int) -> list[str]:
    return [
        name if np.isfinite(curve.values).any() else f"{name} (undefined)"
        for name, curve in zip(shortened(names, limit), drawn, strict=True)
    ]


def _unresolved(result: Result, drawn: Sequence[Estimate]) -> str:
    """Return why curves are dashed, or nothing if none is."""
    dashed = [curve for curve in drawn if not curve.resolved and np.isfinite(curve.values).any()]
    if not dashed:
        return ""
    if result.folds < MIN_FOLDS:
        return f"dashed: unresolved (fewer than {MIN_FOLDS} images, so no errors)"
    return f"dashed: unresolved (CKA(first, last) is not {RESOLVED:g} SE above 0)"
