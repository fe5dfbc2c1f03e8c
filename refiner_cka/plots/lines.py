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
from matplotlib.ticker import MaxNLocator

from ..errors import ResultError
from ..results.estimate import Estimate
from ..results.result import Result
from ..results.statistics import Normalize
from . import captions
from .bands import Axis, Bands, Chance, Curve, curve_of, draw_band, with_spread
from .labels import EndLabels
from .layout import grid, on, tell
from .models import Line, Model, cast, label_of, lines_of
from .style import GREY, PAGE, letters_in, note, series, shortened

DEPTH = "Relative depth (first to last layer)"

BLOCK = "Layer"

_LONGEST = 18
"""Characters of a name at the end of a line."""

ALONE = 5.0
"""Width in inches of a comparison of one panel: room for long names."""

_DASHED = (0.0, (3.0, 1.5))
_MARKED = 12
"""About how many layers of a deep model carry a marker."""


def formula(name: str, normalize: Normalize, room: int = 1000) -> str:
    """Return what a curve is, for its axis.

    Args:
        name: of the similarity index.
        normalize: see `Result.curve`.
        room: characters on a line.
    """
    raw = f"{name}($l$, last)"
    parts = {
        "first-last": (f"$s(l)$ = {raw}", f"/ {name}(first, last)"),
        "min-max": (f"{raw},", "least 0 to greatest 1"),
        "none": (raw,),
    }[normalize]
    whole = " ".join(parts)
    return whole if len(whole.replace("$", "")) <= room else "\n".join(parts)


def curves(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    normalize: Normalize = "first-last",
    tokens: str | None = None,
    index: str = "cka",
    band: Bands = "both",
    x: Axis = "depth",
    ax: Axes | None = None,
) -> Axes:
    """Draw the similarity of each layer to the last over relative depth, one line per model.

    Its 95 % bands surround it: dark for each layer, light for the whole curve. Behind raw curves unrelated images
    would lie in the grey with 95 %, whichever of the models; it is left out where it is too thin to see. A group
    of trainings is drawn as the mean over them, in an outlined band of one standard deviation to either side, with
    a thin line for each. A curve whose values mean little because it divides by a number not clearly above 0 is
    dashed, and does not stretch the axis. A caption below a new figure says what there is of this and what it
    rests on; above given axes stands what there is.

    Args:
        result: what was measured.
        models: the models and groups to draw, which may be `Model`s with labels and colours, of other results
            too; if none are named all that have the readout, groups in the place of their trainings.
        normalize: `first-last`, `min-max` or `none`; see `Result.curve`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        band: `both`, `pointwise`, `simultaneous` or `none`.
        x: `depth`, relative, or `block`, the number of the layer.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or normalisation.
    """
    lines = cast(result, models, tokens)
    label = captions.same_everywhere(lines, index, tokens)
    drawn = [
        curve_of(line, partial(line.result.curve, normalize=normalize, tokens=tokens, index=index))
        .within(band)
        .along(x)
        for line in lines
    ]
    estimates = [curve.each for curve in drawn]

    def draw(ax: Axes) -> None:
        if normalize == "first-last":
            ax.axhline(1.0, color=GREY, linewidth=0.6, zorder=0.6)
        raw = normalize == "none"
        chance = Chance.of(lines, tokens=tokens, index=index, x=x) if raw else None
        artists, grey = draw_curves(ax, lines, drawn, limits(drawn, normalize), chance, x)
        room = letters_in(ax, upright=True)
        ax.set_ylabel(formula(label.partition(" (")[0], normalize, room))
        dashed = captions.unresolved(lines, index, estimates)
        tell_curves(ax, artists, lines, index, drawn, [captions.outlined(estimates), grey, dashed])

    return on(draw, ax)


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
    shown: list[Normalize] = ["none", *([] if normalize == "none" else [normalize])]

    def panel(kind: Normalize, ax: Axes) -> Axes:
        return curves(result, models=models, normalize=kind, tokens=tokens, index=index, ax=ax)

    draws = [partial(panel, kind) for kind in shown]
    return grid(draws, PAGE if len(draws) == 2 else ALONE, square=[False] * len(draws))


