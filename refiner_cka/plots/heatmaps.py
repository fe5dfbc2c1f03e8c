"""Heatmaps of CKA between the layers of one model, of two, or of all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from ..errors import ResultError
from ..results.chance import ALPHA
from ..results.result import Result
from ..sums import Array, Layer
from . import captions
from .layout import on, tell
from .models import label_of
from .style import current, shortened, small

Rows = npt.NDArray[np.intp]
Extend = Literal["neither", "min", "max", "both"]

DIVERGING = "RdBu_r"
"""Colours of a scale with 0 in its middle. Others are those of `image.cmap`, by default magma, which is
perceptually uniform and monotone in lightness: it survives grey print."""

BELOW = 0.05
"""A value so far beyond the scale is said: that of unrelated images lies on both sides of 0."""

LARGEST = 3.0
"""Size in points of the dots that mark chance, where cells are large."""

WIDEST = 2.5
"""Cells are square up to this ratio of the sides; beyond it they are stretched to keep the labels legible."""


def heatmap(
    result: Result,
    model: str | None = None,
    other: str | None = None,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
    given: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a similarity index between layers on the fixed scale 0 to 1, the first layers at the lower left.

    Where values lie clearly below 0 the scale is -1 to 1, in two colours. Values outside the scale take the colour
    of its end, and the bar is pointed there. Dots mark pairs of layers that are no more similar than unrelated
    images may be (p of at least 0.05, corrected for the number of pairs by Holm). What is undefined is hatched.
    The caption of a new figure, or a note above given axes, says so.

    Args:
        result: what was measured.
        model: whose layers go upwards; those of several models one after the other if none is named.
        other: whose layers go to the right; those of `model` if none is named.
        models: which models and in which order, where `model` names none; all by default.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        given: a reference, such as `labels`: what the layers share beyond it is drawn, see `Result.partial`. No
            dots then: how that is distributed by chance is not known.
        vmin: lower end of the scale.
        vmax: upper end of the scale.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or reference; `given` without a model; an empty scale.
    """
    if model is None and given is not None:
        raise ResultError(f"a heatmap given {given} is of one model or of two: name them")
    tokens = result.tokens[0] if tokens is None else tokens
    sides = _sides(result, model, other, models, tokens)
    matrix, marks, note = _values(result, sides, tokens, index, given)
    label = result.quantity(index).label or index
    label = label if given is None else f"Partial {label} given {given}"
    remarks = [note, "hatched: undefined" if np.isnan(matrix).any() else ""]

    def draw(ax: Axes) -> None:
        draw_cells(ax, matrix, label, vmin, vmax)
        for axis, side in ((ax.yaxis, sides[0]), (ax.xaxis, sides[1])):
            _name(ax, axis, side, [result.stack[row] for row in side.rows])
        _dot(ax, marks)
        rests = captions.measured_on(result, index)
        tell(ax, [rests, *remarks], above=captions.joined(*remarks))

    return on(draw, ax, square=True)


class _Side(NamedTuple):
    """What goes along one side: models, and the places of their layers in the stack."""

    models: list[str]
    rows: Rows


def _sides(
    result: Result,
    model: str | None,
    other: str | None,
    models: Sequence[str] | None,
    tokens: str,
) -> tuple[_Side, _Side]:
    if model is None:
        every = result.rows(tokens=tokens)
        names = models or list(dict.fromkeys(result.layers[row].model for row in every))
        names = [each for name in names for each in _each_training(result, name)]
        rows = np.concatenate([result.rows(name, tokens=tokens) for name in names])
        return _Side(names, rows), _Side(names, rows)
    own = _Side([model], result.rows(model, tokens=tokens))
    return own, own if other is None else _Side([other], result.rows(other, tokens=tokens))


def _each_training(result: Result, name: str) -> list[str]:
    trainings = result.trainings(name)
    return [name] if trainings == (name,) else [*trainings]


