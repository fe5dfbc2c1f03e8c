"""Where over-smoothing is measured: which of a layer's numbers are its tokens, which outputs attention maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import LayerError
from .attention import Point
from .layouts import grid_of, prefix_of
from .locality import Reading
from .readout import Grid, ModelLayout, TokenLayout, patches_of, tokens_of


@dataclass(frozen=True)
class TokenSite:
    """How the tokens of one layer are measured.

    Attributes:
        layout: how they lie.
        with_prefix: whether the prefix tokens count.
        grid: rows and columns of the patches, or `None` if unknown.
    """

    layout: TokenLayout
    with_prefix: bool
    grid: Grid | None

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tokens that count, `(images, tokens, channels)`."""
        return (tokens_of if self.with_prefix else patches_of)(tensor, self.layout)


@dataclass(frozen=True)
class AttentionSite:
    """Where and how one block's attention maps are read.

    Attributes:
        subject: number of the model.
        point: where the maps are.
        prefix: number of prefix tokens.
        grid: rows and columns of the patches.
        patch: height and width of a patch in pixels.
    """

    subject: int
    point: Point
    prefix: int
    grid: Grid
    patch: tuple[float, float]


def token_site(output: torch.Tensor, reading: Reading | None, prefix: bool) -> TokenSite | None:
    """Return where the tokens of a layer are measured, or `None` if it has fewer than two patches.

    Args:
        output: the layer's output, of which only the shape matters.
        reading: how it is read; `None` if it is `(images, channels)`.
        prefix: whether the prefix tokens count.
    """
    if reading is None or patches_of(output, reading.layout).shape[1] < 2:
        return None
    return TokenSite(reading.layout, prefix, reading.grid)


def attention_sites(
    subject: int,
    points: Sequence[Point],
    calls: Mapping[str, Sequence[torch.Tensor | None]],
    images: int,
    known: ModelLayout,
    module: nn.Module,
    image: Sequence[int],
) -> tuple[list[AttentionSite], list[str]]:
    """Return where a model's attention is measured, and why not elsewhere, one reason each.

    Args:
        subject: number of the model.
        points: from `find_points`.
        calls: what each hooked module returned in one forward pass.
        images: of that pass.
        known: what is known of how the model's tokens lie.
        module: the model.
        image: `(channels, height, width)` of its input.
    """
    height, width = image[-2:]
    sites, reasons = [], []
    for point in points:
        outputs = calls.get(point.hook, ())
        if not outputs:
            continue  # Refiner's shared attention has no softmax of its own.
        maps = outputs[0]
        if len(outputs) > 1 or maps is None or maps.ndim != 4 or maps.shape[0] != images:
            reasons.append(f"{point.path} makes no one map of {images} images x heads x tokens")
            continue
        try:
            prefix = prefix_of(maps.shape[2], known, module, image[-2:])
        except LayerError as error:
            reasons.append(f"the map of {point.path} {error}")
            continue
        grid = grid_of(maps.shape[2] - prefix, module, image[-2:])
        if maps.shape[2] != maps.shape[3] or grid is None:
            shape = "x".join(map(str, maps.shape[2:]))
            reasons.append(f"the map of {point.path}, {shape}, is not among patches on a grid")
            continue
        sites.append(
            AttentionSite(subject, point, prefix, grid, (height / grid[0], width / grid[1]))
        )
    return sites, reasons


def as_json(sites: Sequence[AttentionSite]) -> list[list[Any]]:
    """Return sites as JSON types, for the fingerprint."""
    return [[site.subject, site.point.path, site.point.kind, site.prefix] for site in sites]
