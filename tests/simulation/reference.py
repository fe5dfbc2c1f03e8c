"""The statistics of `refiner_cka.results.statistics` once more, straight from their definitions in plain NumPy.

Nothing here is shared with the library: folds are left out by deleting images from the U-centred matrices, and
intervals are solved for where they are defined by a condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from tests.synthetic import u_centred_gram

Array = npt.NDArray[np.float64]

FOLDS = 20


def fold(place: int) -> int:
    """Return the fold of the image at a place of the run."""
    return (place + 7 * (place // FOLDS)) % FOLDS


def products(
    batches: Sequence[Array], folds: Sequence[npt.NDArray[np.int64]]
) -> tuple[Array, Array]:
    """Return the total of the products and what remains without each fold: `(L, L)`, `(FOLDS, L, L)`.

    Args:
        batches: of each batch the features, `(L, n, p)`.
        folds: of each batch the folds of its images, `(n,)`.
    """
    layers = len(batches[0])
    remaining = np.zeros((FOLDS + 1, layers, layers))
    for features, own in zip(batches, folds, strict=True):
        centred = [u_centred_gram(layer) for layer in features]
        for left_out in range(FOLDS + 1):
            keep = own != left_out  # No image is in fold FOLDS: that is the total.
            kept = [matrix[np.ix_(keep, keep)] for matrix in centred]
            for i, one in enumerate(kept):
                for j, other in enumerate(kept):
                    remaining[left_out, i, j] += (one * other).sum()
    return remaining[FOLDS], remaining[:FOLDS]


def cka(total: Array) -> Array:
    """Return CKA `(L, L)` of products."""
    result: Array = total / np.sqrt(np.outer(np.diag(total), np.diag(total)))
    return result


def covariance(replicates: Array) -> Array:
    """Return the jackknife covariance `(K, K)` of replicates `(g, K)`."""
    g = len(replicates)
    result: Array = (g - 1) ** 2 / g * np.cov(replicates.T)
    return result


def t(g: int) -> float:
    """Return the quantile of Student's distribution for g folds."""
    return float(stats.t.ppf(0.975, g - 1))


def interval(value: float, replicates: Array) -> tuple[float, float, float]:
    """Return standard error, lower and upper end of a plain interval."""
    se = float(np.sqrt(covariance(replicates)))
    return se, value - t(len(replicates)) * se, value + t(len(replicates)) * se


def atanh_interval(value: float, replicates: Array) -> tuple[float, float]:
    """Return the interval of a correlation: Student's on the scale of atanh, brought back."""
    _, lower, upper = interval(float(np.arctanh(value)), np.arctanh(replicates))
    return float(np.tanh(lower)), float(np.tanh(upper))


def ratio_interval(values: tuple[float, float], replicates: Array) -> tuple[float, float]:
    """Return Fieller's interval of x / y: the ratios r at which x - r y lies t standard errors from 0.

    Args:
        values: x and y; y more than t standard errors from 0.
        replicates: of x and y, `(g, 2)`.
    """
    x, y = values

    def outside(r: float) -> float:
        se, _, _ = interval(0.0, replicates[:, 0] - r * replicates[:, 1])
        return abs(x - r * y) - t(len(replicates)) * se

    found = []
    for direction in (-1.0, 1.0):
        step = 1e-3
        while outside(x / y + direction * step) < 0:
            step *= 2
        ends = sorted((x / y, x / y + direction * step))
        found.append(optimize.brentq(outside, *ends, xtol=1e-15, rtol=1e-14))
    return found[0], found[1]
