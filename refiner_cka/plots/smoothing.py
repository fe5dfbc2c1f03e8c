"""Over-smoothing along depth: small multiples, one panel a measure, with an arrow towards smoother."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.maps import TokenMaps
from ..results.result import Result
from ..sums import LAYERS, Quantity
from . import captions
from .bands import Curve, curve_of
from .heatmaps import COLOUR_MAP, SQUARE, draw_cells, name_layers
from .lines import depth_axis, draw_curve
from .style import (
    COLUMN,
    GREY,
    PAGE,
    SMALL,
    NothingToDraw,
    checked_names,
    new_figure,
    palette,
    paper,
    plural,
    shortened,
)

_COLUMNS = 3
_HEIGHT = 1.75
"""Panels in a row, and the height of one in inches."""


def smoothing(
    result: Result, *, models: Sequence[str] | None = None, tokens: str | None = None
) -> Figure:
    """Draw the token measures over relative depth, a panel each, with 95 % bands over images.

    They are dark for each layer, and light for the whole curve.

    Args:
        result: what was measured.
        models: the models and groups to draw; if none are named all, groups in the place of their trainings, with
            outlined bands of one standard deviation over trainings.
        tokens: readout whose layers are drawn; the first of the run if none is named.

    Raises:
        ResultError: no such model or readout; no token measures in this result.
    """
    names = checked_names(result, models, tokens)
    panels = {
        quantity: {
            name: curve_of(result, name, partial(result.smoothing, quantity.name, tokens=tokens))
            for name in names
        }
        for quantity in measured(result, LAYERS)
    }
    return _small_multiples(result, panels, palette(result, names))


def attention(
    result: Result, *, models: Sequence[str] | None = None, tokens: str | None = None
) -> Figure:
    """Draw the attention measures over relative depth, a panel each, with bands as in `smoothing`.

    Refiner's refined maps are lines of their own.

    Args:
        result: what was measured.
        models: the models and groups to draw; all whose maps were measured if none are named, see `smoothing`.
        tokens: taken as by every plot; maps do not depend on it.

    Raises:
        ResultError: no such model; no attention measures of these models.
    """
    names = checked_names(result, models, None)
    shown_as = {model: name for name in names for model in result.trainings(name)}
    lines = dict.fromkeys(
        (shown_as[block.model], block.tokens)
        for block in result.attention
        if block.model in shown_as
    )
    if not lines:
        raise NothingToDraw(f"no attention maps of {', '.join(names)} to draw in this result")
    panels = {
        quantity: {
            model if maps == "softmax" else f"{model} ({maps})": curve_of(
                result, model, partial(result.smoothing, quantity.name, maps=maps)
            )
            for model, maps in lines
        }
        for quantity in measured(result, "attention")
        # Row sums and negative shares of softmax maps are 1 and 0.
        if quantity.smoother or any(kind == "refined" for _, kind in lines)
    }
    looks = palette(result, [model for model, _ in lines])
    return _small_multiples(result, panels, looks)


def attention_blocks(
    result: Result,
    model: str,
    *,
    maps: str = "softmax",
    tokens: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how alike the attention maps of a model's blocks are, as a matrix on the scale 0 to 1.

    Args:
        result: what was measured.
        model: whose blocks.
        maps: `softmax` or `refined`.
        tokens: taken as by every plot; maps do not depend on it.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such maps in this result.
    """
    pairs = measured(result, "attention", "attention")
    if not pairs:
        raise NothingToDraw("no attention maps were compared between blocks in this result")
    similar = result.smoothing(pairs[0].name, model, maps=maps)
    paths = [
        block.path for block in result.attention if (block.model, block.tokens) == (model, maps)
    ]
    with paper():
        ax = new_figure(COLUMN, SQUARE).subplots() if ax is None else ax
        draw_cells(ax, similar.values, f"Cosine of {maps} maps")
        for axis in (ax.yaxis, ax.xaxis):
            name_layers(ax, axis, model, paths)
    return ax


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
        for ax, path, cosines in zip(axes[1:], maps.layers, maps.cosines, strict=True):
            drawn = ax.imshow(
                cosines, cmap=COLOUR_MAP, vmin=0.0, vmax=1.0, extent=extent, interpolation="nearest"
            )
            ax.set_title(f"{path}\nmean {np.nanmean(cosines):.2f}", parse_math=False)
        for ax in axes:
            _mark(ax, maps)
            ax.set_axis_off()
        below = any(np.nanmin(cosines) < 0 for cosines in maps.cosines)
        figure.colorbar(
            drawn,
            ax=list(axes),
            label="Cosine",
            ticks=[0.0, 0.5, 1.0],
            extend="min" if below else "neither",
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
    result: Result,
    panels: Mapping[Quantity, Mapping[str, Curve]],
    looks: Sequence[dict[str, Any]],
) -> Figure:
    drawn = {
        quantity: lines
        for quantity, lines in panels.items()
        if any(np.isfinite(curve.each.values).any() for curve in lines.values())
    }
    if not drawn:
        raise NothingToDraw("no over-smoothing measures to draw in this result")
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    names = list(next(iter(drawn.values())))
    with paper():
        width = PAGE if columns == _COLUMNS else COLUMN * columns
        figure = new_figure(width, _HEIGHT * rows + 0.42)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for number, (ax, (quantity, lines)) in enumerate(zip(axes, drawn.items(), strict=False)):
            _panel(ax, quantity, list(lines.values()), looks)
            below = number + columns >= len(drawn)
            ax.tick_params(labelbottom=below)
            ax.set_xlabel("Relative depth" if below else "")
        for ax in axes[len(drawn) :]:
            ax.set_axis_off()
        figure.legend(
            handles=axes[0].get_lines(),
            labels=shortened(names, 28),
            loc="outside upper center",
            ncols=min(len(names), 4),
            frameon=False,
            fontsize=SMALL,
        )
        first = list(next(iter(drawn.values())).values())
        captions.write(axes[0], [captions.of_means(result, first)])
    return figure


