"""Curves over relative depth: similarity to the last layer, and the difference of two models."""

from __future__ import annotations

from collections.abc import Sequence
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
    checked_models,
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

    A curve whose values mean little because it divides by a number not clearly above 0 is dashed, and a
    note says so. It does not stretch the axis.

    Args:
        result: what was measured.
        models: the models to draw; all that have the readout if none are named.
        normalize: `first-last`, `min-max` or `none`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout or normalisation.
    """
    names = checked_models(result, models, tokens)
    drawn = [result.curve(name, normalize=normalize, tokens=tokens) for name in names]
    with paper():
        ax = new_figure(COLUMN, 2.3).subplots() if ax is None else ax
        lines = _lines(ax, drawn, palette(result, names), normalize)
        EndLabels(ax, lines, _labels(names, drawn, 18))
        if remark := _unresolved(result, drawn):
            note(ax, remark)
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
        models: the models to draw; all that have the readout if none are named.
        normalize: of the second curve: `first-last` or `min-max`; with `none` the raw curve stands alone.
        tokens: readout; the first of the run if none is named.

    Raises:
        ResultError: no such model, readout or normalisation.
    """
    names = checked_models(result, models, tokens)
    shown: list[Normalize] = ["none"] if normalize == "none" else ["none", normalize]
    with paper():
        figure = new_figure(PAGE if len(shown) == 2 else ALONE, 2.6)
        for ax, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            drawn = [result.curve(name, normalize=kind, tokens=tokens) for name in names]
            lines = _lines(ax, drawn, palette(result, names), kind)
        # Both panels show the same lines: their names stand at the right of the last.
        EndLabels(ax, lines, _labels(names, drawn, 24))
        remarks = [caption(result), _unresolved(result, drawn)]
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
    """Draw the curve of `model` minus that of `other` over relative depth with its paired 95 % band.

    Args:
        result: what was measured.
        model: the model whose curve is taken.
        other: the model whose curve is taken away.
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
        note(ax, f"{first} minus {second}")
    return ax


def caption(result: Result, *, means: bool = False) -> str:
    """Return in one line what the numbers of a figure rest on: CKA, or means over images."""
    parts = [plural(result.images, "image")]
    if "batch_size" in result.provenance:
        parts.append(f"{'' if means else 'CKA '}batches of {result.provenance['batch_size']}")
    if means:
        parts.append("95 % bands over images")
    elif result.folds < MIN_FOLDS:
        parts.append(f"no error bands: fewer than {MIN_FOLDS} images")
    else:
        parts.append(f"95 % bands, jackknife over {plural(result.folds, 'fold')} of images")
    return "; ".join(parts)


def _lines(
    ax: Axes, drawn: Sequence[Estimate], looks: Sequence[dict[str, Any]], normalize: Normalize
) -> list[Line2D]:
    lines = [
        draw_line(ax, curve, look, number, len(drawn))
        for number, (curve, look) in enumerate(zip(drawn, looks, strict=True))
    ]
    ax.set_ylim(*_limits(drawn, normalize))
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
    """Draw line `number` of so many with its band, dashed if it is unresolved."""
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
    if bounded.any():
        ax.fill_between(
            curve.depth,
            curve.lower,
            curve.upper,
            where=bounded.tolist(),
            color=line.get_color(),
            # Many bands on one another would hide the lines.
            alpha=0.2 * min(1.0, 4 / of),
            linewidth=0.0,
        )
    return line


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
