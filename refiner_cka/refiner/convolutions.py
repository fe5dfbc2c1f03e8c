"""The convolutions over attention maps: expansion, distributed local attention, reduction."""

from torch import nn

from ..errors import ModelError


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
        super().__init__(heads, ratio * heads, kernel_size=1, bias=False)


class DistributedLocalAttention(nn.Conv2d):
    """Convolve every map with its own k x k kernel.

        A*_g[i, j] = sum_{a, b} w_g[a, b] A~_g[i + a - p, j + b - p],    p = (k - 1) / 2

    with zeros outside. Convolving the map is aggregating neighbouring values first and attending to
    the aggregates afterwards: along j the kernel mixes v_{j-1}, v_j, v_{j+1} before the sum over j;
    along i it mixes what neighbouring queries see. Global attention so gets a local pattern, spread
    ("distributed") over all the maps.

    Shapes: (batch, H', N, N) -> (batch, H', N, N); weight w: (H', 1, k, k).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "distributed local attention".
    """

    def __init__(self, maps: int, kernel_size: int = 3) -> None:
        padding = same_padding(kernel_size)
        super().__init__(maps, maps, kernel_size, padding=padding, groups=maps, bias=False)


class DenseMapConvolution(nn.Conv2d):
    """Convolve the maps with kernels that see all of them: the ablation without expansion.

        A*_g[i, j] = sum_h sum_{a, b} w[g, h, a, b] A_h[i + a - p, j + b - p]

    Shapes: (batch, H, N, N) -> (batch, H, N, N); weight w: (H, H, k, k).

    Source: the refinement mode `conv` of the Refiner reference model.
    """

    def __init__(self, heads: int, kernel_size: int = 3) -> None:
        super().__init__(heads, heads, kernel_size, padding=same_padding(kernel_size), bias=False)


class AttentionReduction(nn.Conv2d):
    """Mix the H' expanded and convolved maps back into H, one for the values of each head.

        A^_h[i, j] = sum_g W_R[h, g] A*_g[i, j],    h = 1 ... H

    Without it H' maps would each need values of their own, at H' / H times the cost.

    Shapes: (batch, H', N, N) -> (batch, H, N, N); weight W_R: (H, H', 1, 1).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "attention reduction".
    """

    def __init__(self, maps: int, heads: int) -> None:
        super().__init__(maps, heads, kernel_size=1, bias=False)


def same_padding(kernel_size: int) -> int:
    """The padding (k - 1) / 2 that keeps an N x N map N x N; k must be odd."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(
            f"kernel_size={kernel_size} would change the size of the attention maps; use an odd one"
        )
    return (kernel_size - 1) // 2