def _panel(
    ax: Axes, quantity: Quantity, lines: Sequence[Curve], looks: Sequence[dict[str, Any]]
) -> None:
    for number, (curve, look) in enumerate(zip(lines, looks, strict=True)):
        # Panels this small have no room for a line of each training.
        draw_curve(ax, curve._replace(thin=()), look, number, len(lines))
    depth_axis(ax)
    span = 0.1 if quantity.range == (-1.0, 1.0) else 0.05 * max(map(abs, ax.get_ylim()))
    _widen(ax, span, quantity.range[1])
    label = quantity.label
    if quantity.few:
        means = [curve.each for curve in lines]
        counts = [m.images[np.isfinite(m.values)] for m in means if m.images is not None]
        most = int(np.concatenate(counts).max())  # where features are not finite, all images count
        label += f"\n({plural(most, 'image')})"
    ax.set_ylabel(label)
    if quantity.smoother is not None:
        _arrow(ax, up=quantity.smoother == "higher")


def _widen(ax: Axes, span: float, most: float | None) -> None:
    """Have the vertical axis span at least so much: magnified, rounding and noise look like findings."""
    low, high = ax.get_ylim()
    if high - low < span:
        top = (low + high + span) / 2
        if most is not None:
            top = max(high, min(top, most + 0.04 * span))
        ax.set_ylim(top - span, top)


def _arrow(ax: Axes, *, up: bool) -> None:
    """Say on the right of the axes which way is smoother."""
    foot, head = (0.62, 0.92) if up else (0.38, 0.08)
    ax.annotate(
        "smoother",
        xy=(1.045, head),
        xytext=(1.045, foot),
        xycoords="axes fraction",
        ha="center",
        va="top" if up else "bottom",
        rotation=90,
        fontsize=SMALL - 1,
        color=GREY,
        arrowprops={"arrowstyle": "-|>", "color": GREY, "linewidth": 0.7, "shrinkA": 1.0},
    )
