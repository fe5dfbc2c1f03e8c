"""Names written at the ends of lines, wherever the axes end up, without covering one another."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

from ..sums import Array
from .style import small

_MARKER, _TEXT, _STUB = 9.0, 14.0, 6.0
"""Points from the right edge of the axes to a label's marker, and to its text; length of a lone sample. For text
of 7 points."""


def spread(wanted: Array, gap: float, low: float, high: float) -> Array:
    """Return places at least `gap` apart, in order, as near to the wanted ones as can be.

    Least squares under the order (isotonic regression); within `low` and `high`
    where there is room.

    Args:
        wanted: `(n,)`, ascending.
        gap: least distance of neighbours.
        low: least place.
        high: greatest place.
    """
    count = len(wanted)
    excess = max(0.0, (count - 1) * gap - (high - low))
    low, high = low - excess / 2, high + excess / 2
    rank = np.arange(count) * gap
    level = _in_order(np.clip(wanted, low, high) - rank)
    result: Array = np.clip(level, low, high - (count - 1) * gap) + rank
    return result


def _in_order(values: Array) -> Array:
    """Return the numbers in ascending order that are nearest by least squares (isotonic regression).

    Each is the largest, over where a run may begin, of the least mean of runs from there beyond it (Robertson,
    Wright and Dykstra 1988, 1.4). Importing SciPy's takes half a second, as long as drawing a figure.
    """
    count = len(values)
    sums = np.concatenate([[0.0], values.cumsum()])
    start, stop = np.ogrid[:count, 1 : count + 1]
    means = np.where(stop > start, (sums[stop] - sums[start]) / np.maximum(stop - start, 1), np.inf)
    least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
    result: Array = np.where(stop > start, least, -np.inf).max(0, initial=-np.inf)
    return result


class EndLabels(Artist):
    """The names of lines, right of the axes at the height of each line's end.

    The places are found anew at each drawing, when the size of the axes and its limits are known.
    """

    def __init__(self, ax: Axes, lines: Sequence[Line2D], names: Sequence[str]) -> None:
        super().__init__()
        self._scale = small() / 7
        self.given = list(zip(lines, names, strict=True))
        self._name(self.given)
        ax.add_artist(self)
        # Else the axes take it for clipped, and the layout leaves no room for it.
        self.set_clip_on(False)
        self._adopt()

    def leave_out(self, numbers: Collection[int]) -> None:
        """Leave out some lines, which are named elsewhere."""
        self.given = [pair for number, pair in enumerate(self.given) if number not in numbers]
        self._name(self.given)
        self._adopt()

    def _name(self, given: Sequence[tuple[Line2D, str]]) -> None:
        named = dict(given)
        self.lines = sorted(named, key=_height)
        self.texts = [
            Text(text=named[line], fontsize=small(), va="center_baseline", parse_math=False)
            for line in self.lines
        ]
        self.leaders = [
            Line2D(
                [],
                [],
                color=line.get_color(),
                linestyle=line.get_linestyle(),
                linewidth=0.8,
                marker=line.get_marker(),
                markersize=line.get_markersize(),
                markevery=[-1],
            )
            for line in self.lines
        ]

    def _adopt(self) -> None:
        assert self.axes is not None
        for child in self.get_children():
            child.set_figure(self.axes.figure)
            child.set_transform(IdentityTransform())

    def get_children(self) -> list[Artist]:
        """Return the artists this one is made of."""
        return [*self.leaders, *self.texts]

    def draw(self, renderer: RendererBase) -> None:
        """Draw the names at their places."""
        if self.get_visible() and self.lines:
            self._place(renderer)
            for child in self.get_children():
                child.draw(renderer)
        self.stale = False

    def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
        """Return the box around all names, in pixels: the room that the layout leaves for them."""
        if not self.lines:
            return Bbox.null()
        self._place(renderer)
        return Bbox.union([text.get_window_extent(renderer) for text in self.texts])

    def _place(self, renderer: RendererBase | None) -> None:
        assert self.axes is not None
        box, point = self.axes.bbox, self.axes.figure.dpi / 72 * self._scale
        ends = [_end(line) for line in self.lines]
        # A line without a single defined value has no end; its name goes to the bottom.
        wanted = np.array([box.y0 if end is None else end[1] for end in ends])
        wanted = np.clip(wanted, box.y0, box.y1)
        gap = max(text.get_window_extent(renderer).height for text in self.texts) + point
        order = np.argsort(wanted, kind="stable")
        places = np.empty_like(wanted)
        places[order] = spread(wanted[order], gap, box.y0, box.y1)
        mark = box.x1 + _MARKER * point
        # Leaders that all come from one point would tell nothing: a stub shows the style of the line.
        together = len(ends) > 1 and np.ptp(wanted) < gap / 2
        for row, (end, place) in enumerate(zip(ends, places.tolist(), strict=True)):
            # Nor would a leader from a line that ends before the others: it would look like the line.
            lead = None if together or (end and end[0] < box.x1 - 0.1 * box.width) else end
            start = (mark - _STUB * point, place) if lead is None else (lead[0], wanted[row])
            self.leaders[row].set_data([start[0], mark], [start[1], place])
            self.texts[row].set_position((box.x1 + _TEXT * point, place))


def _end(line: Line2D) -> tuple[float, float] | None:
    """Return the last defined point of a line in pixels."""
    data = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
    defined = data[np.isfinite(data).all(1)]
    if not len(defined):
        return None
    x, y = line.get_transform().transform(defined[-1])
    return float(x), float(y)


def _height(line: Line2D) -> tuple[float, float]:
    """Return a key that sorts lines by their ends, and by their mean height where the ends are equal."""
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    defined = np.isfinite(y)
    if not defined.any():
        return -np.inf, 0.0
    mean = np.interp(np.linspace(0.0, 1.0, 101), x[defined], y[defined]).mean()
    return float(np.round(y[defined][-1], 9)), float(mean)
