"""Directions of tokens: the mean cosine of pairs of them, and how it moves with the point they are seen from."""

from __future__ import annotations

import torch

_SHORTEST = 2.0**-100
"""Length of a token below which its inverse is not multiplied any further: it would leave the range of float32."""


def unit_sum(
    block: torch.Tensor, sizes: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of an image's unit tokens `(images, dim)`, and of how many `(images,)`.

    Args:
        block: tokens, `(images, tokens, dim)`.
        sizes: their lengths, `(images, tokens)`.
        counted: which of them have a direction, `(images, tokens)`.
    """
    weights = sizes.reciprocal().where(counted, 0.0)
    return (weights.unsqueeze(1) @ block).squeeze(1), (weights > 0).sum(1)


def mean_cosine(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return (|sum of n unit tokens|^2 - n) / (n (n - 1)), `(images,)`; NaN for fewer than two."""
    cosine = (sums.square().sum(1) - counts) / (counts * (counts - 1))
    return cosine.where(counts > 1, float("nan"))


def gradient(
    block: torch.Tensor,
    sizes: torch.Tensor,
    counted: torch.Tensor,
    sums: torch.Tensor,
    step: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Return how fast an image's mean cosine moves with the point from which its tokens are seen, `(images, dim)`.

    With y the tokens, u = y / |y|, s the sum of u and n their number, the derivative to the point is
    -2 / (n (n - 1)) times the sum over tokens of (s - u (u . s)) / |y|. A token that is hardly longer than what
    the point moves by turns any way, which no derivative tells: so a length counts as at least `step / steps`.

    Args:
        block: tokens as seen from the point, `(images, tokens, dim)`.
        sizes: their lengths, `(images, tokens)`.
        counted: which of them have a direction, `(images, tokens)`.
        sums: the sum of these' unit tokens, `(images, dim)`, from `unit_sum`.
        step: the unit of length in which the point is moved, a single number.
        steps: the derivative is to hold for a move by one in so many.

    Returns:
        The derivative times `step`; 0 for an image with fewer than two tokens that have a direction.
    """
    weights = sizes.reciprocal().where(counted, 0.0)
    counts = counted.sum(1, keepdim=True)
    turns = (step * weights).clamp_max(steps)
    # In this order, with a row in front, the CPU's matrix-vector products are ten times as fast.
    along = weights * (sums.unsqueeze(1) @ block.mT).squeeze(1)
    turned = turns * along * weights.clamp_max(1 / _SHORTEST)
    found = sums * turns.sum(1, keepdim=True) - (turned.unsqueeze(1) @ block).squeeze(1)
    return (found * -2.0 / (counts * (counts - 1))).where(counts > 1, 0.0)
