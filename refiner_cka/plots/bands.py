"""Bands of curves: how well each layer is known, and the whole curve; and where unrelated images would lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from ..errors import ResultError, known_names
from ..results.chance import Null
from ..results.estimate import Estimate
from ..results.jackknife import CONFIDENCE
from ..sums import Array, relative_depth
from .models import Line

VISIBLE = 0.01
"""Share of the vertical axis below which the band of chance is but a line: it is left out."""

CHANCE = "0.86"
"""Its grey."""


Bands = Literal["both", "pointwise", "simultaneous", "none"]
"""Which bands are drawn: for each layer, for the whole curve, both where both are known, or none."""


class Curve(NamedTuple):
    """A curve and what surrounds it.

    Attributes:
        each: with the interval of each layer.
        whole: with intervals that hold for all layers at once; `None` where there are none.
        thin: single trainings, or pairs of them, whose mean it is.
        inner: whether the intervals of each layer are drawn.
    """

    each: Estimate
    whole: Estimate | None = None
    thin: tuple[Estimate, ...] = ()
    inner: bool = True

    def along(self, x: Axis) -> Curve:
        """Return it over relative depth, or over the number of the block."""
        if x not in get_args(Axis):
            raise ResultError(f"no axis {x!r}: {known_names(x, get_args(Axis))}")
        if x == "depth":
            return self
        each, *thin = (_numbered(each) for each in (self.each, *self.thin))
        return Curve(each, self.whole and _numbered(self.whole), tuple(thin), self.inner)

    def within(self, bands: Bands) -> Curve:
        """Return it with the bands that are wanted; over trainings there is one alone."""
        if bands not in get_args(Bands):
            known = known_names(bands, get_args(Bands))
            raise ResultError(f"no bands {bands!r}: {known}")
        whole = self.whole if bands in ("both", "simultaneous") else None
        inner = bands in ("both", "pointwise") or (bands == "simultaneous" and self.whole is None)
        return self._replace(whole=whole, inner=inner)


Axis = Literal["depth", "block"]
"""What curves are over: relative depth, or the number of the block."""


def _numbered(estimate: Estimate) -> Estimate:
    return replace(estimate, depth=np.arange(len(estimate.depth), dtype=float))


def curve_of(line: Line, ask: Callable[..., Estimate]) -> Curve:
    """Return the curve of a model with both of its bands, or that of a group with its trainings.

    Args:
        line: the model or group.
        ask: gives the curve of a name, with a `band`.
    """
    trainings = line.result.groups.get(line.name, ())
    # Errors over a few trainings have no band for the whole curve.
    whole = None if trainings else ask(line.name, band="simultaneous")
    return Curve(ask(line.name), whole, tuple(ask(model) for model in trainings))


def with_spread(curve: Estimate) -> Estimate:
    """Return a mean over trainings with one standard deviation to either side; anything else as it is."""
    if curve.over == "images" or curve.spread is None:
        return curve
    return replace(curve, lower=curve.values - curve.spread, upper=curve.values + curve.spread)


def is_bounded(estimate: Estimate) -> npt.NDArray[np.bool_]:
    """Return where an interval has two ends."""
    bounded: npt.NDArray[np.bool_] = np.isfinite(estimate.lower) & np.isfinite(estimate.upper)
    return bounded


def draw_band(ax: Axes, estimate: Estimate, colour: Any, of: int, *, under: bool = False) -> None:
    """Draw the band of one of so many curves: filled, or outlined if it is over trainings.

    One that lies `under` another is lighter.
    """
    bounded = is_bounded(estimate)
    if bounded.sum() < 2:  # s(first) is 1 whatever is known, and alone no band
        return
    # Many bands on one another would hide the lines.
    alpha = 0.2 * min(1.0, 4 / of)
    if estimate.over == "trainings":
        look = {
            "facecolor": (colour, alpha / 3),
            "edgecolor": colour,
            "linewidth": 0.6,
            "linestyle": (0.0, (1.0, 1.5)),
        }
    elif under:
        look = {"color": colour, "alpha": alpha / 2, "linewidth": 0.0, "zorder": 0.9}
    else:
        look = {"color": colour, "alpha": alpha, "linewidth": 0.0}
    ends = estimate.depth, estimate.lower, estimate.upper
    ax.fill_between(*ends, where=bounded.tolist(), **look)


@dataclass(frozen=True, eq=False)
class Chance:
    """Between what the similarity of unrelated images lies with 95 %, over relative depth.

    Attributes:
        depth: `(K,)`.
        lower: `(K,)`.
        upper: `(K,)`.
        rough: whether it is approximate somewhere, few images carrying it.
    """

    depth: Array
    lower: Array
    upper: Array
    rough: bool

    @classmethod
    def around(cls, nulls: Iterable[Null], x: Axis = "depth") -> Chance | None:
        """Return what encloses chance of all curves, or `None` where nothing is known of it.

        Args:
            nulls: chance of the pairs of each model's layers `(L, L')`, of which the last column is taken.
            x: what it is over.
        """
        tail = (1 - CONFIDENCE) / 2
        found, rough = [], False
        for null in nulls:
            ends = np.stack([null.quantile(share)[:, -1] for share in (tail, 1 - tail)])
            known = np.isfinite(ends.sum(0))
            if known.any():
                places = relative_depth(len(known)) if x == "depth" else np.arange(len(known))
                found.append((places[known], ends[:, known]))
                rough |= bool(null.rough[known, -1].any())
        if not found:
            return None
        depth = np.unique(np.concatenate([own for own, _ in found]))
        both = np.array([[np.interp(depth, own, end) for end in ends] for own, ends in found])
        return cls(depth, both[:, 0].min(0), both[:, 1].max(0), rough)

    @classmethod
    def of(
        cls,
        lines: Sequence[Line],
        other: str | None = None,
        *,
        tokens: str | None,
        index: str,
        x: Axis = "depth",
    ) -> Chance | None:
        """Return what encloses chance of all trainings of all lines, with their last layers or a reference."""
        return cls.around(
            (
                line.result.null(model, other, tokens=tokens, index=index)
                for line in lines
                for model in line.trainings
            ),
            x,
        )

    def draw(self, ax: Axes) -> str:
        """Draw it on axes with limits, and return what to say of it: nothing where it is too thin to see."""
        low, high = ax.get_ylim()
        level = f"95 %{', approximate' if self.rough else ''}"
        if self.upper.max() < low:
            return f"unrelated images lie below {self.upper.max():.2g} ({level})"
        if max(-self.lower.min(), self.upper.max()) < VISIBLE * (high - low):
            return ""
        look: dict[str, Any] = {"color": CHANCE, "linewidth": 0.0, "zorder": 0.5}
        ax.fill_between(self.depth, self.lower, self.upper, **look)
        return f"grey: where unrelated images lie ({level})"
