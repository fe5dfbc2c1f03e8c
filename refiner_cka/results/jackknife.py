"""Errors from leaving out one fold of images at a time, and the quantiles that make intervals of them.

With theta_f the statistic without fold f, SE^2 = (g - 1)/g x sum over the g non-empty folds of (theta_f - their
mean)^2, and an interval takes Student's quantile with g - 1 degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ResultError
from ..sums import Array

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

MIN_FOLDS = 12
"""With fewer non-empty folds an error of a similarity says too little: it is NaN and no band is drawn. An image
is a fold of its own up to 20 of them, so this is also the least number of images."""

CONFIDENCE = 0.95
"""Two-sided confidence of every interval."""

_BELOW_1 = 1.0 - 2.0**-53

Band = Literal["pointwise", "simultaneous"]
"""Whether an interval holds with 95 % for each layer, or for all of a curve at once."""

BANDS: tuple[Band, ...] = ("pointwise", "simultaneous")

_DRAWS = 20_000
"""Of the largest of many correlated normal numbers: its 95 % quantile is then right to about 0.01."""

_NEAR = 0.01
"""Draws that differ by less are taken together."""

_CLOSE = 1e-4
"""Where a secant that moves by less has found its place: by the square of that."""

Statistic = Callable[[Array], Array]
"""From products `(L, L)` to an array."""


@dataclass(frozen=True, eq=False)
class Products:
    """Summed products of pairs of layers, and what leaving out each fold of images takes away from them.

    Attributes:
        total: `(L, L)`.
        removed: `(g, L, L)`, of the non-empty folds.
    """

    total: Array
    removed: Array

    @property
    def folds(self) -> int:
        """How many folds hold images."""
        return len(self.removed)

    def of(self, rows: npt.NDArray[np.intp]) -> Products:
        """Return those of some layers."""
        return Products(self.total[np.ix_(rows, rows)], self.removed[:, rows[:, None], rows])

    def replicates(self, statistic: Statistic) -> Array:
        """Return a statistic of everything, and without each fold in turn: `(1 + g, ...)`."""
        return np.stack(
            [statistic(self.total), *(statistic(self.total - each) for each in self.removed)]
        )

    def se(self, statistic: Statistic) -> Array:
        """Return the standard error of a statistic, of its shape; NaN with fewer than `MIN_FOLDS` folds.

        Unlike in `replicates` only two arrays of that shape are alive, however many folds there are.
        """
        estimate, folds = statistic(self.total), self.folds
        if folds < MIN_FOLDS:
            return np.full_like(estimate, np.nan)
        # Deviations from the full estimate are small, so their second moment loses no digits.
        first, second = np.zeros_like(estimate), np.zeros_like(estimate)
        for removed in self.removed:
            deviation = statistic(self.total - removed) - estimate
            first += deviation
            second += deviation**2
        variance = (folds - 1) / folds * (second - first**2 / folds)
        result: Array = np.sqrt(np.maximum(variance, 0.0))
        return result


def covariance(replicates: Array, least: int = MIN_FOLDS) -> Array:
    """Return the covariance `(K, K)` of leave-one-out replicates `(g, K)`; NaN with fewer than `least`."""
    folds, size = replicates.shape
    if folds < least:
        return np.full((size, size), np.nan)
    centred = replicates - replicates.mean(0)
    result: Array = (folds - 1) / folds * centred.T @ centred
    return result


def errors(replicates: Array, least: int = MIN_FOLDS) -> Array:
    """Return standard errors `(K,)` from leave-one-out replicates `(g, K)`; NaN with fewer than `least`."""
    folds = len(replicates)
    if folds < least:
        return np.full(replicates.shape[1:], np.nan)
    result: Array = np.sqrt((folds - 1) * replicates.var(0))
    return result


def artanh(values: Array) -> Array:
    """Return the inverse hyperbolic tangent of values that at most rounding puts beyond -1 and 1: it is finite."""
    result: Array = np.arctanh(np.clip(values, -_BELOW_1, _BELOW_1))
    return result


def tanh_ends(values: Array, scaled: Array, margin: Array) -> tuple[Array, Array]:
    """Return the ends of intervals on the scale of artanh; those of -1 and 1, as of identical layers, are points.

    Args:
        values: between -1 and 1, any shape.
        scaled: their `artanh`.
        margin: how far the intervals reach on that scale; NaN without an error.
    """
    same = (np.abs(values) >= _BELOW_1) & np.isfinite(margin)
    lower, upper = (np.where(same, values, np.tanh(scaled + sign * margin)) for sign in (-1, 1))
    return lower, upper


def t_quantile(folds: int | Array) -> Array:
    """Return the two-sided Student quantile for `CONFIDENCE`, one degree of freedom fewer than folds.

    NaN for fewer than two folds.
    """
    from scipy.special import stdtrit

    several = np.where(np.asarray(folds) > 1, folds, np.nan)
    result: Array = stdtrit(several - 1, 0.5 + CONFIDENCE / 2)
    return result


def t_p_value(values: Array, se: Array, folds: float | Array) -> Array:
    """Return two-sided p-values of values that are 0 in truth; NaN without an error."""
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = 2 * stdtr(folds - 1, -np.abs(values / se))
    return result


def critical(replicates: Array, band: Band) -> float:
    """Return how many standard errors an interval reaches to either side.

    For a simultaneous band: the quantile of the largest |N(0, R)| over the layers, R the correlation of the
    replicates, each draw over one and the same sqrt(chi^2 / degrees of freedom) (max-t).

    Args:
        replicates: `(g, K)`, leaving out one fold each.
        band: pointwise or simultaneous.

    Raises:
        ResultError: no such band.
    """
    if band not in BANDS:
        raise ResultError(f"unknown band {band!r}; choose {' or '.join(BANDS)}")
    folds = len(replicates)
    pointwise = float(t_quantile(folds))
    if band == "pointwise" or folds < 2:
        return pointwise
    # The mean of equal numbers rounds, so what does not vary would count as one more layer by its deviations.
    varies = np.isfinite(replicates).all(0) & (replicates.max(0) > replicates.min(0))
    if not varies.any():
        return pointwise
    # In units of the largest, so that no sum overflows and no square vanishes.
    scaled = replicates[:, varies] / np.abs(replicates[:, varies]).max(0)
    centred = scaled - scaled.mean(0)
    # One row for each layer: the largest of rows is found ten times as fast as that of columns.
    with _blas().limit(limits=1):
        drawn = (centred / np.linalg.norm(centred, axis=0)).T @ _normal(folds).T
    return _reach(np.abs(drawn, out=drawn).max(0), len(drawn), folds - 1)


def _reach(largest: Array, layers: int, freedom: int) -> float:
    """Return what the largest goes beyond as often as it may.

    Solved for the logarithm of how often one layer goes beyond it, which that of the largest is nearly
    proportional to: the secant method tries about five places.

    Args:
        largest: `(draws,)`, of |N(0, R)| over the layers.
        layers: how many.
        freedom: degrees of freedom of what it is divided by.
    """
    from scipy.special import chdtr, stdtrit

    # Draws as near as that stand for one another by their mean: right to 1e-5, where draws leave 0.01.
    bins = (largest / _NEAR).astype(int)
    count = np.bincount(bins)
    there = count > 0
    typical, share = np.bincount(bins, largest)[there] / count[there], count[there] / len(largest)

    def place(often: float) -> float:
        """What one layer goes beyond that often."""
        return float(-stdtrit(freedom, np.exp(often) / 2))

    def excess(often: float) -> float:
        """How much more often the largest goes beyond that than it may."""
        beyond = chdtr(freedom, freedom * (typical / place(often)) ** 2) @ share
        return float(np.log(beyond / (1 - CONFIDENCE)))

    most = float(np.log(1 - CONFIDENCE))
    # From Bonferroni's bound, and a half for the chance of the draws.
    often = _root(excess, most, most - float(np.log(2 * layers)))
    return place(min(often, most))


def _root(function: Callable[[float], float], first: float, second: float) -> float:
    """Return where a nearly straight function is 0, by the secant method: SciPy's takes long to import."""
    before, value = function(first), function(second)
    while abs(second - first) > _CLOSE and value != before:
        step = value * (second - first) / (value - before)
        first, second = second, second - step
        before, value = value, function(second)
    return second


@cache
def _blas() -> ThreadpoolController:
    """Return what limits the threads of products: after a short one they wait busily, where others could work."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def _normal(columns: int) -> Array:
    """Return `(draws, columns)` normal numbers, the same for all platforms and NumPy versions."""
    from scipy.special import ndtri

    # PCG64's raw stream is fixed (NEP 19), as NumPy's own normal numbers are not.
    raw = np.random.PCG64(0).random_raw(_DRAWS * columns)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    result: Array = ndtri(uniform).reshape(_DRAWS, columns)
    result.setflags(write=False)
    return result
