"""Similarity indices of layers that follow from their Gram matrices: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..sums import LAYERS, Quantity
from . import hsic


@dataclass(frozen=True)
class Index:
    """A similarity index: S_ij / sqrt(S_ii S_jj), where S sums the products of matrices that represent layers.

    Attributes:
        quantity: what a result says of it.
        represent: from Gram matrices of a batch, `(L, n, n)` on scales `(L, n)` as `hsic.gram` writes them, to the
            matrices whose products are summed, `(L, n, n)` float64.
    """

    quantity: Quantity
    represent: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_TABLE = (
    Index(
        Quantity(
            "cka",
            "similarity/cka",
            "cosine",
            (LAYERS, LAYERS),
            "CKA",
            "unbiased linear CKA, its HSIC products summed over batches",
            (None, 1.0),
            source="Nguyen et al., arXiv 2010.15327; Song et al., JMLR 13 (2012)",
        ),
        hsic.u_centre,
    ),
)

INDICES: dict[str, Index] = {index.quantity.name: index for index in _TABLE}
"""Name -> index."""
