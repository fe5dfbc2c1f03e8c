"""Where a model's attention maps can be read, and how they are made to be there.

Maps are read where a model makes them: after the softmax in timm's attention (whose fused kernel, which never
makes the map, is switched off meanwhile), and raw and refined in Refiner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..refiner.attention import MapAttention

MapKind = Literal["softmax", "refined"]


@dataclass(frozen=True)
class Point:
    """A place in a model where a map can be read.

    Attributes:
        path: the attention module.
        hook: the module whose output is the map.
        kind: `softmax`, or `refined` (Refiner's).
    """

    path: str
    hook: str
    kind: MapKind


def find_points(module: nn.Module) -> list[Point]:
    """Return where attention maps can be read, in timm's attention modules and in Refiner's; softmax first."""
    points: list[Point] = []
    for path, part in module.named_modules():
        if isinstance(part, MapAttention):
            points.append(Point(path, f"{path}.raw_map", "softmax"))
            if part.refines:
                points.append(Point(path, f"{path}.refined_map", "refined"))
        elif isinstance(getattr(part, "fused_attn", None), bool) and hasattr(part, "attn_drop"):
            points.append(Point(path, f"{path}.attn_drop", "softmax"))
    return sorted(points, key=lambda point: point.kind != "softmax")


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Have timm's attention make its maps inside the block; afterwards as it was, whatever happened."""
    before = [
        (part, part.fused_attn)
        for part in module.modules()
        if isinstance(getattr(part, "fused_attn", None), bool)
    ]
    try:
        for part, _ in before:
            part.__dict__["fused_attn"] = False
        yield
    finally:
        for part, fused in before:
            part.__dict__["fused_attn"] = fused
