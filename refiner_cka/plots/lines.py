"""Curves over relative depth: similarity to the last layer, and the difference of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results.estimate import Estimate
from ..results.result import Result
from ..results.statistics import Normalize
from . import captions
from .bands import Chance, Curve, curve_of, draw_band, with_spread
from .labels import EndLabels
from .style import (
    COLUMN,
    GREY,
    PAGE,
    checked_names,
    new_figure,
    note,
    palette,
    paper,
    series,
    shortened,
)

DEPTH = "Relative depth (first to last layer)"

HEIGHT = 2.5
"""Of a figure of curves in inches, without its caption."""

ALONE = 5.0
"""Width in inches of a comparison of one panel: room for long names."""

_SHORT = 8
"""Characters of an index's name that leave room for a formula on one line."""

_DASHED = (0.0, (3.0, 1.5))
_MARKED = 12
"""About how many layers of a deep model carry a marker."""


def formula(name: str, normalize: Normalize) -> str:
    """Return what a curve is, for its axis.

    Args:
        name: of the similarity index.
        normalize: see `Result.curve`.
    """
    raw = f"{name}($l$, last)"
    between = "\n" if len(name) > _SHORT else " "
    return {
        "first-last": f"$s(l)$ = {raw}{between}/ {name}(first, last)",
        "min-max": f"{raw},{between}least 0 to greatest 1",
        "none": raw,
    }[normalize]


def curves(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    normalize: Normalize = "first-last",
    tokens: str | None = None,
    index: str = "cka",
    ax: Axes | None = None,
) -> Axes:
    """Draw the similarity of each layer to the last over relative depth, one line per model.

    Its 95 % bands surround it: dark for each layer, light for the whole curve. Behind raw curves unrelated images
    would lie in the grey with 95 %, whichever of the models; it is left out where it is too thin to see. A group
    of trainings is drawn as the mean over them, in an outlined band of one standard deviation to either side, with
    a thin line for each. A curve whose values mean little because it divides by a number not clearly above 0 is
    dashed, and does not stretch the axis. Notes say what of this there is, and below a new figure a caption says
    what it rests on.

    Args:
        result: what was measured.
        models: the models and groups to draw; if none are named all that have the readout, groups in the place of
            their trainings.
        normalize: `first-last`, `min-max` or `none`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or normalisation.
    """
    names = checked_names(result, models, tokens)
    drawn = _curves(result, names, normalize, tokens, index)
    estimates = [curve.each for curve in drawn]
    with paper():
        shown = new_figure(COLUMN, HEIGHT).subplots() if ax is None else ax
        chance = _chance(result, names, tokens, index) if normalize == "none" else None
        lines, grey = draw_curves(
            shown, drawn, palette(result, names), limits(drawn, normalize), chance
        )
        shown.set_ylabel(formula(captions.named(result, index), normalize))
        EndLabels(shown, lines, labels(names, estimates, 18))
        remarks = [
            captions.outlined(estimates),
            grey,
            captions.unresolved(result, index, estimates),
        ]
        if any(remarks):
            note(shown, "\n".join(filter(None, remarks)))
        if ax is None:
            captions.write(shown, [captions.of_similarity(result, index, drawn)])
    return shown


def compare(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    normalize: Normalize = "first-last",
    tokens: str | None = None,
    index: str = "cka",
) -> Figure:
    """Draw the comparison of models: the raw curve and, beside it, the normalised one, a page wide.

    The two stand together because a ratio hides how small its denominator is. For what is drawn see `curves`.

    Args:
        result: what was measured.
        models: the models and groups to draw; see `curves`.
        normalize: of the second curve: `first-last` or `min-max`; with `none` the raw curve stands alone.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.

    Raises:
        ResultError: no such model, readout, index or normalisation.
    """
    names = checked_names(result, models, tokens)
    shown: list[Normalize] = ["none"] if normalize == "none" else ["none", normalize]
    looks, grey = palette(result, names), ""
    with paper():
        figure = new_figure(PAGE if len(shown) == 2 else ALONE, HEIGHT)
        for ax, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            drawn = _curves(result, names, kind, tokens, index)
            chance = _chance(result, names, tokens, index) if kind == "none" else None
            lines, said = draw_curves(ax, drawn, looks, limits(drawn, kind), chance)
            ax.set_ylabel(formula(captions.named(result, index), kind))
            grey = grey or said
        estimates = [curve.each for curve in drawn]
        # Both panels show the same lines: their names stand at the right of the last.
        EndLabels(ax, lines, labels(names, estimates, 24))
        rests = captions.of_similarity(result, index, drawn)
        marks = captions.joined(captions.outlined(estimates), grey)
        captions.write(ax, [rests, marks, captions.unresolved(result, index, estimates)])
    return figure