def _values(
    result: Result, sides: tuple[_Side, _Side], tokens: str, index: str, given: str | None
) -> tuple[Array, npt.NDArray[np.bool_], str]:
    """Return the matrix, where it is within chance, and what to say of that."""
    names = [side.models[0] for side in sides]
    other = None if sides[0] is sides[1] else names[1]
    if given is not None:
        found = result.partial(names[0], other, given=given, tokens=tokens, index=index).values
        return found, np.zeros_like(found, dtype=bool), ""
    if len(sides[0].models) == 1:
        values = result.similarity(index, names[0], other, tokens=tokens).values
        null = result.null(names[0], other, tokens=tokens, index=index)
        block: Any = ...
    else:
        every = result.rows(tokens=tokens)
        places = np.searchsorted(every, sides[0].rows)
        block = np.ix_(places, places)
        values = result.similarity(index, tokens=tokens).values[block]
        null = result.null(tokens=tokens, index=index)
    within = (null.p_values("holm") >= ALPHA)[block]
    rough = bool(null.rough[block][within].any())
    said = f"dots: within chance{' (approximate)' if rough else ''}" if within.any() else ""
    return values, within, said


def _dot(ax: Axes, within: npt.NDArray[np.bool_]) -> None:
    """Mark cells by dots."""
    if not within.any():
        return
    rows, columns = np.nonzero(within)
    # Seen on every colour, and smaller than a cell.
    cell = min(
        _length(ax, axis, 0) / count
        for axis, count in zip((ax.yaxis, ax.xaxis), within.shape, strict=True)
    )
    size = min(0.4 * cell, LARGEST)
    ax.scatter(columns, rows, s=size**2, c="white", edgecolors="black", linewidths=0.1 * size)


