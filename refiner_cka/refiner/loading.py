"""Reading checkpoint files: the released ones, and what training scripts write."""

import logging
from collections.abc import Mapping
from math import isqrt
from typing import Any

from .model import Refiner
from .positions import resample, square_grid

_logger = logging.getLogger(__name__)

# Where training scripts keep the weights in a checkpoint, the averaged ones first.
NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: Refiner) -> dict[str, Any]:
    """Turn the content of a checkpoint file into a state dict for `model`.

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
        old = square_grid(positions) if isqrt(count) ** 2 == count else new
        if old != new:
            _logger.info("interpolating position embeddings from %s to %s", old, new)
            state_dict["pos_embed"] = resample(positions, old, new)
    return state_dict