def contrast(
    result: Result,
    model: str,
    other: str,
    *,
    normalize: Normalize = "none",
    tokens: str | None = None,
    index: str = "cka",
    ax: Axes | None = None,
) -> Axes:
    """Draw the curve of `model` minus that of `other` over relative depth with its 95 % bands.

    Of two models the bands are paired and over images: dark for each layer, light for the whole difference. Of two
    groups there is one, over trainings, and outlined.

    Args:
        result: what was measured.
        model: the model or group whose curve is taken.
        other: the model or group whose curve is taken away.
        normalize: `none`, `min-max` or `first-last`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or normalisation.
    """
    ask = partial(result.contrast, model, other, normalize=normalize, tokens=tokens, index=index)
    difference = Curve(ask())
    if difference.each.over == "images":
        difference = Curve(difference.each, ask(band="simultaneous"))
    with paper():
        shown = new_figure(COLUMN, HEIGHT).subplots() if ax is None else ax
        shown.axhline(0.0, color=GREY, linewidth=0.6)
        draw_curve(shown, difference, series(0), 0, 1)
        first, second = shortened([model, other], 24)
        depth_axis(shown)
        what = formula(captions.named(result, index), normalize).partition(" =")[0]
        shown.set_ylabel(f"Difference in {what}")
        over = ""
        if difference.each.over == "trainings":
            over = f"; outlined: 95 % over {difference.each.trainings} trainings"
        note(shown, f"{first} minus {second}{over}")
        if ax is None:
            captions.write(shown, [captions.of_similarity(result, index, [difference])])
    return shown


def _curves(
    result: Result, names: Sequence[str], normalize: Normalize, tokens: str | None, index: str
) -> list[Curve]:
    ask = partial(result.curve, normalize=normalize, tokens=tokens, index=index)
    return [curve_of(result, name, ask) for name in names]


def _chance(result: Result, names: Sequence[str], tokens: str | None, index: str) -> Chance | None:
    """Return chance of the similarity to the last layer, around all models and trainings."""
    models = [model for name in names for model in result.trainings(name)]
    return Chance.around(result.null(model, tokens=tokens, index=index) for model in models)


def draw_curves(
    ax: Axes,
    drawn: Sequence[Curve],
    looks: Sequence[dict[str, Any]],
    span: tuple[float, float],
    chance: Chance | None,
) -> tuple[list[Line2D], str]:
    """Draw curves over relative depth, and where chance is, and return the lines and what to say of chance.

    Args:
        ax: where to draw.
        drawn: the curves.
        looks: colour and marker of each.
        span: limits of the vertical axis, which chance may widen.
        chance: behind them, if anything is known of it.
    """
    lines = [
        draw_curve(ax, curve, look, number, len(drawn))
        for number, (curve, look) in enumerate(zip(drawn, looks, strict=True))
    ]
    low, high = span
    ax.set_ylim(min(low, chance.lower.min()) if chance else low, high)
    depth_axis(ax)
    return lines, chance.draw(ax) if chance else ""


def depth_axis(ax: Axes) -> None:
    """Make the horizontal axis relative depth."""
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_xlabel(DEPTH)
    ax.spines[["top", "right"]].set_visible(False)


def draw_curve(ax: Axes, curve: Curve, look: dict[str, Any], number: int, of: int) -> Line2D:
    """Draw curve `number` of so many with its bands and thin lines."""
    draw_thin(ax, curve.thin, look)
    if curve.whole is not None:
        draw_band(ax, curve.whole, look["color"], of)
    return draw_line(ax, curve.each, look, number, of)


def draw_line(ax: Axes, curve: Estimate, look: dict[str, Any], number: int, of: int) -> Line2D:
    """Draw line `number` of so many with its band, dashed if it is unresolved.

    The band is filled where it is over images, and outlined where it is over trainings: of a mean over trainings
    one standard deviation to either side, of a contrast the 95 % interval.
    """
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
    draw_band(ax, with_spread(curve), line.get_color(), of)
    return line


def draw_thin(ax: Axes, curves: Sequence[Estimate], look: dict[str, Any]) -> None:
    """Draw the lines of single trainings, or of pairs of them, under that of their mean."""
    for curve in curves:
        ax.plot(curve.depth, curve.values, color=look["color"], linewidth=0.4, alpha=0.7, zorder=2)


def limits(drawn: Sequence[Curve], normalize: Normalize = "none") -> tuple[float, float]:
    """Return limits of the vertical axis that show all that is resolved, or else at least the values."""
    resolved = [part for curve in drawn for part in _parts(curve) if part.resolved]
    shown = [part.values for part in resolved or [curve.each for curve in drawn]]
    shown += [bound for part in resolved for bound in (part.lower, part.upper)]
    # Raw similarity keeps its whole scale, whatever part of it the curves use.
    everything = np.concatenate([*shown, [1.0] if normalize == "first-last" else [0.0, 1.0]])
    defined = everything[np.isfinite(everything)]
    low, high = float(defined.min()), float(defined.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _parts(curve: Curve) -> list[Estimate]:
    """Return all that is drawn of a curve, with the ends of its bands; thin lines have none."""
    thin = [replace(each, lower=each.values, upper=each.values) for each in curve.thin]
    return [with_spread(curve.each), *([] if curve.whole is None else [curve.whole]), *thin]


def labels(names: Sequence[str], drawn: Sequence[Estimate], limit: int) -> list[str]:
    """Return the names of lines, and of which there is nothing to see."""
    return [
        name if np.isfinite(curve.values).any() else f"{name} (undefined)"
        for name, curve in zip(shortened(names, limit), drawn, strict=True)
    ]
