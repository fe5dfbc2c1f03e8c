"""Every number that two results both hold, their differences, and the errors of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..sums import FOLDS, Array, Quantity, cosine
from . import means
from .jackknife import MIN_FOLDS, Products, errors, t_p_value
from .pairing import Common, Place
from .result import Result
from .similarities import SAME

TOLERANCE = 0.1
"""Of the standard error over images: a shift this small adds half a percent to what is uncertain in any case, as
sqrt(1 + 0.1^2) = 1.005, and changes no conclusion."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers of one quantity that both results hold, as flat arrays.

    Attributes:
        quantity: as the first result says of it.
        places: for each number where it is: one place, or the two of a pair.
        here: of the first result.
        there: of the second.
        own: standard errors over images, the smaller of both results'; NaN where there is none.
        se: standard errors of the differences.
        p: two-sided probability of such a difference where there is none, not corrected; NaN without an error.
        rounding: differences that rounding alone can make.
        paired: whether both saw the same images.
    """

    quantity: Quantity
    places: Sequence[tuple[Place, ...]]
    here: Array
    there: Array
    own: Array
    se: Array
    p: Array
    rounding: Array
    paired: bool

    @property
    def difference(self) -> Array:
        """Second minus first; NaN where one is undefined."""
        result: Array = self.there - self.here
        return result

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        """Which are undefined in one of them alone."""
        result: npt.NDArray[np.bool_] = np.isnan(self.here) != np.isnan(self.there)
        return result

    @property
    def negligible(self) -> npt.NDArray[np.bool_]:
        """Which differ by less than rounding makes, or than `TOLERANCE` of their error over images."""
        least = np.fmax(TOLERANCE * self.own, self.rounding)
        result: npt.NDArray[np.bool_] = np.abs(self.difference) <= least
        return result


def numbers(common: Common, *, paired: bool) -> Iterator[Numbers]:
    """Yield the numbers of each quantity.

    Args:
        common: what the results have in common.
        paired: whether the images of each fold are the same in both, so that the error of a difference leaves a
            fold out of both at a time; else it is that of independent images.
    """
    for quantity, other in common.quantities():
        places, rows, others = common.places(quantity.axes[0], other.axes[0])
        if not places:
            continue
        if quantity.estimator == "share":
            yield _shares(common, quantity, places, (rows, others), paired)
        else:
            both = (
                _replicates(common.first, quantity, rows),
                _replicates(common.second, other, others),
            )
            yield _jackknifed(quantity, places, both, paired)


def _replicates(
    result: Result, quantity: Quantity, rows: npt.NDArray[np.intp]
) -> tuple[Array, Array]:
    """Return a quantity at some places, or at the pairs of them, and without each fold: `(1 + g, K)`.

    With the degrees of freedom of its errors.
    """
    filled = result.sums["images"] > 0
    first, second = np.triu_indices(len(rows), 1)
    if quantity.estimator == "cosine":
        total, removed = (result.sums[quantity.sum(part)] for part in ("products", "removed"))
        products = Products(total, removed[filled]).of(rows)
        found = products.replicates(lambda products: cosine(products)[first, second])
    else:
        block = np.ix_(np.flatnonzero(filled), *[rows] * len(quantity.axes))
        sums = [result.sums[path][block] for path in quantity.quotient]
        flat = [each.reshape(len(each), -1) for each in sums]
        found = means.leave_one_out(*flat)
        if quantity.estimator == "fraction":
            return found, means.freedom_of(flat[1])
    return found, np.full(found.shape[1:], len(found) - 2.0)


def _jackknifed(
    quantity: Quantity,
    places: list[Place],
    both: tuple[tuple[Array, Array], tuple[Array, Array]],
    paired: bool,
) -> Numbers:
    """Return the numbers of what is measured by folds."""
    is_similarity = quantity.estimator == "cosine"
    least = MIN_FOLDS if is_similarity else means.MIN_FOLDS
    (first, freedom), (second, other) = both
    here, there = first[0], second[0]
    own = [errors(each[1:], least) for each in (first, second)]
    if paired:
        se, over = errors(second[1:] - first[1:], least), np.minimum(freedom, other) + 1
    else:
        se, over = _independent(own, [freedom, other])
    size = np.ones_like(here) if is_similarity else np.fmax(np.abs(here), np.abs(there))
    return Numbers(
        quantity,
        _named(places, len(quantity.axes), is_similarity),
        here,
        there,
        np.fmin(*own),
        se,
        _p_values(there - here, se, over),
        SAME * size,
        paired,
    )


def _shares(
    common: Common,
    quantity: Quantity,
    places: list[Place],
    rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
    paired: bool,
) -> Numbers:
    """Return shares, with binomial errors: which images count is not stored, so that none are paired."""
    found, own = [], []
    for result, at in zip((common.first, common.second), rows, strict=True):
        hits, trials = (result.sums[quantity.sum(part)][at] for part in ("hits", "trials"))
        share = hits / np.where(trials > 0, trials, np.nan)
        found.append(share)
        own.append(np.sqrt(share * (1 - share) / trials))
    here, there = found
    se = np.hypot(*own)
    p_values = _p_values(there - here, se, np.inf)
    named = [(place,) for place in places]
    rounding = np.full_like(se, SAME)
    return Numbers(quantity, named, here, there, np.fmin(*own), se, p_values, rounding, paired)


def _independent(own: list[Array], freedom: list[Array]) -> tuple[Array, Array]:
    """Return the error of a difference of independent numbers, and folds that stand for its degrees of freedom.

    These are Welch and Satterthwaite's.
    """
    squares = [each**2 for each in own]
    parts = [square**2 / each for square, each in zip(squares, freedom, strict=True)]
    se = np.sqrt(squares[0] + squares[1])
    over = (squares[0] + squares[1]) ** 2 / np.where(sum(parts) > 0, sum(parts), np.nan) + 1
    return se, np.where(np.isnan(over) & (se == 0), FOLDS, over)


def _p_values(difference: Array, se: Array, over: Array | float) -> Array:
    """Return the probability of such differences; 1 of none, whatever its error."""
    result: Array = np.where(
        (difference == 0) & np.isfinite(se), 1.0, t_p_value(difference, se, over)
    )
    return result


def _named(places: list[Place], axes: int, upper: bool) -> list[tuple[Place, ...]]:
    """Return where each number is, of one axis, or of the pairs of two."""
    if axes == 1:
        return [(place,) for place in places]
    if not upper:
        return [(place, other) for place in places for other in places]
    first, second = np.triu_indices(len(places), 1)
    return [(places[i], places[j]) for i, j in zip(first, second, strict=True)]
