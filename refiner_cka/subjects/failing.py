"""Why a network does not run on images, in one line that says what to do."""

from __future__ import annotations

import inspect

from torch import nn

from ..errors import one_line

_VISION_TOWERS = ("vision_model", "vision_tower", "visual", "vision_encoder", "image_encoder")


def why_it_fails(module: nn.Module, error: Exception) -> str:
    """Return one line on why a network failed on images: it takes text as well, or the error's first line."""
    tower = _vision_tower(module)
    whole = module if tower is None else module.get_submodule(tower.rpartition(".")[0])
    if "input_ids" not in inspect.signature(whole.forward).parameters:
        return one_line(error)
    part = "the part of it that takes images alone"
    if tower is not None:
        part = f"its vision tower, model.{tower} (a {type(module.get_submodule(tower)).__name__})"
    return f"{type(module).__name__} takes more than images: give {part}"


def _vision_tower(module: nn.Module) -> str | None:
    """Return the path of the outermost child that is named as a vision tower is."""
    paths = (path for path, _ in module.named_modules())
    towers = [path for path in paths if path.rpartition(".")[2] in _VISION_TOWERS]
    return min(towers, key=lambda path: path.count("."), default=None)
