"""Chance level: what a similarity would be if its two layers had seen unrelated images.

Shuffling the images of one layer against those of the other, within each batch, gives products whose mean is 0 and
whose variance and third moment are known exactly (docs/statistics.md). Their distribution is skewed; Pearson's
type III, a shifted gamma distribution, has these three moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ResultError
from ..sums import Array

Correction = Literal["holm", "none"]

ROUGH = 0.3
"""Share of fourth powers, that is of few images, in the variance, from which on p-values are approximate."""

ALPHA = 0.05
"""What a p-value has to be below for a similarity, or a difference, to be called one."""

_NORMAL = 1e-4
"""Skewness below which the distribution is normal to within rounding."""


@dataclass(frozen=True, eq=False)
class Null:
    """The distribution of a similarity of unrelated images, for all pairs of layers.

    Attributes:
        values: `(L, L')`, the similarity found.
        sd: the same shape, standard deviation by chance; the mean is 0.
        skewness: the same shape.
        rough: the same shape, whether so few images carry it that p-values are approximate.
        same: whether rows and columns are the same layers.
    """

    values: Array
    sd: Array
    skewness: Array
    rough: npt.NDArray[np.bool_]
    same: bool = False

    @classmethod
    def of(
        cls,
        values: Array,
        own: tuple[Array, Array],
        moments: Sequence[Array],
        *,
        same: bool = False,
    ) -> Null:
        """Make it of summed moments.

        Args:
            values: `(L, L')`, the similarity found.
            own: `(L,)` and `(L',)`, products of layers with themselves.
            moments: variance, third moment and fourth powers of the products, `(L, L')` each.
            same: whether rows and columns are the same layers.
        """
        variance, third, fourth = moments
        # Products of features near the ends of float32 have moments beyond float64: nothing is known of those.
        known = (variance > 0) & np.isfinite(variance) & np.isfinite(third)
        positive = np.where(known, variance, np.nan)
        size = np.sqrt(np.abs(own[0]))[:, None] * np.sqrt(np.abs(own[1]))
        return cls(
            values,
            np.where(
                np.isnan(values), np.nan, np.sqrt(positive) / np.where(size > 0, size, np.nan)
            ),
            # One factor at a time: the powers of large or small features leave the range of float64 sooner.
            third / positive / np.sqrt(positive),
            fourth / positive / positive > ROUGH,
            same,
        )

    def p_values(self, correct: Correction = "none") -> Array:
        """Return the probability that unrelated images are at least as similar, one-sided.

        Args:
            correct: `holm` corrects for the number of pairs. Of the same layers in rows and columns each pair
                counts once, and a layer with itself, which is NaN, not at all.

        Raises:
            ResultError: no such correction.
        """
        found = self._p_values()
        if not self.same or correct == "none":
            return corrected(found, correct)
        below = np.tril_indices(len(found), -1)
        result = np.full_like(found, np.nan)
        result[below] = result.T[below] = corrected(found[below], correct)
        return result

    def _p_values(self) -> Array:
        from scipy.special import gammainc, gammaincc, ndtr

        z, gamma = self.values / self.sd, self.skewness
        skewed = np.where(np.abs(gamma) < _NORMAL, np.nan, gamma)
        shape = 4.0 / skewed**2
        reach = np.maximum(shape + z * np.sqrt(shape) * np.sign(skewed), 0.0)
        upper = np.where(gamma > 0, gammaincc(shape, reach), gammainc(shape, reach))
        result: Array = np.where(np.isnan(skewed) & ~np.isnan(gamma), ndtr(-z), upper)
        return result

    def quantile(self, probability: float) -> Array:
        """Return the similarity that unrelated images stay below with this probability."""
        from scipy.special import gammaincinv, ndtri

        gamma = self.skewness
        skewed = np.where(np.abs(gamma) < _NORMAL, np.nan, gamma)
        shape = 4.0 / skewed**2
        place = np.where(gamma > 0, probability, 1.0 - probability)
        z = np.sign(skewed) * (gammaincinv(shape, place) - shape) / np.sqrt(shape)
        result: Array = self.sd * np.where(
            np.isnan(skewed) & ~np.isnan(gamma), ndtri(probability), z
        )
        return result


def corrected(p_values: Array, correct: Correction) -> Array:
    """Return p-values corrected for their number: Holm's step-down method; NaN counts as no test.

    Raises:
        ResultError: no such correction.
    """
    if correct == "none":
        return p_values
    if correct != "holm":
        raise ResultError(f"unknown correction {correct!r}; choose holm or none")
    flat = p_values.ravel()
    order = np.argsort(flat)  # NaN last
    count = np.isfinite(flat).sum()
    factors = np.maximum(count - np.arange(flat.size), 1)
    adjusted = np.minimum(np.maximum.accumulate(flat[order] * factors), 1.0)
    result = np.empty_like(flat)
    result[order] = adjusted
    return result.reshape(p_values.shape)


@dataclass(frozen=True)
class Match:
    """The layer of another model that a layer resembles most.

    Attributes:
        layer: path of the layer.
        match: path of the layer of the other model.
        similarity: of the two.
        lower: lower end of its 95 % interval.
        upper: upper end.
        p: probability that a layer of unrelated images would be matched as well, corrected for the search among
            the other model's layers (Holm).
        rough: whether `p` is approximate, few images carrying it.
    """

    layer: str
    match: str
    similarity: float
    lower: float
    upper: float
    p: float
    rough: bool
