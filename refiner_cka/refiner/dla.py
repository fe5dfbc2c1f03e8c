"""Distributed local attention (DLA): a small convolution over every attention map."""

from torch import nn

from ..errors import ModelError


def same_padding(kernel_size: int) -> int:
    """The padding (k - 1) // 2 that keeps an N x N map N x N; k must be odd."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ModelError(
            f"kernel_size={kernel_size} would change the size of the attention maps; use an odd one"
        )
    return (kernel_size - 1) // 2


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
        """Make one `kernel_size` x `kernel_size` kernel for each of `maps` maps."""
        padding = same_padding(kernel_size)
        super().__init__(maps, maps, kernel_size, padding=padding, groups=maps, bias=False)


class DenseMapConvolution(nn.Conv2d):
    """Convolve the maps with kernels that see all of them: the ablation without expansion.

        A*_g[i, j] = sum_h sum_{a, b} w[g, h, a, b] A_h[i + a - p, j + b - p]

    Shapes: (batch, H, N, N) -> (batch, H, N, N); weight w: (H, H, k, k).

    Source: the refinement mode `conv` of the Refiner reference model.
    """

    def __init__(self, heads: int, kernel_size: int = 3) -> None:
        """Make the dense `kernel_size` x `kernel_size` convolution of `heads` maps."""
        super().__init__(heads, heads, kernel_size, padding=same_padding(kernel_size), bias=False)
