"""What a sum is: the words that measuring and results share.

Everything an analysis measures is a sum over batches, kept in groups. Streaming, resuming, merging shards,
reducing over processes and leaving one group out for an error are then all additions of the same arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MIN_BATCH = 4
"""HSIC_1 divides by n - 3: a batch of fewer images holds no estimate."""

GROUPS = 20
"""Groups the sums are kept in: batch k of the whole run belongs to group k mod 20, in whichever shard."""


Places = Literal["layers", "maps", "pairs of maps"]


@dataclass(frozen=True)
class Quantity:
    """One measured quantity, in the words that a result stores beside its numbers.

    Whatever draws, prints or exports a result reads these, so that a measure it has never heard of is drawn too.

    Attributes:
        name: in file and code.
        label: its name on an axis.
        about: what it is, in one line.
        range: least and greatest value; `None` where there is no bound that all layers share.
        smoother: whether a `higher` or `lower` value means more alike; `None`: neither.
        source: where the formula is from.
        places: what it has a value for: each layer, each block with attention maps, or each pair of those.
        few: whether it is measured on a few images of a run only.
    """

    name: str
    label: str = ""
    about: str = ""
    range: tuple[float | None, float | None] = (None, None)
    smoother: Literal["higher", "lower"] | None = None
    source: str = ""
    places: Places = "layers"
    few: bool = False


def cosine(products: Array) -> Array:
    """Return CKA of every pair of layers from summed HSIC products.

    CKA_ij = S_ij / sqrt(S_ii S_jj) (Nguyen, Raghu & Kornblith, arXiv 2010.15327, eq. 3). Nothing is clamped:
    the unbiased estimate of unrelated features lies on both sides of 0. A layer whose own product is not
    positive or not finite (constant or non-finite features) is NaN in its row and column.

    Args:
        products: `(L, L)` sums over batches.

    Returns:
        `(L, L)`, symmetric, diagonal 1 where defined.
    """
    own = np.diagonal(products)
    defined = np.isfinite(own) & (own > 0)
    # Powers of two bring the diagonal to between 1/2 and 2, where its products have squares.
    half = np.ldexp(1.0, -(np.frexp(np.where(defined, own, 1.0))[1] // 2))
    own = np.where(defined, own * half * half, np.nan)
    # Divided by one symmetric matrix, so that the result is symmetric to the last bit. The root of a product,
    # unlike a product of roots, is exactly s for two layers of equal s.
    result: Array = products * (half[:, None] * half) / np.sqrt(own[:, None] * own)
    np.fill_diagonal(result, own / own)
    return result


def is_count(values: Array, most: Array | float) -> bool:
    """Whether all values are whole numbers from 0 to `most`."""
    whole = np.isfinite(values) & (values == np.floor(values))
    return bool((whole & (values >= 0) & (values <= most)).all())
