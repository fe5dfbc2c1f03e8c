"""From sums to numbers: similarity, curves and contrasts with their errors and intervals, in NumPy alone.

docs/statistics.md says why an interval is taken as it is, and `make simulate` how often it holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ..errors import ResultError
from ..sums import Array, cosine, relative_depth
from .estimate import Estimate
from .jackknife import (
    Band,
    Products,
    Statistic,
    artanh,
    covariance,
    critical,
    errors,
    t_quantile,
    tanh_ends,
)

Normalize = Literal["first-last", "min-max", "none"]
"""Scale of a curve: from 1 at the first layer; 0 at its least and 1 at its greatest value; as measured."""

NORMALIZATIONS: tuple[Normalize, ...] = ("first-last", "min-max", "none")

RESOLVED = 5.0
"""A normalised curve is resolved if its denominator lies at least this many standard errors above 0."""


def similarity(products: Products, statistic: Statistic = cosine) -> Estimate:
    """Return a similarity of all pairs of layers, its interval on the scale of artanh: it never exceeds 1.

    Args:
        products: of the layers.
        statistic: from products to values between -1 and 1, `(L, L)`.
    """

    def on_both_scales(total: Array) -> Array:
        values = statistic(total)
        return np.stack([values, artanh(values)])

    values, scaled = on_both_scales(products.total)
    se, scaled_se = products.se(on_both_scales)
    ends = tanh_ends(values, scaled, t_quantile(products.folds) * scaled_se)
    return Estimate(values, se, *ends, relative_depth(len(values)), folds=products.folds)


def curve_values(products: Array, normalize: Normalize) -> Array:
    """Return the similarity of each layer to the last, `(L,)`, normalised as asked.

    `first-last` divides by that of the first, so the curve starts at 1 (arXiv 2106.03714, fig. 2); `min-max`
    maps the least value to 0 and the greatest to 1; `none` leaves it as it is.

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


def curve(products: Products, normalize: Normalize, band: Band = "pointwise") -> Estimate:
    """Return one model's similarity to its last layer with its errors.

    The interval of the raw curve is taken on the scale of artanh, that of `first-last` is Fieller's.

    Args:
        products: of the model's layers.
        normalize: see `curve_values`.
        band: whether the intervals hold for each layer, or for all of them at once.
    """
    depth = relative_depth(len(products.total))
    replicates = products.replicates(lambda total: curve_values(total, normalize))
    if normalize == "min-max":
        return _plain(replicates, depth, band)
    raw = products.replicates(lambda total: curve_values(total, "none"))
    if normalize == "first-last":
        return _ratio(raw, raw[:, :1], replicates, depth, band, _is_resolved(raw))
    return _bounded(raw, depth, band)


def against(products: Products, band: Band = "pointwise") -> Estimate:
    """Return the similarity of layers to a reference along depth, its interval on the scale of artanh.

    Args:
        products: of a model's layers and, last, of the reference.
        band: see `curve`.

    Returns:
        `(L,)`, of the layers.
    """
    depth = relative_depth(len(products.total) - 1)
    return _bounded(products.replicates(lambda total: cosine(total)[:-1, -1]), depth, band)


def ceiling(products: Products, trainings: int, band: Band = "pointwise") -> Estimate:
    """Return the similarity of the same layer in different trainings, the mean over pairs of them, along depth.

    Args:
        products: of the layers of all trainings, one training after the other.
        trainings: how many there are.
        band: see `curve`.

    Returns:
        `(L,)`, with the error of that mean over images, and the spread over pairs, NaN if there is one pair.
    """
    places = np.arange(len(products.total)).reshape(trainings, -1)
    first, second = np.triu_indices(trainings, 1)

    def pairs(total: Array) -> Array:
        return cosine(total)[places[first], places[second]]

    found = _bounded(
        products.replicates(lambda total: pairs(total).mean(0)),
        relative_depth(places.shape[1]),
        band,
    )
    each = pairs(products.total)
    spread = each.std(0, ddof=1) if len(each) > 1 else np.full(each.shape[1:], np.nan)
    return replace(found, trainings=trainings, spread=spread)


