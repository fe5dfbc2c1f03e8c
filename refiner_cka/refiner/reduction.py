"""Attention reduction: back to one map per head."""

from torch import nn


class AttentionReduction(nn.Conv2d):
    """Mix the H' expanded and convolved maps back into H, one for the values of each head.

        A^_h[i, j] = sum_g W_R[h, g] A*_g[i, j],    h = 1 ... H

    Without it H' maps would each need values of their own, at H' / H times the cost.

    Shapes: (batch, H', N, N) -> (batch, H, N, N); weight W_R: (H, H', 1, 1).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "attention reduction".
    """

    def __init__(self, maps: int, heads: int) -> None:
        """Make the reduction of `maps` maps to `heads`."""
        super().__init__(maps, heads, kernel_size=1, bias=False)
