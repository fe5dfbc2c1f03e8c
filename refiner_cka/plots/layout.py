"""Panels put together to a figure: its grid, letters, names of lines, colour bars of trainings, and caption."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.text import Text

from ..sums import Array
from . import captions
from .labels import EndLabels
from .models import Line, Moment
from .style import (
    COLUMN,
    GREY,
    PaperFigure,
    current,
    new_figure,
    note,
    paper,
    shortened,
    small,
    wrapped,
)

_EMS = 20
"""A panel is at least so many times as wide as its text is high."""

_PAD = 0.03
"""Inches around what is drawn."""

_TICKS = 6
"""States of a training that are named at its colour bar, at most."""


@dataclass(frozen=True, eq=False)
class Told:
    """What a panel says of itself, for the figure that it is part of.

    Attributes:
        caption: what goes below the figure.
        names: of the lines, at their ends.
        lines: these lines.
    """

    caption: tuple[str, ...] = ()
    names: EndLabels | None = None
    lines: tuple[Line, ...] = ()


def tell(
    ax: Axes,
    caption: Iterable[str],
    names: EndLabels | None = None,
    lines: Sequence[Line] = (),
    *,
    above: str = "",
) -> None:
    """Have a panel say what it shows: below the figure that it is part of, or else above itself.

    Args:
        ax: the panel.
        caption: what goes below a figure.
        names: of its lines, at their ends.
        lines: these lines.
        above: what goes above axes that are somebody else's, whose figure has no caption.
    """
    figure = ax.get_figure(root=True)
    told = figure.told if isinstance(figure, PaperFigure) else {}
    if ax in told:
        told[ax] = Told(tuple(caption), names, tuple(lines))
    elif above:
        note(ax, above)


def on(draw: Callable[[Axes], None], ax: Axes | None, *, square: bool = False) -> Axes:
    """Draw on axes, or on those of a new figure of one column's width."""
    with paper():
        if ax is None:
            ax, *_ = grid([draw], COLUMN, square=[square]).axes
        else:
            draw(ax)
    return ax


def grid(
    draws: Sequence[Callable[[Axes], object]], width: float, *, square: Sequence[bool]
) -> Figure:
    """Return a figure of panels.

    Args:
        draws: draws each panel.
        width: of the figure in inches, unless the style has one.
        square: of each panel, whether it is a matrix.
    """
    look = current()
    width = look.width or width
    rows, columns = shape(len(draws), width)
    with paper():
        height = sum(
            max(_height(width, columns, matrix) for matrix in square[start : start + columns])
            for start in range(0, len(draws), columns)
        )
        figure = new_figure(width, look.height or height)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        panels, rest = list(axes[: len(draws)]), list(axes[len(draws) :])
        for ax in rest:
            ax.set_axis_off()
        figure.told = {ax: Told() for ax in panels}
        for ax, draw in zip(panels, draws, strict=True):
            draw(ax)
        caption = _finish(figure, rest, columns, fixed=look.height is not None)
        if all(square) and look.height is None:
            whole = _crop(figure, panels, columns, caption)
            figure.placed = whole and len(panels) == 1
        figure.told = {}
    return figure


