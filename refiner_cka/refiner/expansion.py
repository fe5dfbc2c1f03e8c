"""Attention expansion: more maps than heads."""

from torch import nn


class AttentionExpansion(nn.Conv2d):
    """Mix the attention maps of H heads into H' = ratio x H maps, linearly.

    For every pair of tokens (i, j) on its own, with A_h the map of head h:

        A~_g[i, j] = sum_h W_A[g, h] A_h[i, j],    g = 1 ... H'

    More heads would give more maps, but narrower heads; a linear expansion gives more maps and
    leaves the width of a head alone. A 1 x 1 convolution over the (N, N) map is exactly this sum.

    Shapes: (batch, H, N, N) -> (batch, H', N, N); weight W_A: (H', H, 1, 1).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "attention expansion".
    """

    def __init__(self, heads: int, ratio: int) -> None:
        """Make the expansion of `heads` maps into `ratio` times as many."""
        super().__init__(heads, ratio * heads, kernel_size=1, bias=False)
