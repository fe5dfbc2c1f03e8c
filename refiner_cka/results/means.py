"""Means over images with their errors, in NumPy alone."""

from __future__ import annotations

import numpy as np

from ..sums import Array
from .estimate import Estimate
from .jackknife import Band, critical, errors, t_quantile

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
    found = leave_one_out(total, images)
    has, folds = images > 0, (images > 0).sum(0)
    several = np.where(folds > 1, folds, np.nan)
    # A place where some folds have no image has fewer replicates than others.
    centre = np.where(has, found[1:], 0.0).sum(0) / several
    spread = np.where(has, (found[1:] - centre) ** 2, 0.0).sum(0)
    se = np.sqrt((several - 1) / several * spread)
    flat, filled = found[1:].reshape(len(has), -1), has.reshape(len(has), -1).any(1)
    reach = critical(flat[filled], band)
    # Where fewer folds have images than elsewhere the quantile of one place alone is larger.
    margin = np.maximum(t_quantile(folds), reach) * se
    values = found[0]
    most = int(folds.max(initial=0))
    counts, ends = images.sum(0), (values - margin, values + margin)
    return Estimate(values, se, *ends, depth, most, images=counts, band=band)


def mean_contrast(
    first: tuple[Array, Array], second: tuple[Array, Array], band: Band = "pointwise"
) -> Estimate:
    """Return the difference of two means over the same images along depth, with its paired jackknife error.

    Args:
        first: sums of the values and of the images in each fold `(g, 2, L)`, and relative depth `(L,)`; folds
            and layers without images left out.
        second: the same, of what is taken away, in the same folds.
        band: whether intervals hold for each depth, or for all at once.
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
    margin = critical(replicates, band) * se
    ends = values - margin, values + margin
    return Estimate(values, se, *ends, depth, folds=len(replicates), band=band)


def leave_one_out(total: Array, images: Array) -> Array:
    """Return the mean over all images, and without each fold: `(1 + g, ...)`; NaN where nothing is left."""
    none = np.zeros_like(total[:1])
    count = images.sum(0) - np.concatenate([none, images])
    remaining = total.sum(0) - np.concatenate([none, total])
    result: Array = remaining / np.where(count > 0, count, np.nan)
    return result
