"""Means over images, and fractions of sums over them, with their errors, in NumPy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..sums import Array
from .estimate import Estimate
from .jackknife import Band, artanh, critical, errors, t_quantile, tanh_ends

MIN_FOLDS = 2
"""A mean of few images has an honest error: with one image a fold it is the usual one."""


def means(total: Array, images: Array, depth: Array, band: Band = "pointwise") -> Estimate:
    """Return means over images with their jackknife errors, NaN where fewer than two folds have a value.

    Args:
        total: `(g, ...)`, sums of the values over the images of each fold.
        images: the same shape, how many images these are.
        depth: `(L,)`, relative depth.
        band: whether intervals hold for each place, or for all at once.
    """
    found, has = leave_one_out(total, images), images > 0
    values, se, folds = found[0], _errors(found[1:], has), has.sum(0)
    # A place where some folds have no image has fewer degrees of freedom than others.
    margin = _reach(found[1:], has, folds - 1, band) * se
    ends, most = (values - margin, values + margin), int(folds.max(initial=0))
    return Estimate(values, se, *ends, depth, most, images=images.sum(0), band=band)


def fractions(
    part: Array, whole: Array, images: Array, depth: Array, band: Band = "pointwise"
) -> Estimate:
    """Return part / whole, each summed over all images, with their jackknife errors.

    Intervals are on the scale of the logit, artanh of 2 x - 1 but for a factor: they lie between 0 and 1.

    Args:
        part: `(g, ...)`, sums over the images of each fold.
        whole: the same shape, of what it is a part of.
        images: the same shape, how many images these are.
        depth: `(L,)`, relative depth.
        band: whether intervals hold for each place, or for all at once.
    """
    found, has, freedom = leave_one_out(part, whole), images > 0, freedom_of(whole)
    scaled = artanh(2 * found - 1)
    margin = _reach(scaled[1:], has, freedom, band) * _errors(scaled[1:], has)
    lower, upper = ((1 + end) / 2 for end in tanh_ends(2 * found[0] - 1, scaled[0], margin))
    return Estimate(
        found[0],
        _errors(found[1:], has),
        lower,
        upper,
        depth,
        int(has.sum(0).max(initial=0)),
        images=images.sum(0),
        band=band,
        freedom=freedom,
    )


def mean_contrast(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    band: Band = "pointwise",
    *,
    of_fractions: bool = False,
) -> Estimate:
    """Return the difference of two means over the same images along depth, with its paired jackknife error.

    Args:
        first: sums of the values and of the images in each fold `(g, 2, L)`, and relative depth `(L,)`; folds
            and layers without images left out.
        second: the same, of what is taken away, in the same folds.
        band: whether intervals hold for each depth, or for all at once.
        of_fractions: whether the sums are of parts and wholes; the difference then has the degrees of freedom of
            the one that has fewer.
    """
    depth = np.union1d(first[1], second[1])
    one, two = (
        np.array(
            [np.interp(depth, own, values) for values in leave_one_out(sums[:, 0], sums[:, 1])]
        )
        for sums, own in (first, second)
    )
    values, replicates = (one - two)[0], (one - two)[1:]
    se = errors(replicates, MIN_FOLDS)
    margin, freedom = critical(replicates, band) * se, None
    if of_fractions:
        each = [np.interp(depth, own, freedom_of(sums[:, 1])) for sums, own in (first, second)]
        freedom = np.minimum(*each)
        margin = margin * t_quantile(freedom + 1) / t_quantile(len(replicates))
    ends = values - margin, values + margin
    folds = len(replicates)
    return Estimate(values, se, *ends, depth, folds=folds, band=band, freedom=freedom)


def leave_one_out(total: Array, images: Array) -> Array:
    """Return total / images of everything, and without each fold: `(1 + g, ...)`; NaN where nothing is left."""
    with np.errstate(invalid="ignore"):  # what is inf makes NaN of sums that it has no part in
        count = _without(images)
        result: Array = _without(total) / np.where(count > 0, count, np.nan)
    return result


def freedom_of(whole: Array) -> Array:
    """Return the degrees of freedom of the errors of fractions, from sums of each fold `(g, ...)`.

    Satterthwaite's, for parts that stray in proportion to the wholes, as for regressions that few observations
    decide (Bell & McCaffrey 2002): g - 1 of folds alike, about 1 where all hangs on a single one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.abs(whole / _without(whole)[1:])
        moved = (moved / moved.max(0)) ** 2
        folds = np.count_nonzero(whole, 0)
        result: Array = (folds - 1) / folds * moved.sum(0) ** 2 / (moved**2).sum(0)
    return result


def _without(sums: Array) -> Array:
    """Return the sum of all folds, and of all but each: `(1 + g, ...)`.

    Added up, not taken away: where one fold holds nearly everything nothing would be left but rounding.
    """
    folds = len(sums)
    remaining = np.concatenate([np.ones((1, folds)), 1 - np.eye(folds)])
    result: Array = np.tensordot(remaining, sums, 1)
    return result


def _errors(replicates: Array, has: npt.NDArray[np.bool_]) -> Array:
    """Return standard errors from values without each fold `(g, ...)`, of the folds that have a value there."""
    folds = has.sum(0)
    several = np.where(folds > 1, folds, np.nan)
    centre = np.where(has, replicates, 0.0).sum(0) / several
    spread = np.where(has, (replicates - centre) ** 2, 0.0).sum(0)
    result: Array = np.sqrt((several - 1) / several * spread)
    return result


def _reach(replicates: Array, has: npt.NDArray[np.bool_], freedom: Array, band: Band) -> Array:
    """Return how many standard errors intervals reach: farther where there are fewer degrees of freedom.

    Args:
        replicates: `(g, ...)`.
        has: the same shape, which folds have a value.
        freedom: `(...)`.
        band: see `means`.
    """
    filled = has.reshape(len(has), -1).any(1)
    reach = critical(replicates.reshape(len(has), -1)[filled], band)
    result: Array = reach * t_quantile(freedom + 1) / t_quantile(int(filled.sum()))
    return result
