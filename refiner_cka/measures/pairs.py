"""What a batch adds for a similarity index: products of all pairs of layers, and how they vary."""

from __future__ import annotations

import torch

from ..sums import FOLDS
from . import hsic


def added(stack: torch.Tensor, folds: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what a batch adds to the sums of an index, by part."""
    n = stack.shape[-1]
    removed = stack.new_zeros(FOLDS, len(stack), len(stack))
    for fold in sorted(set(folds.tolist())):
        own = (folds == fold).nonzero()[:, 0]
        rows = stack[:, own]
        removed[fold] = 2 * hsic.products(rows) - hsic.products(rows[:, :, own])
    squares = stack.square().sum((-1, -2))
    cubes = stack.pow(3).sum((-1, -2))
    traces = torch.einsum("lij,ljk,lki->l", stack, stack, stack)
    outer = torch.outer
    falling = [1.0]
    for k in range(6):
        falling.append(falling[-1] * (n - k))
    p, q = cubes, traces
    third = 4 * outer(p, p) / falling[2]
    third += (24 * outer(p, p) + 8 * outer(q, q)) / falling[3]
    third += (56 * outer(p, p) + 24 * outer(p - q, p - q)) / falling[4]
    if n > 4:
        third += 48 * outer(q - 2 * p, q - 2 * p) / falling[5]
    if n > 5:
        third += 64 * outer(2 * p - q, 2 * p - q) / falling[6]
    quartic = stack.pow(4).sum((-1, -2))
    return {
        "products": hsic.products(stack),
        "removed": removed,
        "variance": 2 * outer(squares, squares) / (n * (n - 3)),
        "third": third,
        "fourth": 8 * outer(quartic, quartic) / falling[2],
    }
