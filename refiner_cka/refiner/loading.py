"""Loading weights: the files that training scripts write, and positions for any grid of patches."""

import logging
from collections.abc import Mapping
from math import isqrt, prod
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from ..errors import CheckpointError

_logger = logging.getLogger(__name__)

# Where training scripts keep the weights in a checkpoint, the averaged ones first.
NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")

# The key under which a state dict's metadata says which grid its positions belong to: their number
# alone does not tell 14x14 from 7x28.
GRID = "grid"


def resample(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate (1, 1 + rows x columns, dim) positions from grid `old` to `new`, bicubic.

    The first position, the class token's, stays as it is.
    """
    resampled: Tensor = resample_abs_pos_embed(
        positions, new_size=list(new), old_size=list(old), num_prefix_tokens=1
    )
    return resampled


def note_grid(model: Any, _state: object, _prefix: str, metadata: dict[str, Any]) -> None:
    """State dict hook: note the grid of the positions in the metadata, which adds no key."""
    metadata[GRID] = tuple(model.patch_embed.grid_size)


def fit_positions(
    model: Any, state_dict: dict[str, Any], prefix: str, metadata: Mapping[str, Any], *_: object
) -> None:
    """Load hook: interpolate the positions of a state dict made for another grid.

    The metadata says which grid they belong to, unless their number has been changed since. Without
    it, positions whose number fits are taken as they are, and others to be those of a square grid.
    """
    positions = state_dict.get(prefix + "pos_embed")
    if positions is None:
        return
    new = model.patch_embed.grid_size
    count = positions.shape[1] - 1
    side = isqrt(count)
    for old in (tuple(metadata.get(GRID, new)), new, (side, side)):
        if prod(old) == count:
            state_dict[prefix + "pos_embed"] = resample(positions, old, new)
            return
    raise CheckpointError(
        f"the checkpoint's {count} positions are no square grid; "
        "build the model with the img_size the checkpoint was trained at"
    )


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Turn the content of a checkpoint file into a state dict for a Refiner.

    Takes weights out of the nests of training scripts (averaged ones first), removes the prefixes
    of wrappers, and interpolates position embeddings. Released checkpoints say nothing about their
    grid, and all are square: a square number of positions is read as a square grid.
    """
    weights = next((checkpoint[nest] for nest in NESTS if checkpoint.get(nest)), checkpoint)
    state_dict = {
        key.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("_orig_mod."): value
        for key, value in weights.items()
    }
    positions = state_dict.get("pos_embed")
    if positions is not None:
        new = model.patch_embed.grid_size
        count = positions.shape[1] - 1
        side = isqrt(count)
        if side**2 == count and (side, side) != new:
            _logger.info("interpolating position embeddings from %s to %s", (side, side), new)
            state_dict["pos_embed"] = resample(positions, (side, side), new)
    return state_dict
