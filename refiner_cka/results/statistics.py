"""From sums to numbers: CKA, jackknife errors, curves and contrasts, in NumPy alone.

Everything here is a function of `sums`, float64 of shape `(groups, L, L)`: for each group of batches the sum
over its batches of `<U(K_i), U(K_j)>`, the products of U-centred Gram matrices of layers i and j (see `hsic`).
An estimate uses the total over groups; its error comes from leaving out one group at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..sums import Array, cosine

Normalize = Literal["first-last", "min-max", "none"]
NORMALIZATIONS: tuple[Normalize, ...] = ("first-last", "min-max", "none")

MIN_GROUPS = 5
"""With fewer non-empty groups a jackknife error says too little: it is NaN and no band is drawn."""

RESOLVED = 5.0
"""A normalised curve is resolved if its denominator lies at least this many standard errors above 0."""

CONFIDENCE = 0.95
"""Two-sided confidence of every interval."""


def jackknife_se(sums: Array, statistic: Callable[[Array], Array]) -> Array:
    """Return the delete-a-group jackknife standard error of a statistic of the summed products.

    SE^2 = (g - 1)/g x sum over groups of (theta without the group - their mean)^2.

    Args:
        sums: `(g, ...)`, the non-empty groups only.
        statistic: from a total to an array.

    Returns:
        The shape of the statistic; NaN with fewer than `MIN_GROUPS` groups.
    """
    total = sums.sum(0)
    estimate = statistic(total)
    groups = len(sums)
    if groups < MIN_GROUPS:
        return np.full_like(estimate, np.nan)
    # Deviations from the full estimate are small, so their second moment loses no digits; and only two
    # arrays of the statistic's size are alive, however many groups there are.
    first, second = np.zeros_like(estimate), np.zeros_like(estimate)
    for group in sums:
        deviation = statistic(total - group) - estimate
        first += deviation
        second += deviation**2
    variance = (groups - 1) / groups * (second - first**2 / groups)
    result: Array = np.sqrt(np.maximum(variance, 0.0))
    return result


def jackknife_covariance(replicates: Array) -> Array:
    """Return the jackknife covariance `(K, K)` of leave-one-out replicates `(g, K)`.

    NaN with fewer than `MIN_GROUPS` replicates.
    """
    groups, size = replicates.shape
    if groups < MIN_GROUPS:
        return np.full((size, size), np.nan)
    centred = replicates - replicates.mean(0)
    result: Array = (groups - 1) / groups * centred.T @ centred
    return result


def t_quantile(groups: int) -> float:
    """Return the two-sided Student quantile for `CONFIDENCE` with `groups - 1` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, 0.5 + CONFIDENCE / 2)) if groups > 1 else float("nan")


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


@dataclass(frozen=True, eq=False)
class Curve:
    """Similarity to the last layer along a model's depth.

    Attributes:
        values: `(L,)`.
        se: `(L,)`, jackknife standard errors over groups of batches; NaN with fewer than `MIN_GROUPS`.
        lower: `(L,)`, lower end of the 95 % interval (Fieller's for `first-last`).
        upper: `(L,)`, upper end.
        depth: `(L,)`, relative depth, 0 the first layer and 1 the last.
        resolved: false if the curve divides by a number not clearly above 0: its values then mean little.
        groups: number of non-empty groups behind the errors.
    """

    values: Array
    se: Array
    lower: Array
    upper: Array
    depth: Array
    resolved: bool
    groups: int


@dataclass(frozen=True, eq=False)
class Contrast:
    """Difference of two curves over relative depth, with the error of the paired difference.

    Attributes:
        depth: `(D,)`, the union of both models' relative depths; curves are interpolated linearly.
        values: `(D,)`, first model minus second.
        se: `(D,)`, jackknife standard error of the difference: both models saw the same images, so it is
            far smaller than the two errors added.
        lower: `(D,)`, lower end of the 95 % interval.
        upper: `(D,)`, upper end.
        resolved: false if either curve is not.
        groups: number of non-empty groups behind the errors.
    """

    depth: Array
    values: Array
    se: Array
    lower: Array
    upper: Array
    resolved: bool
    groups: int


def relative_depth(count: int) -> Array:
    """Return `(count,)` depths from 0 (first) to 1 (last); a single layer lies at 1."""
    result: Array = np.linspace(0.0, 1.0, count) if count > 1 else np.ones(count)
    return result


def curve_values(products: Array, normalize: Normalize) -> Array:
    """Return CKA of each layer with the last, `(L,)`, normalised as asked.

    `first-last` divides by CKA(first, last), so the curve starts at 1 (arXiv 2106.03714, fig. 2); `min-max`
    maps the least value to 0 and the greatest to 1; `none` leaves CKA as it is.
    """
    values: Array = cosine(products)[:, -1]
    if normalize == "first-last":
        ratio: Array = values / (values[0] or np.nan)
        return ratio
    if normalize == "min-max":
        # A degenerate layer in between is NaN itself and must not take the others with it.
        finite = values[np.isfinite(values)]
        spread = np.ptp(finite) if len(finite) else 0.0
        least = finite.min() if spread > 0 else np.nan
        result: Array = (values - least) / (spread or np.nan)
        return result
    return values


