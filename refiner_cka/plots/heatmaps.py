"""Heatmaps of CKA between the layers of one model, of two, or of all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from ..errors import ResultError
from ..results.chance import ALPHA
from ..results.result import Result
from ..sums import Array, Layer
from .style import COLUMN, SMALL, new_figure, note, paper, shortened

COLOUR_MAP = "magma"
"""Perceptually uniform, and monotone in lightness: it survives grey print."""

BELOW = 0.05
"""A value so far below the scale is said: that of unrelated images lies on both sides of 0."""

LARGEST = 3.0
"""Size in points of the dots that mark chance, where cells are large."""

SQUARE = 3.05
"""Height in inches at which square matrices with their labels are as wide as a column: the layout knows the room
that labels take only where it is the width that bounds the cells."""

WIDEST = 2.5
"""Cells are square up to this ratio of the sides; beyond it they are stretched to keep the labels legible."""


def heatmap(
    result: Result,
    model: str | None = None,
    other: str | None = None,
    *,
    tokens: str | None = None,
    index: str = "cka",
    given: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a similarity index between layers on the fixed scale 0 to 1, the first layers at the lower left.

    Values outside the scale take the colour of its end; a note says the least one where it lies clearly below.
    Dots mark pairs of layers that are no more similar than unrelated images may be (p of at least 0.05, corrected
    for the number of pairs by Holm). What is undefined is hatched, and a note says so.

    Args:
        result: what was measured.
        model: whose layers go upwards; all models' if none is named.
        other: whose layers go to the right; those of `model` if none is named.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        given: a reference, such as `labels`: what the layers share beyond it is drawn, see `Result.partial`. No
            dots then: how that is distributed by chance is not known.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or reference; `given` without a model.
    """
    tokens = result.tokens[0] if tokens is None else tokens
    rows = result.rows(model, tokens=tokens)
    columns = rows if other is None else result.rows(other, tokens=tokens)
    matrix = _values(result, model, other, tokens, index, given)
    with paper():
        ax = new_figure(COLUMN, SQUARE).subplots() if ax is None else ax
        label = result.quantity(index).label or index
        draw_cells(ax, matrix, label if given is None else f"Partial {label}")
        for axis, shown in ((ax.yaxis, rows), (ax.xaxis, columns)):
            _name(ax, axis, [result.stack[row] for row in shown])
        remarks = [
            f"given {given}" if given else _mark_chance(ax, result, model, other, tokens, index)
        ]
        if np.nanmin(matrix, initial=0.0) < -BELOW:
            remarks.append(f"least \N{MINUS SIGN}{-np.nanmin(matrix):.2f}")
        if np.isnan(matrix).any():
            remarks.append("hatched: undefined")
        if any(remarks):
            note(ax, "; ".join(filter(None, remarks)))
    return ax


def _values(
    result: Result,
    model: str | None,
    other: str | None,
    tokens: str,
    index: str,
    given: str | None,
) -> Array:
    if given is None:
        return result.similarity(index, model, other, tokens=tokens).values
    if model is None:
        raise ResultError(f"a heatmap given {given} is of one model or of two: name them")
    return result.partial(model, other, given=given, tokens=tokens, index=index).values


def _mark_chance(
    ax: Axes,
    result: Result,
    model: str | None,
    other: str | None,
    tokens: str,
    index: str,
) -> str:
    """Mark the cells that are within chance by dots, and return what to say of them; nothing if there are none."""
    null = result.null(model, other, tokens=tokens, index=index)
    within = null.p_values("holm") >= ALPHA
    if not within.any():
        return ""
    rows, columns = np.nonzero(within)
    # Seen on every colour, and smaller than a cell.
    cell = min(
        _length(ax, axis, 0) / count
        for axis, count in zip((ax.yaxis, ax.xaxis), within.shape, strict=True)
    )
    size = min(0.4 * cell, LARGEST)
    ax.scatter(columns, rows, s=size**2, c="white", edgecolors="black", linewidths=0.1 * size)
    rough = null.rough[within].any()
    return f"dots: within chance{' (approximate)' if rough else ''}"


