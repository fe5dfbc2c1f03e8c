"""What one batch adds to the sums of a similarity index."""

from __future__ import annotations

import torch

from . import null
from .folds import Folded
from .indices import Index
from .scaling import block_bytes


def batch_sums(
    index: Index, grams: torch.Tensor, scales: torch.Tensor, folded: Folded
) -> dict[str, torch.Tensor]:
    """Return what a batch adds to each sum of an index, by the sum's name. Nothing waits for the device.

    Args:
        index: the index.
        grams: of the batch, `(L, n, n)` on scales `(L, n)`, as `hsic.gram` writes them.
        scales: see there.
        folded: which images are in which fold, on the device of the Gram matrices.

    Returns:
        float64: `products` `(L, L)`; `removed` `(FOLDS, L, L)`, what leaving out a fold's images removes of them;
        `variance`, `third` and `fourth` `(L, L)`, of the products of layers that see unrelated images.
    """
    zero_rows, n = index.centring == "rows", folded.images
    stack = folded.stack(len(grams))
    # Room for all first: small tensors that outlive a block would lie between the blocks and keep their memory.
    sums = stack.new_empty(len(null.Moments._fields), len(grams))
    layers = max(1, block_bytes(grams.device) // (8 * n * n))
    for first in range(0, len(grams), layers):
        part = slice(first, first + layers)
        matrices = index.matrices(grams[part], scales[part])
        folded.put(matrices, stack[part])
        torch.stack(null.moments(matrices, zero_rows=zero_rows), out=sums[:, part])
    moments = null.Moments(*sums)
    products, removed = folded.products(stack, symmetric=index.symmetric, zero_rows=zero_rows)
    return {
        "products": products,
        "removed": removed,
        "variance": null.variance(moments, n),
        "third": null.third(moments, n),
        "fourth": null.fourth(moments, n),
    }