def contrast(
    first: Products, second: Products, normalize: Normalize, band: Band = "pointwise"
) -> Estimate:
    """Return the difference of two models' curves over relative depth with its paired error.

    Both models saw the same images, so the error is far smaller than the two errors added. The interval of a
    difference of ratios a / a_0 - b / b_0 is Fieller's, of (a b_0 - b a_0) / (a_0 b_0).

    Args:
        first: of the first model's layers.
        second: of the second model's, in the same folds.
        normalize: see `curve_values`.
        band: see `curve`.

    Returns:
        First minus second at the union of both models' relative depths; between these curves are interpolated
        linearly. Resolved if both curves are.
    """
    depth = np.union1d(*(relative_depth(len(each.total)) for each in (first, second)))
    if normalize != "first-last":
        one, two = (_interpolated(each, normalize, depth) for each in (first, second))
        return _plain(one - two, depth, band)
    one, two = (_interpolated(each, "none", depth) for each in (first, second))
    start, other_start = one[:, :1], two[:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = one / start - two / other_start
    resolved = _is_resolved(one) and _is_resolved(two)
    crossed = one * other_start - two * start
    return _ratio(crossed, start * other_start, difference, depth, band, resolved)


def _interpolated(products: Products, normalize: Normalize, depth: Array) -> Array:
    """Return a curve at other depths, and without each fold: `(1 + g, K)`."""
    own = relative_depth(len(products.total))
    curves = products.replicates(lambda total: curve_values(total, normalize))
    return np.array([np.interp(depth, own, values) for values in curves])


def _is_resolved(raw: Array) -> bool:
    """Whether the similarity of first and last, of a raw curve `(1 + g, K)`, is clearly above 0."""
    return bool(raw[0, 0] >= RESOLVED * errors(raw[1:, 0]))


def _estimate(
    replicates: Array, lower: Array, upper: Array, depth: Array, band: Band, resolved: bool = True
) -> Estimate:
    """Return an estimate from itself and its values without each fold, `(1 + g, K)`."""
    values, folds, se = replicates[0], len(replicates) - 1, errors(replicates[1:])
    return Estimate(values, se, lower, upper, depth, folds=folds, resolved=resolved, band=band)


def _bounded(replicates: Array, depth: Array, band: Band) -> Estimate:
    """Return an estimate of what lies between -1 and 1, its interval taken on the scale of artanh."""
    scaled = artanh(replicates)
    margin = critical(scaled[1:], band) * errors(scaled[1:])
    return _estimate(replicates, *tanh_ends(replicates[0], scaled[0], margin), depth, band)


def _plain(replicates: Array, depth: Array, band: Band) -> Estimate:
    """Return an estimate with Student's interval."""
    values = replicates[0]
    margin = critical(replicates[1:], band) * errors(replicates[1:])
    return _estimate(replicates, values - margin, values + margin, depth, band)


def _ratio(
    numerator: Array, denominator: Array, ratios: Array, depth: Array, band: Band, resolved: bool
) -> Estimate:
    """Return ratios with Fieller's interval; all three are `(1 + g, K)`, the denominator one for all."""
    # A ratio is in the set if this lies near 0; its correlation along depth decides how far a band reaches.
    apart = numerator - ratios[0] * denominator
    reach = critical(apart[1:], band)
    pairs = [np.column_stack([top, denominator[:, 0]]) for top in numerator.T]
    ends = np.array(
        [fieller(pair[0, 0], pair[0, 1], covariance(pair[1:]), reach) for pair in pairs]
    )
    # s(first) is 1 whatever is known of its denominator, and a contrast of two of them 0.
    fixed = (np.ptp(ratios, axis=0) == 0) & (len(ratios) > 1)
    lower, upper = (np.where(fixed & ~np.isnan(end), ratios[0], end) for end in ends.T)
    return _estimate(ratios, lower, upper, depth, band, resolved)


def fieller(
    numerator: float, denominator: float, covariances: Array, reach: float
) -> tuple[float, float]:
    """Return Fieller's confidence interval of the ratio numerator / denominator.

    The set of ratios r for which numerator - r x denominator lies within `reach` standard errors of 0
    (Fieller 1954). Where the denominator itself does, the set is unbounded: (-inf, inf).

    Args:
        numerator: of the ratio.
        denominator: of the ratio.
        covariances: `(2, 2)`, of the two.
        reach: in standard errors.
    """
    (var_n, cov), (_, var_d) = covariances.tolist()
    a = denominator**2 - reach**2 * var_d
    b = numerator * denominator - reach**2 * cov
    c = numerator**2 - reach**2 * var_n
    if np.isnan([a, b, c]).any():
        return np.nan, np.nan
    if a <= 0:
        return -np.inf, np.inf
    # Below 0 only by rounding, where the interval is a point.
    half_width = max(b**2 - a * c, 0.0) ** 0.5
    return (b - half_width) / a, (b + half_width) / a


def partial_values(products: Array) -> Array:
    """Return the similarity of layers beyond what they share with the last row z, `(L - 1, L - 1)`.

    (c_kl - c_kz c_lz) / sqrt((1 - c_kz^2)(1 - c_lz^2)), exact for U-centred products: the similarity of what is
    left of two matrices when their projections on that of z are taken away (Szekely & Rizzo 2014). NaN for a
    layer that equals z.
    """
    values = cosine(products)
    given, values = values[:-1, -1], values[:-1, :-1]
    left = 1.0 - given**2
    left = np.where(left > 0, left, np.nan)
    result: Array = (values - given[:, None] * given) / np.sqrt(left[:, None] * left)
    np.fill_diagonal(result, left / left)
    return result