def draw_cells(
    ax: Axes, matrix: Array, label: str, vmin: float | None = None, vmax: float | None = None
) -> None:
    """Draw a matrix, what is undefined hatched, on the scale 0 to 1 or that asked for.

    Raises:
        ResultError: the scale is empty.
    """
    low, high, colours = scale(matrix, vmin, vmax)
    image = ax.imshow(
        np.ma.masked_invalid(matrix),
        cmap=mpl.colormaps[colours].with_extremes(bad=(0.0, 0.0, 0.0, 0.0)),
        vmin=low,
        vmax=high,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    height, width = matrix.shape
    ax.set_box_aspect(min(max(height / width, 1 / WIDEST), WIDEST))
    for spine in ax.spines.values():
        # Within what is laid out in any case, and long to measure.
        spine.set_in_layout(False)
    if np.isnan(matrix).any():
        # The background shows through where there is no value.
        ax.patch.set(facecolor="0.92", edgecolor="0.55", hatch="//////", linewidth=0.0)
    bar = ax.inset_axes((1.04, 0.0, 0.05, 1.0))
    extend = beyond(matrix, low, high)
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    ax.figure.colorbar(image, cax=bar, label=label, ticks=ticks, extend=extend)


def scale(
    matrix: Array, vmin: float | None = None, vmax: float | None = None
) -> tuple[float, float, str]:
    """Return the ends of the scale for a matrix and its colours: in two where it lies clearly on both sides of 0.

    Raises:
        ResultError: no two ends in order.
    """
    negative = bool(np.nanmin(matrix, initial=0.0) < -BELOW)
    low = vmin if vmin is not None else -1.0 if negative else 0.0
    high = vmax if vmax is not None else 1.0
    for name, end in (("vmin", low), ("vmax", high)):
        if isinstance(end, bool) or not isinstance(end, int | float) or not np.isfinite(end):
            raise ResultError(f"{name} is a number, not {end!r}")
    if low >= high:
        raise ResultError(f"a scale from {low:g} to {high:g} is empty: vmin must be below vmax")
    return low, high, DIVERGING if low == -high else str(current().settings["image.cmap"])


def beyond(matrix: Array, low: float, high: float) -> Extend:
    """Return at which ends of a scale values lie clearly beyond it."""
    below = np.nanmin(matrix, initial=low) < low - BELOW
    above = np.nanmax(matrix, initial=high) > high + BELOW
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _name(ax: Axes, axis: Axis, side: _Side, layers: Sequence[Layer]) -> None:
    """Label one axis with the blocks of its model, or with the models and block numbers if it holds several."""
    if len(side.models) > 1:
        _name_models(ax, axis, [label_of(name) for name in side.models], layers)
    else:
        name_layers(ax, axis, label_of(side.models[0]), [layer.path for layer in layers])


def name_layers(ax: Axes, axis: Axis, model: str, paths: Sequence[str]) -> None:
    """Label one axis with the layers of one model."""
    where, labels = common_path(paths)
    axis.set_label_text(f"{shortened([model], 28)[0]}{where and ': '}{where}", parse_math=False)
    # Numbers stand upright on both axes, in steps that suit both; paths are written upwards on the lower.
    numbers = all(label.isdecimal() for label in labels)
    longest = max(map(len, labels))
    size = 0.65 * longest + 0.4 if numbers else 1.15
    positions, shown = thinned(labels, int(_length(ax, axis, longest) / (size * small())))
    rotation = 90 if axis is ax.xaxis and not numbers else 0
    axis.set_ticks(positions, shown, rotation=rotation, parse_math=False)


def _name_models(ax: Axes, axis: Axis, models: Sequence[str], layers: Sequence[Layer]) -> None:
    """Label one axis with the numbers of layers and, beyond these, the models that they are of."""
    counts = Counter(layer.model for layer in layers)
    names, sizes = shortened(models, 18), np.array([*counts.values()])
    cell = _length(ax, axis, max(map(len, names))) / len(layers)
    ends = sizes.cumsum()
    horizontal = axis is ax.xaxis
    flat, tall = (
        [_numbers(size, cell, upwards=upwards) for size in sizes.tolist()]
        for upwards in (False, True)
    )
    # Side by side they are turned if else a model would have no number but its first.
    turned = horizontal and any(
        len(one) == 1 < len(other) for one, other in zip(flat, tall, strict=True)
    )
    shown = flat if horizontal and not turned else tall
    places = np.concatenate(
        [start + np.array(each) for start, each in zip(ends - sizes, shown, strict=True)]
    )
    numbers = [str(number) for each in shown for number in each]
    upright = (0.6 * small() * np.array([*map(len, names)]) <= sizes * cell).all()
    axis.set_ticks(places, numbers, rotation=90 if turned else 0, parse_math=False)
    rotation = 0 if upright == horizontal else 90
    axis.remove_overlapping_locs = False
    axis.set_ticks(ends - (sizes + 1) / 2, names, minor=True, rotation=rotation, parse_math=False)
    beside = 1.5 if horizontal and not turned else 0.7 * max(map(len, numbers)) + 0.6
    axis.set_tick_params(which="minor", length=0, pad=beside * small() + 4, labelsize=small())
    for label in axis.get_minorticklabels() if not horizontal and rotation else ():
        label.set(va="center")
    for end in ends[:-1]:
        line = ax.axvline if horizontal else ax.axhline
        line(end - 0.5, color="white", linewidth=0.8)


def _numbers(size: int, cell: float, *, upwards: bool) -> list[int]:
    """Return which of a model's layers are numbered: the first, and others in the smallest round steps that fit.

    Numbers stand apart, also the last of a model and the first of the next.

    Args:
        size: number of layers.
        cell: points from one to the next.
        upwards: whether numbers stand one above the other, where they take less room than side by side.
    """

    def room(number: int) -> float:
        return small() * (0.95 if upwards else 0.64 * len(str(number)) + 0.3)

    def placed(step: int) -> list[int]:
        places = range(0, size, step)
        return [each for each in places if not each or (size - each) * cell > room(each)]

    steps = (step * 10**power for power in itertools.count() for step in (1, 2, 5))
    return placed(
        next(step for step in steps if step >= size or step * cell > room(placed(step)[-1]))
    )


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
    beside = max(0.0, 0.6 * small() * longest - 15.0)
    width = min(box.width, box.height / shape) / point
    return float((width if axis is ax.xaxis else width * shape) - beside)
