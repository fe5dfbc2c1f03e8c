"""Over-smoothing along depth: a panel for each measure, which says which way is smoother."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError, known_names
from ..results.maps import TokenMaps
from ..results.result import Result
from ..sums import LAYERS, Quantity
from . import captions
from .bands import Axis, Bands, Curve, curve_of
from .heatmaps import beyond, draw_cells, name_layers, scale
from .labels import EndLabels
from .layout import grid, on, tell
from .lines import depth_axis, draw_curve, labels
from .models import Line, Model, cast, label_of, lines_of
from .style import GREY, PAGE, NothingToDraw, letters_in, new_figure, paper, shortened, small

CONSTANT = 1e-6
"""Values that differ by no more are one: float32 rounds them."""


def measure(
    result: Result,
    name: str,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    band: Bands = "both",
    x: Axis = "depth",
    ax: Axes | None = None,
) -> Axes:
    """Draw a measure of tokens or of attention maps over relative depth, with 95 % bands over images.

    They are dark for each layer, and light for the whole curve. Refiner's refined maps are lines of their own.

    Args:
        result: what was measured.
        name: of the measure.
        models: the models and groups to draw, see `curves`; of attention maps those that have some. Groups have
            outlined bands of one standard deviation over trainings.
        tokens: readout whose layers are drawn; the first of the run if none is named. Maps do not depend on it.
        band: `both`, `pointwise`, `simultaneous` or `none`.
        x: `depth`, relative, or `block`, the number of the layer.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout or measure.
    """
    _checked(result, name)
    of_maps = result.quantity(name).axes[0] != LAYERS
    lines = cast(result, models, None if of_maps else tokens)
    if of_maps:
        lines, maps = _with_maps(result, lines)
    else:
        maps = ["softmax"] * len(lines)
    captions.same_everywhere(lines, name, None if of_maps else tokens)
    quantity = lines[0].result.quantity(name)
    asks = [
        partial(line.result.smoothing, name, tokens=tokens, maps=kind)
        for line, kind in zip(lines, maps, strict=True)
    ]
    # Panels of measures are small: no room for a line of each training.
    drawn = [
        curve_of(line, ask)._replace(thin=()).within(band).along(x)
        for line, ask in zip(lines, asks, strict=True)
    ]
    estimates = [curve.each for curve in drawn]

    def draw(ax: Axes) -> None:
        artists = [
            draw_curve(ax, curve, line.look, number, len(drawn))
            for number, (curve, line) in enumerate(zip(drawn, lines, strict=True))
        ]
        depth_axis(ax, x)
        _widen(ax, quantity)
        lines_of_label = textwrap.wrap(quantity.label or name, letters_in(ax, upright=True))
        ax.set_ylabel("\n".join(lines_of_label), parse_math=False)
        if quantity.smoother is not None:
            way = "\N{UPWARDS ARROW}" if quantity.smoother == "higher" else "\N{DOWNWARDS ARROW}"
            ax.set_title(f"{way} smoother", loc="right", fontsize=small(), color=GREY)
        names = EndLabels(ax, artists, labels(lines, estimates))
        said = captions.of_means(lines, quantity, drawn)
        tell(ax, said, names, lines, above=captions.outlined(estimates))

    return on(draw, ax)


def smoothing(
    result: Result, *, models: Sequence[str] | None = None, tokens: str | None = None
) -> Figure:
    """Draw the token measures over relative depth, a panel each; see `measure`.

    Args:
        result: what was measured.
        models: the models and groups to draw; if none are named all, groups in the place of their trainings.
        tokens: readout whose layers are drawn; the first of the run if none is named.

    Raises:
        ResultError: no such model or readout; no token measures in this result.
    """
    cast(result, models, tokens)
    return _small_multiples(result, telling(result, LAYERS), models, tokens)


def attention(
    result: Result, *, models: Sequence[str] | None = None, tokens: str | None = None
) -> Figure:
    """Draw the attention measures over relative depth, a panel each; see `measure`.

    Args:
        result: what was measured.
        models: the models and groups to draw; all whose maps were measured if none are named, see `smoothing`.
        tokens: taken as by every plot; maps do not depend on it.

    Raises:
        ResultError: no such model; no attention measures of these models.
    """
    names = [line.name for line in _with_maps(result, cast(result, models, None))[0]]
    return _small_multiples(result, telling(result, "attention", names), models, tokens)


def telling(result: Result, axis: str, models: Sequence[str] | None = None) -> list[str]:
    """Return the measures along an axis that say something: of the others all values are undefined, or one number.

    Row sums and negative shares of softmax maps are 1 and 0 everywhere.

    Args:
        result: what was measured.
        axis: `layers` or `attention`.
        models: which models are meant; all by default.
    """
    found = []
    for quantity in measured(result, axis):
        shown = [
            place
            for place, entry in enumerate(result.axes[axis])
            if models is None or any(entry.model in result.trainings(name) for name in models)
        ]
        values = result.smoothing(quantity.name).values[shown]
        defined = values[np.isfinite(values)]
        if len(defined) and (
            quantity.smoother or np.ptp(defined) > CONSTANT * max(1.0, *abs(defined))
        ):
            found.append(quantity.name)
    return found


def attention_blocks(
    result: Result,
    model: str,
    *,
    maps: str = "softmax",
    tokens: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how alike the attention maps of a model's blocks are, as a matrix on the scale 0 to 1.

    Args:
        result: what was measured.
        model: whose blocks.
        maps: `softmax` or `refined`.
        tokens: taken as by every plot; maps do not depend on it.
        vmin: lower end of the scale.
        vmax: upper end of the scale.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such maps in this result; an empty scale.
    """
    pairs = measured(result, "attention", "attention")
    if not pairs:
        raise NothingToDraw("no attention maps were compared between blocks in this result")
    similar = result.smoothing(pairs[0].name, model, maps=maps)
    paths = [
        block.path for block in result.attention if (block.model, block.tokens) == (model, maps)
    ]
    (line,) = lines_of(result, [Model(model)])

    def draw(ax: Axes) -> None:
        draw_cells(ax, similar.values, f"Cosine of {maps} maps", vmin, vmax)
        for axis in (ax.yaxis, ax.xaxis):
            name_layers(ax, axis, label_of(model), paths)
        tell(ax, captions.of_means([line], pairs[0], [Curve(similar, inner=False)]))

    return on(draw, ax, square=True)