def contrast(
    result: Result,
    model: str,
    other: str,
    *,
    normalize: Normalize = "none",
    tokens: str | None = None,
    index: str = "cka",
    band: Bands = "both",
    x: Axis = "depth",
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
        band: `both`, `pointwise`, `simultaneous` or `none`.
        x: `depth`, relative, or `block`, the number of the layer, of models with as many layers.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or normalisation; a model and itself.
    """
    if str(model) == str(other):
        raise ResultError(f"{model} minus itself is 0 everywhere: name two models")
    if (
        x == "block"
        and len({len(result.rows(result.trainings(each)[0])) for each in (model, other)}) > 1
    ):
        raise ResultError(
            f"{model} and {other} have different numbers of layers: draw their contrast with x=depth"
        )
    ask = partial(result.contrast, model, other, normalize=normalize, tokens=tokens, index=index)
    difference = Curve(ask())
    if difference.each.over == "images":
        difference = Curve(difference.each, ask(band="simultaneous"))
    difference = difference.within(band).along(x)
    line = lines_of(result, [model if isinstance(model, Model) else Model(model)])[0]
    first, second = shortened([label_of(model), label_of(other)], 24)
    over = ""
    if difference.each.over == "trainings":
        over = f"; outlined: 95 % over {difference.each.trainings} trainings"

    def draw(ax: Axes) -> None:
        ax.axhline(0.0, color=GREY, linewidth=0.6)
        draw_curve(ax, difference, series(0) | getattr(model, "look", {}), 0, 1)
        depth_axis(ax, x)
        what = formula(captions.named(result, index), normalize).partition(" =")[0]
        ax.set_ylabel(f"Difference in {what}")
        note(ax, f"{first} minus {second}{over}")
        tell(ax, captions.of_similarity([line], index, [difference]))

    return on(draw, ax)


def draw_curves(
    ax: Axes,
    lines: Sequence[Line],
    drawn: Sequence[Curve],
    span: tuple[float, float],
    chance: Chance | None,
    x: Axis = "depth",
) -> tuple[list[Line2D], str]:
    """Draw curves over relative depth, and where chance is, and return the lines and what to say of chance.

    Args:
        ax: where to draw.
        lines: whose curves they are.
        drawn: the curves.
        span: limits of the vertical axis, which chance may widen.
        chance: behind them, if anything is known of it.
        x: what they are over.
    """
    artists = [
        draw_curve(ax, curve, line.look, number, len(drawn))
        for number, (curve, line) in enumerate(zip(drawn, lines, strict=True))
    ]
    low, high = span
    shown = chance is not None and chance.upper.max() >= low
    ax.set_ylim(min(low, chance.lower.min()) if chance and shown else low, high)
    depth_axis(ax, x)
    return artists, chance.draw(ax) if chance else ""


def tell_curves(
    ax: Axes,
    artists: Sequence[Line2D],
    lines: Sequence[Line],
    index: str,
    drawn: Sequence[Curve],
    marks: Sequence[str],
) -> None:
    """Name curves at their ends, and say what they rest on and what the marks are; empty ones are none."""
    names = EndLabels(ax, artists, labels(lines, [curve.each for curve in drawn]))
    rests = captions.of_similarity(lines, index, drawn)
    tell(ax, [*rests, *marks], names, lines, above="\n".join(filter(None, marks)))


def depth_axis(ax: Axes, x: Axis = "depth") -> None:
    """Make the horizontal axis relative depth, or the number of the layer."""
    ax.spines[["top", "right"]].set_visible(False)
    if x == "block":
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
        ax.set_xlabel(BLOCK)
        return
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_xlabel(
        DEPTH if len(DEPTH) <= letters_in(ax, upright=False) else DEPTH.partition(" (")[0]
    )


def draw_curve(ax: Axes, curve: Curve, look: dict[str, Any], number: int, of: int) -> Line2D:
    """Draw curve `number` of so many with its bands and thin lines."""
    draw_thin(ax, curve.thin, look)
    if curve.whole is not None:
        draw_band(ax, curve.whole, look["color"], of, under=curve.inner)
    return draw_line(ax, curve.each, look, number, of, band=curve.inner)


def draw_line(
    ax: Axes, curve: Estimate, look: dict[str, Any], number: int, of: int, *, band: bool = True
) -> Line2D:
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
    if band:
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
    everything = np.concatenate([*shown, [0.0, 1.0] if normalize == "min-max" else [1.0]])
    defined = everything[np.isfinite(everything)]
    low, high = float(defined.min()), float(defined.max())
    if normalize == "none":
        # From 0, unless much of the panel were empty.
        low = min(low, 0.0) if low < 0.3 else np.floor(10 * low) / 10
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _parts(curve: Curve) -> list[Estimate]:
    """Return all that is drawn of a curve, with the ends of its bands; thin lines have none."""
    bare = [curve.each] if not curve.inner else []
    thin = [replace(each, lower=each.values, upper=each.values) for each in (*curve.thin, *bare)]
    inner = [with_spread(curve.each)] if curve.inner else []
    return [*inner, *([] if curve.whole is None else [curve.whole]), *thin]


def labels(lines: Sequence[Line], drawn: Sequence[Estimate]) -> list[str]:
    """Return the names of lines, and of which there is nothing to see."""
    return [
        name if np.isfinite(curve.values).any() else f"{name} (undefined)"
        for name, curve in zip(
            shortened([line.label for line in lines], _LONGEST), drawn, strict=True
        )
    ]
