"""From sums to numbers: CKA, jackknife errors, curves and contrasts, in NumPy alone.

Most of it is of products, float64 of shape `(folds, L, L)`: for each fold of batches the sum over its batches of
`<U(K_i), U(K_j)>`, the products of U-centred Gram matrices of layers i and j. An estimate uses the total over
folds; its error comes from leaving out one fold at a time. Folds that hold nothing are left out before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from ..errors import ResultError
from ..sums import Array, cosine, relative_depth
from .estimate import Estimate

Normalize = Literal["first-last", "min-max", "none"]
NORMALIZATIONS: tuple[Normalize, ...] = ("first-last", "min-max", "none")

MIN_FOLDS = 5
"""With fewer non-empty folds a jackknife error says too little: it is NaN and no band is drawn."""

RESOLVED = 5.0
"""A normalised curve is resolved if its denominator lies at least this many standard errors above 0."""

CONFIDENCE = 0.95
"""Two-sided confidence of every interval."""


def jackknife_se(sums: Array, statistic: Callable[[Array], Array]) -> Array:
    """Return the delete-a-fold jackknife standard error of a statistic of the summed products.

    SE^2 = (g - 1)/g x sum over folds of (theta without the fold - their mean)^2.

    Args:
        sums: `(g, ...)`, the non-empty folds only.
        statistic: from a total to an array.

    Returns:
        The shape of the statistic; NaN with fewer than `MIN_FOLDS` folds.
    """
    total = sums.sum(0)
    estimate = statistic(total)
    folds = len(sums)
    if folds < MIN_FOLDS:
        return np.full_like(estimate, np.nan)
    # Deviations from the full estimate are small, so their second moment loses no digits; and only two
    # arrays of the statistic's size are alive, however many folds there are.
    first, second = np.zeros_like(estimate), np.zeros_like(estimate)
    for fold in sums:
        deviation = statistic(total - fold) - estimate
        first += deviation
        second += deviation**2
    variance = (folds - 1) / folds * (second - first**2 / folds)
    result: Array = np.sqrt(np.maximum(variance, 0.0))
    return result


def jackknife_covariance(replicates: Array) -> Array:
    """Return the jackknife covariance `(K, K)` of leave-one-out replicates `(g, K)`.

    NaN with fewer than `MIN_FOLDS` replicates.
    """
    folds, size = replicates.shape
    if folds < MIN_FOLDS:
        return np.full((size, size), np.nan)
    centred = replicates - replicates.mean(0)
    result: Array = (folds - 1) / folds * centred.T @ centred
    return result


def t_quantile(folds: int | Array) -> Array:
    """Return the two-sided Student quantile for `CONFIDENCE` with one degree of freedom fewer than folds.

    NaN for fewer than two, and what there is of images in the place of folds.
    """
    from scipy.special import stdtrit

    several = np.where(np.asarray(folds) > 1, folds, np.nan)
    result: Array = stdtrit(several - 1, 0.5 + CONFIDENCE / 2)
    return result


def interval(values: Array, se: Array, depth: Array, folds: int, resolved: bool = True) -> Estimate:
    """Return an estimate with Student's interval of an error that rests on so many folds."""
    margin = t_quantile(folds) * se
    return Estimate(
        values, se, values - margin, values + margin, depth, folds=folds, resolved=resolved
    )


def fieller(
    numerator: Array, denominator: float, var_n: Array, var_d: float, cov: Array, t: float
) -> tuple[Array, Array]:
    """Return Fieller's confidence interval of the ratios numerator / denominator.

    The set of ratios r for which numerator - r x denominator lies within t standard errors of 0
    (Fieller 1954). Where the denominator itself is within t standard errors of 0 the set is unbounded:
    (-inf, inf).

    Args:
        numerator: `(L,)`.
        denominator: common denominator.
        var_n: `(L,)`, variances of the numerators.
        var_d: variance of the denominator.
        cov: `(L,)`, covariances of numerators and denominator.
        t: quantile of Student's distribution.
    """
    a = denominator**2 - t**2 * var_d
    b = numerator * denominator - t**2 * cov
    c = numerator**2 - t**2 * var_n
    if np.isnan(a):
        return np.full_like(numerator, np.nan), np.full_like(numerator, np.nan)
    if a <= 0:
        return np.full_like(numerator, -np.inf), np.full_like(numerator, np.inf)
    # Below 0 only by rounding, where the interval is a point (the first layer: ratio 1 exactly).
    half_width = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    return (b - half_width) / a, (b + half_width) / a


