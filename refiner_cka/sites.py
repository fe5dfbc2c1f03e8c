"""Where over-smoothing is measured: which of a layer's numbers are its tokens, which outputs attention maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .attention import Point
from .errors import LayerError
from .readout import TokenLayout, tokens_of
from .smoothing import Grid

_PREFIXES = (0, 1, 2, 4, 5)
"""Prefix tokens that models have: none, class, distillation, and four registers without and with a class."""


@dataclass(frozen=True)
class TokenSite:
    """How the tokens of one layer are read.

    Attributes:
        layout: how they lie.
        with_prefix: whether the prefix tokens count.
        grid: rows and columns of the patches, or `None` if unknown.
    """

    layout: TokenLayout
    with_prefix: bool
    grid: Grid | None

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tokens that count, `(images, tokens, dim)`."""
        tokens, prefix = tokens_of(tensor, self.layout)
        return tokens if self.with_prefix else tokens[:, prefix:]


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


def token_site(
    output: torch.Tensor, layout: TokenLayout, module: nn.Module, image: Sequence[int], prefix: bool
) -> TokenSite | None:
    """Return how the tokens of a layer are read, or `None` if it has fewer than two.

    Args:
        output: the layer's output, of which only the shape matters.
        layout: how its tokens lie, or are said to lie.
        module: the model.
        image: `(channels, height, width)` of its input.
        prefix: whether the prefix tokens count.

    Raises:
        LayerError: the shape contradicts the layout.
    """
    if output.ndim not in (3, 4):
        return None
    tokens, skipped = tokens_of(output, layout)
    count = tokens.shape[1] - skipped
    if count < 2:
        return None
    height, width = image[-2:]
    grid: Grid | None
    if output.ndim == 4:
        grid = _checked_grid(output, layout, height, width)
    else:
        grid = grid_of(count, module, height, width)
        if grid is None:
            _check_prefix(tokens.shape[1], skipped, module, height, width)
    return TokenSite(layout, prefix, grid)


def attention_sites(
    subject: int,
    points: Sequence[Point],
    calls: Mapping[str, Sequence[torch.Tensor | None]],
    images: int,
    layout: TokenLayout,
    module: nn.Module,
    image: Sequence[int],
) -> tuple[list[AttentionSite], list[str]]:
    """Return where a model's attention is measured, and why not elsewhere, one reason each.

    Args:
        subject: number of the model.
        points: from `find_points`.
        calls: what each hooked module returned in one forward pass.
        images: of that pass.
        layout: how the model's tokens lie.
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
        prefix = min(layout.prefix, maps.shape[2])
        grid = grid_of(maps.shape[2] - prefix, module, height, width)
        if maps.shape[2] != maps.shape[3] or grid is None:
            shape = "x".join(map(str, maps.shape[2:]))
            reasons.append(f"the map of {point.path}, {shape}, is not among patches on a grid")
            continue
        sites.append(
            AttentionSite(subject, point, prefix, grid, (height / grid[0], width / grid[1]))
        )
    return sites, reasons


def grid_of(count: int, module: nn.Module, height: int, width: int) -> Grid | None:
    """Return rows and columns of so many patches: the model's own grid, or the one of the image's proportions."""
    own = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if own is not None and own[0] * own[1] == count:
        return int(own[0]), int(own[1])
    rows = round((count * height / width) ** 0.5)
    if rows and count % rows == 0 and rows * width == count // rows * height:
        return rows, count // rows
    return None


def _checked_grid(output: torch.Tensor, layout: TokenLayout, height: int, width: int) -> Grid:
    """Return the grid of a 4-d output.

    Raises:
        LayerError: its axes lie the other way, judged by the proportions of the image.
    """

    def grid(spatial: str) -> Grid:
        shape = output.shape[1:3] if spatial == "nhwc" else output.shape[2:]
        return shape[0], shape[1]

    def fits(spatial: str) -> bool:
        rows, columns = grid(spatial)
        return abs(rows - columns * height / width) <= 1

    other = "nchw" if layout.spatial == "nhwc" else "nhwc"
    if not fits(layout.spatial) and fits(other):
        raise LayerError(
            f"returns {tuple(output.shape)}, which is {other} and not {layout.spatial} on images of "
            f"{height}x{width}: give Subject.from_module tokens={other!r}"
        )
    return grid(layout.spatial)


def _check_prefix(tokens: int, prefix: int, module: nn.Module, height: int, width: int) -> None:
    """Refuse a number of prefix tokens that leaves no grid where another leaves one.

    Raises:
        LayerError: says which.
    """
    for other in _PREFIXES:
        if other < tokens and grid_of(tokens - other, module, height, width) is not None:
            raise LayerError(
                f"returns {tokens} tokens, which without {prefix} prefix tokens make no grid on images of "
                f"{height}x{width}, and do without {other}: give Subject.from_module prefix_tokens={other}"
            )


def as_json(sites: Sequence[AttentionSite]) -> list[list[Any]]:
    """Return sites as JSON types, for the fingerprint."""
    return [[site.subject, site.point.path, site.point.kind, site.prefix] for site in sites]