def _checked(result: Result, name: str) -> None:
    """Refuse what is no measure along depth."""
    known = [each.name for axis in (LAYERS, "attention") for each in measured(result, axis)]
    if not known:
        raise NothingToDraw("no over-smoothing measures to draw in this result")
    if name not in known:
        raise ResultError(f"no measure {name!r} in this result: {known_names(name, known)}")


def _with_maps(result: Result, lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
    """Return a line for each kind of attention maps that models have, and which kind that is."""
    found = [
        (line, kind)
        for line in lines
        for kind in dict.fromkeys(
            block.tokens for block in line.result.attention if block.model in line.trainings
        )
    ]
    if not found:
        names = ", ".join(line.label for line in lines)
        raise NothingToDraw(f"no attention maps of {names} to draw in this result")
    models = [
        Model(
            line.name,
            label=line.label if kind == "softmax" else f"{line.label} ({kind})",
            result=line.result,
            file=line.file,
            color=line.look["color"],
        )
        for line, kind in found
    ]
    return lines_of(result, models), [kind for _, kind in found]


def measured(result: Result, *axes: str) -> list[Quantity]:
    """Return the measures that have a value for each entry of an axis, or each pair of entries."""
    found = [result.quantity(name) for name in result.measures]
    return [quantity for quantity in found if quantity.axes == axes]


def token_maps(maps: TokenMaps) -> Figure:
    """Draw an image and, at a few depths, the cosine of each of its patches with a chosen one.

    Where a model smooths, the maps become of one colour.

    Args:
        maps: from `refiner_cka.token_maps`.
    """
    count = len(maps.layers) + 1
    with paper():
        figure = new_figure(PAGE, PAGE / count + 0.35)
        axes = figure.subplots(1, count, squeeze=False)[0]
        height, width = maps.image.shape[:2]
        # All panels in pixels of the image, so that the chosen patch has one place in all of them.
        extent = (0.0, float(width), float(height), 0.0)
        axes[0].imshow(maps.image, extent=extent, interpolation="nearest")
        axes[0].set_title(shortened([maps.model], 22)[0], parse_math=False)
        every = np.concatenate([cosines.ravel() for cosines in maps.cosines])
        low, high, colours = scale(every)
        look: dict[str, Any] = {"cmap": colours, "vmin": low, "vmax": high, "extent": extent}
        for ax, path, cosines in zip(axes[1:], maps.layers, maps.cosines, strict=True):
            drawn = ax.imshow(cosines, interpolation="nearest", **look)
            ax.set_title(f"{path}\nmean {np.nanmean(cosines):.2f}", parse_math=False)
        for ax in axes:
            _mark(ax, maps)
            ax.set_axis_off()
        figure.colorbar(
            drawn,
            ax=list(axes),
            label="Cosine",
            extend=beyond(every, low, high),
            fraction=0.05,
            pad=0.01,
        )
    return figure


def _mark(ax: Axes, maps: TokenMaps) -> None:
    """Mark the chosen patch by a ring that shows on any colour."""
    height, width = maps.image.shape[:2]
    rows, columns = maps.cosines[0].shape
    row, column = (
        min(int(place * side), side - 1)
        for place, side in zip(maps.patch, (rows, columns), strict=True)
    )
    place = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
    for size, colour in ((6.0, "black"), (4.5, "white")):
        ax.plot(*place, "o", markersize=size, markerfacecolor="none", markeredgecolor=colour)


def _small_multiples(
    result: Result, names: Sequence[str], models: Sequence[str] | None, tokens: str | None
) -> Figure:
    if not names:
        raise NothingToDraw("no over-smoothing measures to draw in this result")

    def panel(name: str, ax: Axes) -> Axes:
        return measure(result, name, models=models, tokens=tokens, ax=ax)

    return grid([partial(panel, name) for name in names], PAGE, square=[False] * len(names))


def _widen(ax: Axes, quantity: Quantity) -> None:
    """Have the vertical axis span a share of the scale: magnified, rounding and noise look like findings."""
    low, high = ax.get_ylim()
    least, most = quantity.range
    bounded = least is not None and most is not None
    span = 0.1 if bounded else 0.25 * max(abs(low), abs(high))
    if high - low < span:
        top = (low + high + span) / 2
        if most is not None:
            top = max(high, min(top, most + 0.04 * span))
        bottom = top - span
        if least is not None and bottom < least:
            bottom = min(low, least - 0.04 * span)
        ax.set_ylim(bottom, bottom + span)
