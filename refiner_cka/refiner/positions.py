"""Position embeddings for any grid of patches."""

from math import isqrt

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from ..errors import CheckpointError


def resample(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate (1, 1 + rows x columns, dim) positions from grid `old` to `new`, bicubic.

    The first position, the class token's, stays as it is.
    """
    resampled: Tensor = resample_abs_pos_embed(
        positions, new_size=list(new), old_size=list(old), num_prefix_tokens=1
    )
    return resampled


def square_grid(positions: Tensor) -> tuple[int, int]:
    """The square grid of (1, 1 + side^2, dim) positions, as every released checkpoint has."""
    count = positions.shape[1] - 1
    side = isqrt(count)
    if side * side != count:
        raise CheckpointError(
            f"the checkpoint's {count} positions are no square grid; "
            "build the model with the img_size the checkpoint was trained at"
        )
    return side, side
