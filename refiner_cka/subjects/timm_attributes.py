"""What the attributes that timm's models have say of a network: how tokens lie, what it expects of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..images.preprocessing import Preprocessing
from .readout import ModelLayout
from .spec import Size


def config(module: nn.Module) -> Mapping[str, Any]:
    """Return timm's configuration of a network: its weights and their preprocessing; empty if it has none."""
    found = getattr(module, "pretrained_cfg", None)
    return found if isinstance(found, Mapping) else {}


def layout(module: nn.Module) -> ModelLayout:
    """Return what is known of how tokens lie in a network's layers; of any network."""
    embedding = patch_embedding(module)
    patches = getattr(embedding, "num_patches", None)
    if patches is None and (grid := getattr(embedding, "grid_size", None)):
        patches = math.prod(grid)
    if getattr(module, "dynamic_img_size", False):
        patches = None
    prefix = getattr(module, "num_prefix_tokens", None)
    learned = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
    return ModelLayout(
        prefix=None if prefix is None else int(prefix),
        patches=patches,
        class_token="cls_token" in learned or "reg_token" not in learned,
    )


def preprocessing(module: nn.Module, image_size: Size | None = None) -> Preprocessing:
    """Return what a timm model expects of an image, at the size it was built for unless another is given.

    `test_input_size`, a larger size at which some ResNets score best, is not used: the representations asked
    about are those of the size the model was made for.
    """
    from timm.data import config as data_config

    resolve: Callable[..., dict[str, Any]] = data_config.resolve_model_data_config

    height, width = image_size or _built_size(module)
    channels = int(getattr(module, "in_chans", 3))
    found = resolve(module, args={"input_size": (channels, height, width)})
    return Preprocessing(
        input_size=(channels, height, width),
        mean=_per_channel(found["mean"], channels),
        std=_per_channel(found["std"], channels),
        interpolation=str(found["interpolation"]),
        crop_pct=float(found["crop_pct"]),
        crop_mode=str(found["crop_mode"]),
    )


def patch_embedding(module: nn.Module) -> nn.Module | None:
    """Return what cuts an image into patches, where there is such a part (mixers call it a stem)."""
    parts = (getattr(module, name, None) for name in ("patch_embed", "stem"))
    return next((part for part in parts if hasattr(part, "patch_size")), None)


def _built_size(module: nn.Module) -> Size:
    size = getattr(patch_embedding(module), "img_size", None)
    if not (isinstance(size, tuple) and len(size) == 2):
        size = config(module).get("input_size", (3, 224, 224))[-2:]
    return int(size[0]), int(size[1])


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(map(float, values))
    return (float(sum(values) / len(values)),) * channels