def shape(count: int, width: float) -> tuple[int, int]:
    """Return rows and columns for so many panels: few rows, and few empty places."""
    most = max(1, int(width * 72 / (_EMS * current().settings["font.size"])))
    shapes = [(-(-count // columns), columns) for columns in range(min(most, count), 0, -1)]
    return min(shapes, key=lambda one: (one[0], one[0] * one[1]))


def _height(width: float, columns: int, square: bool) -> float:
    """Return the height of a panel in inches."""
    # Square matrices with their labels are about as high as they are wide.
    ratio = 0.94 if square else 0.77
    return min(
        ratio * width / columns, ratio * width * (1.0 if columns == 1 and width < 5 else 0.6)
    )


def _finish(figure: PaperFigure, rest: Sequence[Axes], columns: int, *, fixed: bool) -> Text | None:
    """Add what belongs to the figure as a whole; return its caption, if it has one."""
    told = cast(dict[Axes, Told], figure.told)
    letters = string.ascii_lowercase if 1 < len(told) <= 26 else ""
    for ax, letter in zip(told, letters, strict=False):
        _letter(ax, letter)
    _share_depth(list(told), columns)
    grown = _name_lines(figure, told, rest, columns)
    _colour_bars(figure, told)
    said = captions.lettered([each.caption for each in told.values()], letters)
    caption = None
    if text := wrapped(said, figure.get_figwidth()):
        caption = figure.supxlabel(text, fontsize=small(), color=GREY, parse_math=False)
        grown += _text_height(caption)
    if not fixed:
        figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + grown)
    return caption


def _letter(ax: Axes, letter: str) -> None:
    size = current().settings["font.size"]
    ax.annotate(
        letter,
        xy=(0.0, 1.0),
        xycoords="axes fraction",
        xytext=(-0.6 * size, 0.6 * size),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=size,
        fontweight="bold",
    )


def _share_depth(panels: Sequence[Axes], columns: int) -> None:
    """Name the horizontal axis once where a panel stands above another with the same."""
    for upper, lower in zip(panels, panels[columns:], strict=False):
        same = upper.get_xlim() == lower.get_xlim() and upper.get_xlabel() == lower.get_xlabel()
        if same and not (upper.images or lower.images):
            upper.tick_params(labelbottom=False)
            upper.set_xlabel("")


def _name_lines(
    figure: Figure, told: dict[Axes, Told], rest: Sequence[Axes], columns: int
) -> float:
    """Name the lines of panels that show the same ones once; return how much height that takes.

    States of a training have a colour bar instead.
    """
    for each in told.values():
        if each.names is not None:
            states = [number for number, line in enumerate(each.lines) if line.moment]
            each.names.leave_out(states)
    named = [each.names for each in told.values() if each.names is not None]
    shown = {
        tuple((line.label, line.file, str(line.look)) for line in each.lines)
        for each in told.values()
        if each.names is not None
    }
    if columns == 1 or len(named) < 2 or len(shown) > 1:
        return 0.0
    # Side by side, names stand at the right of the last.
    beside = len(told) == columns == len(named) == 2
    for names in named[:-1] if beside else named:
        names.remove()
    if beside or not named[0].given:
        return 0.0
    lines = next(each.lines for each in told.values() if each.names is not None)
    labels = [line.label for line in lines if not line.moment]
    return _legend(figure, rest, [artist for artist, _ in named[0].given], labels)


def _legend(
    figure: Figure, rest: Sequence[Axes], artists: Sequence[Line2D], labels: Sequence[str]
) -> float:
    """Draw a legend in the first empty place of the grid, or above it; return how much height that takes."""
    texts, size = shortened(labels, 28), small()
    options: dict[str, Any] = {"frameon": False, "fontsize": size}
    grown = 0.0
    if rest:
        options |= {"loc": "center left"}
    else:
        # An entry is its text and, with the space around it, about five letters for its line.
        entry = 0.6 * max(map(len, texts)) + 5
        columns = min(len(texts), max(1, int(figure.get_figwidth() * 72 / size / entry)))
        options |= {"loc": "outside upper center", "ncols": columns}
        grown = 1.6 * size / 72 * -(-len(texts) // columns)
    where = rest[0] if rest else figure
    legend = where.legend(artists, ["."] * len(texts), **options)
    # Set afterwards: as labels they would be read as formulas, and left out where they begin with _.
    for text, name in zip(legend.get_texts(), texts, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    return grown


def _colour_bars(figure: Figure, told: dict[Axes, Told]) -> None:
    """Draw a bar for each training of which states are shown, in the order of time."""
    trainings: dict[str, dict[Moment, Line]] = {}
    shown: dict[str, list[Axes]] = {}
    for ax, each in told.items():
        for line in each.lines:
            if line.moment is not None:
                trainings.setdefault(line.moment.training, {})[line.moment] = line
                shown.setdefault(line.moment.training, []).append(ax)
    for training, states in trainings.items():
        axes = [*dict.fromkeys(shown[training])]
        moments = sorted({moment.time: moment for moment in states}.items())
        lines = [states[moment] for _, moment in moments]
        colours = ListedColormap([line.look["color"] for line in lines])
        norm = BoundaryNorm(np.arange(len(lines) + 1) - 0.5, len(lines))
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=axes, aspect=25, fraction=0.05, pad=0.02
        )
        places = np.linspace(0, len(lines) - 1, min(len(lines), _TICKS)).round().astype(int)
        times = [".".join(map(str, time)) for time, _ in moments]
        bar.set_ticks([*places], labels=[times[place] for place in places])
        bar.ax.tick_params(length=0)
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)
        bar.ax.set_ylabel(moments[0][1].title, parse_math=False)


def _crop(figure: Figure, panels: Sequence[Axes], columns: int, caption: Text | None) -> bool:
    """Take away the height that matrices leave empty; return whether there was as much as they take.

    Their cells are bounded by the width. What stands around a matrix takes as much room wherever it ends up, but
    for its bar, which is a share of it.
    """
    width, height = figure.get_size_inches()
    rows = -(-len(panels) // columns)
    around = np.zeros((rows, columns, 7))
    around.reshape(-1, 7)[: len(panels)] = [_around(ax) for ax in panels]
    left, right = around[..., :2].max(0).T + _PAD
    below, above = around[..., 2:4].max(1).T + _PAD
    share, own, beside = around[..., 4:].max((0, 1))
    wide = (width - left.sum() - right.sum()) / (columns * share)
    tall = wide * max(float(ax.get_box_aspect() or 1.0) for ax in panels)
    # Labels that are longer than the matrix stick out of it; for its own the layout leaves no room.
    below, above = (np.maximum(each, (beside - tall) / 2 + _PAD) for each in (below, above))
    out = max(0.0, (own - tall) / 2 + _PAD - above[0])
    if caption is not None:
        below[-1] += caption.get_window_extent().height / figure.dpi + 2 * _PAD
    needed = rows * tall + below.sum() + above.sum() + 2 * out
    whole, height = bool(needed <= height), min(height, needed)
    figure.set_size_inches(width, height)
    if caption is not None:
        caption.set_y(_PAD / height)
    sides = (left, right + (share - 1) * wide), (below[::-1], above[::-1])
    _place(panels, (width, height), (wide, tall), sides)
    return whole


def _around(ax: Axes) -> tuple[float, ...]:
    """Return how much room a matrix takes, and what is around it.

    In inches what is left and right of it, below and above; its width with its bar, in its own widths; and the
    lengths in inches of its vertical label, and of that of its bar.
    """
    figure = ax.get_figure(root=True)
    whole = ax.get_tightbbox(for_layout_only=True)
    assert figure is not None
    assert whole is not None
    box, bars = ax.get_window_extent(), ax.child_axes
    end = max([box.x1, *(bar.get_window_extent().x1 for bar in bars)])
    sides = [box.x0 - whole.x0, whole.x1 - end, box.y0 - whole.y0, whole.y1 - box.y1]
    own = ax.yaxis.label.get_window_extent().height
    beside = max([0.0, *(bar.yaxis.label.get_window_extent().height for bar in bars)])
    inches = [float(length / figure.dpi) for length in (*sides, own, beside)]
    return (*inches[:4], float((end - box.x0) / box.width), *inches[4:])


def _place(
    panels: Sequence[Axes],
    size: tuple[float, float],
    box: tuple[float, float],
    sides: tuple[tuple[Array, Array], tuple[Array, Array]],
) -> None:
    """Put matrices where they will be, or nearly: from anywhere else the layout ends with gaps.

    Args:
        panels: the matrices.
        size: of the figure, in inches.
        box: of a matrix.
        sides: room before and after it, of each column from the left and of each row from below.
    """
    (left, right, across), (bottom, top, upwards) = (
        (
            before[0] / whole,
            1 - after[-1] / whole,
            (before[1:] + after[:-1]).sum() / max(1, len(before) - 1) / part,
        )
        for whole, part, (before, after) in zip(size, box, sides, strict=True)
    )
    grid = panels[0].get_gridspec()
    assert isinstance(grid, GridSpec)
    grid.update(left=left, right=right, bottom=bottom, top=top, wspace=across, hspace=upwards)
    for ax in panels:
        place = ax.get_subplotspec()
        assert place is not None
        ax.set_subplotspec(place)
    # To the layout these would be what somebody asks for.
    grid.update(wspace=None, hspace=None)


def _text_height(caption: Text) -> float:
    """Return the height of the caption in inches."""
    return 1.25 * small() / 72 * len(caption.get_text().splitlines())