def curve_values(products: Array, normalize: Normalize) -> Array:
    """Return CKA of each layer with the last, `(L,)`, normalised as asked.

    `first-last` divides by CKA(first, last), so the curve starts at 1 (arXiv 2106.03714, fig. 2); `min-max`
    maps the least value to 0 and the greatest to 1; `none` leaves CKA as it is.

    Raises:
        ResultError: no such normalisation.
    """
    values: Array = cosine(products)[:, -1]
    if normalize == "first-last":
        values = values / (values[0] or np.nan)
    elif normalize == "min-max":
        # A degenerate layer in between is NaN itself and must not take the others with it.
        finite = values[np.isfinite(values)]
        spread = np.ptp(finite) if len(finite) else 0.0
        values = (values - finite.min()) / spread if spread else np.full_like(values, np.nan)
    elif normalize != "none":
        known = ", ".join(NORMALIZATIONS)
        raise ResultError(f"unknown normalisation {normalize!r}; choose one of {known}")
    return values


def _replicates(sums: Array, statistic: Callable[[Array], Array]) -> Array:
    """Return the statistic `(K,)` of the total, then without each fold in turn: `(1 + g, K)`."""
    total = sums.sum(0)
    return np.stack([statistic(total - fold) for fold in (0.0, *sums)])


def curve(sums: Array, normalize: Normalize) -> Estimate:
    """Return one model's similarity to its last layer with its errors; Fieller's interval for `first-last`.

    Args:
        sums: `(g, L, L)`, the model's own block of the products, non-empty folds only.
        normalize: see `curve_values`.
    """
    depth = relative_depth(sums.shape[1])
    se = jackknife_se(sums, lambda products: curve_values(products, normalize))
    found = interval(curve_values(sums.sum(0), normalize), se, depth, len(sums))
    if normalize != "first-last":
        return found
    replicates = _replicates(sums, lambda products: curve_values(products, "none"))
    raw, covariance = replicates[0], jackknife_covariance(replicates[1:])
    variance = np.diagonal(covariance)
    t = float(t_quantile(len(sums)))
    lower, upper = fieller(raw, raw[0], variance, variance[0], covariance[0], t)
    resolved = bool(raw[0] >= RESOLVED * np.sqrt(variance[0]))
    return replace(found, lower=lower, upper=upper, resolved=resolved)


def contrast(sums_a: Array, sums_b: Array, normalize: Normalize) -> Estimate:
    """Return the difference of two models' curves over relative depth with its paired error.

    Both models saw the same images, so the error is far smaller than the two errors added.

    Args:
        sums_a: `(g, La, La)`, first model's block, non-empty folds only.
        sums_b: `(g, Lb, Lb)`, second model's block, the same folds.
        normalize: see `curve_values`.

    Returns:
        First minus second at the union of both models' relative depths; between these curves are interpolated
        linearly. Resolved if both curves are.
    """
    first, second = ((sums, relative_depth(sums.shape[1])) for sums in (sums_a, sums_b))
    resolved = all(curve(sums, normalize).resolved for sums in (sums_a, sums_b))
    return _difference(first, second, lambda total: curve_values(total, normalize), resolved)


def _difference(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    statistic: Callable[[Array], Array],
    resolved: bool = True,
) -> Estimate:
    """Return the paired difference of a statistic of two models, each given by its sums and its depths."""
    depth = np.union1d(first[1], second[1])
    one, two = (
        np.array([np.interp(depth, own, values) for values in _replicates(sums, statistic)])
        for sums, own in (first, second)
    )
    values, replicates = (one - two)[0], (one - two)[1:]
    se = np.sqrt(np.diagonal(jackknife_covariance(replicates)))
    return interval(values, se, depth, len(replicates), resolved)


def means(total: Array, squares: Array, images: Array, depth: Array) -> Estimate:
    """Return means over images: standard deviation / sqrt(images) as errors, NaN with fewer than two.

    Args:
        total: sums of the values over images, any shape.
        squares: of their squares.
        images: how many images they are of.
        depth: `(L,)`, relative depth.
    """
    some, several = np.where(images > 0, images, np.nan), np.where(images > 1, images, np.nan)
    values = total / some
    variance = np.maximum(squares - some * values**2, 0.0) / (several - 1)
    se = np.sqrt(variance / several)
    margin = t_quantile(images) * se
    return Estimate(values, se, values - margin, values + margin, depth, images=images)


def mean_contrast(first: tuple[Array, Array], second: tuple[Array, Array]) -> Estimate:
    """Return the difference of two means over the same images along depth, with its paired jackknife error.

    Args:
        first: per fold the sums of the values and of the images `(g, 2, L)`, and relative depth `(L,)`; folds
            and layers without images left out.
        second: the same, of what is taken away, in the same folds.
    """
    return _difference(first, second, lambda sums: sums[0] / np.where(sums[1] > 0, sums[1], np.nan))