def _replicates(sums: Array, statistic: Callable[[Array], Array]) -> Array:
    """Return the statistic `(K,)` without each group in turn, `(g, K)`."""
    total = sums.sum(0)
    replicates = [statistic(total - group) for group in sums]
    return np.stack(replicates) if replicates else np.empty((0, *statistic(total).shape))


def curve(sums: Array, normalize: Normalize) -> Curve:
    """Return one model's curve with its errors.

    Args:
        sums: `(g, L, L)`, the model's own block of the sums, non-empty groups only.
        normalize: see `curve_values`.
    """
    total, groups, t = sums.sum(0), len(sums), t_quantile(len(sums))
    values = curve_values(total, normalize)
    se = jackknife_se(sums, lambda products: curve_values(products, normalize))
    lower, upper, resolved = values - t * se, values + t * se, True
    if normalize == "first-last":
        raw = curve_values(total, "none")
        covariance = jackknife_covariance(_replicates(sums, lambda s: curve_values(s, "none")))
        variance = np.diagonal(covariance)
        lower, upper = fieller(raw, raw[0], variance, variance[0], covariance[0], t)
        resolved = bool(raw[0] >= RESOLVED * np.sqrt(variance[0]))
    return Curve(values, se, lower, upper, relative_depth(len(values)), resolved, groups)


def contrast(sums_a: Array, sums_b: Array, normalize: Normalize) -> Contrast:
    """Return the difference of two models' curves over relative depth with its paired error.

    Args:
        sums_a: `(g, La, La)`, first model's block, non-empty groups only.
        sums_b: `(g, Lb, Lb)`, second model's block, the same groups.
        normalize: see `curve_values`.
    """
    depth_a, depth_b = relative_depth(sums_a.shape[1]), relative_depth(sums_b.shape[1])
    depth = np.union1d(depth_a, depth_b)

    def on_grid(sums: Array, own_depth: Array) -> tuple[Array, Array]:
        """Return the interpolated curve and its leave-one-out replicates."""

        def statistic(products: Array) -> Array:
            return np.interp(depth, own_depth, curve_values(products, normalize))

        return statistic(sums.sum(0)), _replicates(sums, statistic)

    values_a, replicates_a = on_grid(sums_a, depth_a)
    values_b, replicates_b = on_grid(sums_b, depth_b)
    values = values_a - values_b
    se = np.sqrt(np.diagonal(jackknife_covariance(replicates_a - replicates_b)))
    t = t_quantile(len(sums_a))
    resolved = curve(sums_a, normalize).resolved and curve(sums_b, normalize).resolved
    return Contrast(depth, values, se, values - t * se, values + t * se, resolved, len(sums_a))


@dataclass(frozen=True, eq=False)
class Means:
    """Means over images at the layers of a model, or at the pairs of its blocks.

    Attributes:
        values: `(L,)` or `(L, L)`; NaN where nothing is defined.
        se: the same shape, standard deviation over images / sqrt(images); NaN with fewer than two.
        lower: lower end of the 95 % interval (Student's).
        upper: upper end.
        images: the same shape, how many images have a value.
        depth: `(L,)`, relative depth, 0 the first layer and 1 the last.
        kept: `(K, L)`, the values of the first images one by one; NaN where undefined. Empty for pairs.
    """

    values: Array
    se: Array
    lower: Array
    upper: Array
    images: Array
    depth: Array
    kept: Array


def means(total: Array, squares: Array, images: Array, depth: Array, kept: Array) -> Means:
    """Return means over images with their errors.

    Args:
        total: sums of the values over images, any shape.
        squares: of their squares.
        images: how many images they are of.
        depth: see `Means`.
        kept: see `Means`.
    """
    from scipy.special import stdtrit

    some, several = np.where(images > 0, images, np.nan), np.where(images > 1, images, np.nan)
    values = total / some
    variance = np.maximum(squares - some * values**2, 0.0) / (several - 1)
    se = np.sqrt(variance / several)
    margin = stdtrit(several - 1, 0.5 + CONFIDENCE / 2) * se
    return Means(values, se, values - margin, values + margin, images, depth, kept)


def mean_contrast(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]
) -> Contrast:
    """Return the difference of two means over the same images along depth, with its paired jackknife error.

    Args:
        first: sums of the values `(g, L)` and images `(g, L)` per group, and relative depth `(L,)`; groups
            and layers without images left out.
        second: the same, of what is taken away, in the same groups.
    """
    depth = np.union1d(first[2], second[2])

    def on_grid(part: tuple[Array, Array, Array], sums: Array) -> Array:
        total, images = np.split(sums, 2)
        mean = total / np.where(images > 0, images, np.nan)
        result: Array = np.interp(depth, part[2], mean)
        return result

    stacks = [np.concatenate(part[:2], 1) for part in (first, second)]
    width = stacks[0].shape[1]

    def difference(sums: Array) -> Array:
        return on_grid(first, sums[:width]) - on_grid(second, sums[width:])

    groups = np.concatenate(stacks, 1)
    values, se = difference(groups.sum(0)), jackknife_se(groups, difference)
    t = t_quantile(len(groups))
    return Contrast(depth, values, se, values - t * se, values + t * se, True, len(groups))