def draw_cells(ax: Axes, matrix: Array, label: str) -> None:
    """Draw a matrix on the scale 0 to 1, what is undefined hatched."""
    image = ax.imshow(
        np.ma.masked_invalid(matrix),
        cmap=mpl.colormaps[COLOUR_MAP].with_extremes(bad=(0.0, 0.0, 0.0, 0.0)),
        vmin=0.0,
        vmax=1.0,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    height, width = matrix.shape
    ax.set_box_aspect(min(max(height / width, 1 / WIDEST), WIDEST))
    if np.isnan(matrix).any():
        # The background shows through where there is no value.
        ax.patch.set(facecolor="0.92", edgecolor="0.55", hatch="//////", linewidth=0.0)
    below = np.nanmin(matrix, initial=0.0) < -BELOW
    bar = ax.inset_axes((1.04, 0.0, 0.05, 1.0))
    extend: Literal["min", "neither"] = "min" if below else "neither"
    ax.figure.colorbar(image, cax=bar, label=label, ticks=[0.0, 0.5, 1.0], extend=extend)


def _name(ax: Axes, axis: Axis, layers: Sequence[Layer]) -> None:
    """Label one axis with the blocks of its model, or with the models if it holds several."""
    models = [layer.model for layer in layers]
    if len(set(models)) > 1:
        _name_models(ax, axis, models)
    else:
        name_layers(ax, axis, models[0], [layer.path for layer in layers])


def name_layers(ax: Axes, axis: Axis, model: str, paths: Sequence[str]) -> None:
    """Label one axis with the layers of one model."""
    where, labels = common_path(paths)
    axis.set_label_text(f"{shortened([model], 28)[0]}{where and ': '}{where}", parse_math=False)
    # Numbers stand upright on both axes, in steps that suit both; paths are written upwards on the lower.
    numbers = all(label.isdecimal() for label in labels)
    longest = max(map(len, labels))
    size = 0.65 * longest + 0.4 if numbers else 1.15
    positions, shown = thinned(labels, int(_length(ax, axis, longest) / (size * SMALL)))
    rotation = 90 if axis is ax.xaxis and not numbers else 0
    axis.set_ticks(positions, shown, rotation=rotation, parse_math=False)


def _name_models(ax: Axes, axis: Axis, models: Sequence[str]) -> None:
    """Label one axis with models, whose layers come one model after the other."""
    names, sizes = shortened([*Counter(models)], 18), np.array([*Counter(models).values()])
    cell = _length(ax, axis, max(map(len, names))) / len(models)
    tight = (0.65 * SMALL * np.array([*map(len, names)]) > sizes * cell).any()
    ends = sizes.cumsum()
    rotation = 90 if tight and axis is ax.xaxis else 0
    axis.set_ticks(ends - (sizes + 1) / 2, names, rotation=rotation, parse_math=False)
    for end in ends[:-1]:
        line = ax.axvline if axis is ax.xaxis else ax.axhline
        line(end - 0.5, color="white", linewidth=0.8)


def common_path(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return what dotted paths have in common and what is left of each.

    `blocks.0.attn`, `blocks.1.attn` -> `blocks.*.attn` and `0`, `1`.
    """
    parts = [path.split(".") for path in paths]
    room = min(map(len, parts)) - 1
    before = _shared(parts, room)
    after = _shared([part[::-1] for part in parts], room - before)
    head, tail = parts[0][:before], parts[0][len(parts[0]) - after :]
    common = ".".join([*head, *(["*", *tail] if tail else [])])
    return common, [".".join(part[before : len(part) - after]) for part in parts]


def _shared(parts: Sequence[Sequence[str]], most: int) -> int:
    """Return how many components from the front all have in common, at most `most`."""
    alike = (len(set(column)) == 1 for column in zip(*parts, strict=False))
    return min(most, sum(itertools.takewhile(bool, alike)))


def thinned(labels: Sequence[str], room: int) -> tuple[list[int], list[str]]:
    """Return positions and texts of as many labels as there is room for.

    Numbers are thinned to round steps, paths to the first layer of each block or stage.
    """
    room = max(room, 2)
    if len(labels) <= room:
        return list(range(len(labels))), list(labels)
    if all(label.isdecimal() for label in labels):
        round_steps = MaxNLocator(room, integer=True, steps=[1, 2, 5, 10])
        ticks = round_steps.tick_values(int(labels[0]), int(labels[-1]) + 1)
        chosen = [place for place, label in enumerate(labels) if int(label) in ticks]
        return chosen, [labels[place] for place in chosen]
    spacing = -(-len(labels) // room)
    paths = [label.split(".") for label in labels]
    for depth in range(1, max(map(len, paths)) + 1):
        keys = [".".join(path[:depth]) for path in paths]
        chosen = [0]
        for place in range(1, len(keys)):
            if keys[place] != keys[place - 1] and place - chosen[-1] >= spacing:
                chosen.append(place)
        if len(chosen) >= max(3, room / 3):
            break
    return chosen, [keys[place] for place in chosen]


def _length(ax: Axes, axis: Axis, longest: int) -> float:
    """Return about how long an axis will be, in points, beside labels of that many characters."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, point = ax.get_window_extent(), figure.dpi / 72
    shape = ax.get_box_aspect() or 1.0
    beside = max(0.0, 0.6 * SMALL * longest - 15.0)
    width = min(box.width, box.height / shape) / point
    return float((width if axis is ax.xaxis else width * shape) - beside)
