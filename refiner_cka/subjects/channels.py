"""How many channels the modules of a layer make, and on which axis: evidence of how its output lies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Channels:
    """Numbers of channels in a layer's modules.

    Attributes:
        first: of modules that put them on the axis after the images (convolutions and their norms).
        last: of modules that put them on the last axis (linear layers, layer norms).
        linear: of linear layers alone.
    """

    first: frozenset[int]
    last: frozenset[int]
    linear: frozenset[int]

    def __contains__(self, channels: int) -> bool:
        return channels in self.first or channels in self.last


def channels_of(layer: nn.Module) -> Channels:
    """Return the numbers of channels in a layer and the modules inside it."""
    first: set[int] = set()
    last: set[int] = set()
    linear: set[int] = set()
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            linear.add(part.out_features)
        elif isinstance(shape := getattr(part, "normalized_shape", None), tuple):
            # timm's LayerNorm2d is a LayerNorm over the second axis.
            (first if "2d" in type(part).__name__ else last).add(shape[-1])
        elif isinstance(part, nn.Conv1d | nn.Conv2d):
            first.add(part.out_channels)
        elif isinstance(part, nn.BatchNorm2d | nn.InstanceNorm2d):
            first.add(part.num_features)
        elif isinstance(part, nn.GroupNorm):
            first.add(part.num_channels)
    return Channels(frozenset(first), frozenset(last | linear), frozenset(linear))
