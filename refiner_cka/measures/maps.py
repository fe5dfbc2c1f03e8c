"""Attention maps: what the measures need of them, and the meter that shows them to these.

All measures drop the prefix tokens' rows and columns. A softmax map is then divided by its row sums, so that a
row is a distribution over patches. The rows of a refined map do not sum to 1 and may hold negative weights:
entropy, distance and sink take the positive part of each row over its sum, similarities take the map as it is,
and row sum and negative share are measures themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import LayerError
from ..images import Batch
from ..subjects.attention import MapKind, Point, find_points, unfused
from ..subjects.layouts import grid_of, prefix_of
from ..subjects.model import Model
from ..subjects.readout import Grid, exact_dtype
from ..sums import Quantity, along_depth
from .meter import Meter, Setting, Site
from .scaling import common_scale, lengths
from .tally import Measure, Tally, marked, share

AXIS = "attention"
"""The axis of the blocks whose maps are measured."""

CHUNK_IMAGES = 8
"""Images of one forward pass while attention is measured."""

SIMILARITY_IMAGES = 32
"""Images of a run, at most `CHUNK_IMAGES` of a batch, on which maps are compared between blocks."""

_MAPS_AT_ONCE = 6
"""How many times the maps of the images that pass together exist at once, the model's own included. Measured: two
blocks of DeiT-S at 448 pixels, with maps of 113 MiB, made the peak of a run grow by 651 MiB, 5.8 of them, and each
further block by the 18.8 MiB that its columns are said to take."""

_COPIES = 3
"""Of all columns of a model, while they are compared."""

_COLUMN_SCALE = 2.0**60
"""Makes every weight a normal number, the largest, of about 1, still far from overflow."""

BLOCK_SIMILARITY = Quantity(
    "attention_block_similarity",
    "smoothing/attention_block_similarity",
    "mean",
    (AXIS, AXIS),
    "Similarity of maps between blocks",
    "mean cosine of the columns of two blocks' head-averaged maps",
    (-1.0, 1.0),
    "higher",
    "Zhou et al., arXiv 2103.11886, of head-averaged maps",
    few=True,
)


def distances(grid: Grid, patch: tuple[float, float], device: torch.device) -> torch.Tensor:
    """Return the distance in pixels between the centres of all pairs of patches, `(N, N)`.

    Args:
        grid: rows and columns of patches.
        patch: height and width of a patch in pixels.
        device: where to make it.
    """
    rows = torch.arange(grid[0], dtype=torch.float32, device=device) * patch[0]
    columns = torch.arange(grid[1], dtype=torch.float32, device=device) * patch[1]
    places = torch.cartesian_prod(rows, columns)
    return (places.unsqueeze(1) - places).square().sum(2).sqrt()


class Maps:
    """The attention maps of one block for a chunk of images, and what several measures need of them.

    All but `row_sums` are of the maps divided by one power of two, for refined maps may have any size.

    Args:
        maps: `(images, heads, tokens, tokens)` of any floating type; a row attends, a column is attended to.
        prefix: number of prefix tokens.
        kind: `softmax` or `refined`.
        distances: between patches in pixels, `(N, N)`.
    """

    def __init__(
        self, maps: torch.Tensor, prefix: int, kind: MapKind, distances: torch.Tensor
    ) -> None:
        self._scale = common_scale([maps])
        maps = maps.float()
        self._maps = maps if self._scale is None else maps * self._scale.reciprocal()
        self._prefix = prefix
        self._kind = kind
        self.distances = distances

    @property
    def row_sums(self) -> torch.Tensor:
        """Sums of the patches' rows over all tokens, `(images, heads, N)`, float64 where the device has it."""
        sums = self._maps[:, :, self._prefix :].sum(-1)
        exact = sums.to(exact_dtype(sums.device))
        return exact if self._scale is None else exact * self._scale

    @property
    def patches(self) -> torch.Tensor:
        """The map among patches with its negative weights, `(images, heads, N, N)`."""
        return self._maps[:, :, self._prefix :, self._prefix :]

    @functools.cached_property
    def weights(self) -> torch.Tensor:
        """Distributions over patches `(images, heads, N, N)`; NaN where a row has no positive weight."""
        positive = self.patches if self._kind == "softmax" else self.patches.clamp_min(0.0)
        return positive / positive.sum(-1, keepdim=True)

    @property
    def compared(self) -> torch.Tensor:
        """The map whose columns are compared, `(images, heads, N, N)`."""
        return self.weights.nan_to_num(0.0) if self._kind == "softmax" else self.patches

    @property
    def finite(self) -> torch.Tensor:
        """Whether an image's maps are finite, `(images,)`."""
        return self._maps.isfinite().flatten(1).all(1)


@dataclass(frozen=True)
class Block:
    """Where and how one block's maps are read.

    Attributes:
        position: on the axis of attention.
        point: where the maps are.
        heads: number of heads.
        prefix: number of prefix tokens.
        grid: rows and columns of the patches.
        patch: height and width of a patch in pixels.
    """

    position: int
    point: Point
    heads: int
    prefix: int
    grid: Grid
    patch: tuple[float, float]

    @property
    def map_bytes(self) -> int:
        """Bytes of one image's map in float32."""
        return 4 * self.heads * (self.prefix + math.prod(self.grid)) ** 2

    @property
    def column_bytes(self) -> int:
        """Bytes of one image's columns, of its map averaged over heads."""
        return 4 * math.prod(self.grid) ** 2


class AttentionMeter(Meter):
    """Measures of every block's attention maps, and how alike the maps of a model's blocks are."""

    def __init__(self, setting: Setting, measures: Sequence[Measure]) -> None:
        self.setting = setting
        self._measures = measures
        self.quantities = (*(measure.quantity for measure in measures), BLOCK_SIMILARITY)
        self._blocks: dict[Model, list[Block]] = {}
        self._columns: dict[Block, list[torch.Tensor]] = {}

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Look at every map among patches on a grid, some images at a time.

        Raises:
            LayerError: no model has any.
        """
        lines: list[str] = []
        blocks: list[tuple[Model, Block]] = []
        for model in models:
            self._blocks[model], said = _blocks_of(model, len(blocks))
            blocks += [(model, block) for block in self._blocks[model]]
            lines += said
        if not blocks:
            raise LayerError(f"--attention: {lines[-1]}")
        self._count = len(blocks)
        self.axes = {
            AXIS: along_depth([(model.name, at.point.path, at.point.kind) for model, at in blocks])
        }
        self.identity = {
            AXIS: [[model.number, at.point.path, at.point.kind, at.prefix] for model, at in blocks]
        }
        return [
            Site(model, block.point.hook, functools.partial(self._see, block), chunk=CHUNK_IMAGES)
            for model, block in blocks
        ], lines

    def memory(self, images: int) -> Mapping[str, int]:
        """Return the bytes of the maps of the images that pass together, and of the columns kept of a model."""
        most = 0
        for model, blocks in self._blocks.items():
            together = images if model.whole else min(images, CHUNK_IMAGES)
            maps = max((block.map_bytes for block in blocks), default=0) * together * _MAPS_AT_ONCE
            columns = sum(block.column_bytes for block in blocks) * min(images, CHUNK_IMAGES)
            most = max(most, columns + max(maps, _COPIES * columns))
        return {"attention maps": most}

    def around(self, model: Model) -> AbstractContextManager[None]:
        """Have the model make its maps."""
        return unfused(model.subject.module) if self._blocks[model] else nullcontext()

    def begin(self, batch: Batch) -> None:
        """Make room for the batch."""
        count, device = self._count, self.setting.device
        *single, pairs = self.quantities
        self._tally = Tally(dict.fromkeys(single, (count,)), batch.folds, device)
        taken = share(SIMILARITY_IMAGES, batch.index, self.setting.plan)
        self._compared = min(taken, CHUNK_IMAGES, batch.images)
        self._similar = Tally({pairs: (count, count)}, batch.folds[: self._compared], device)

    def start(self, model: Model) -> None:
        """Forget the columns of passes that ran out of memory."""
        self._columns.clear()

    def _see(self, block: Block, chunks: Sequence[torch.Tensor], images: slice) -> None:
        """Measure a block's maps of some images."""
        between = distances(block.grid, block.patch, self.setting.device)
        maps = Maps(torch.cat(list(chunks)), block.prefix, block.point.kind, between)
        for measure in self._measures:
            values = marked(measure.function(maps), maps.finite)
            self._tally.put(measure.quantity.name, block.position, values, images.start)
        if images.start < self._compared:
            columns = block_columns(maps, self._compared - images.start)
            self._columns.setdefault(block, []).append(columns)

    def end(self, model: Model, outputs: Sequence[Any]) -> None:
        """Compare the maps of the model's blocks, and let them go."""
        for kind in ("softmax", "refined"):
            # As they lie on the axis, whatever the order in which the model calls them.
            of_kind = [block for block in self._columns if block.point.kind == kind]
            blocks = sorted(of_kind, key=lambda block: block.position)
            columns = [torch.cat(self._columns[block]) for block in blocks]
            if len({each.shape for each in columns}) != 1:
                continue  # Maps of blocks with other grids have no columns in common.
            similar = block_similarity(columns).permute(1, 2, 0)
            # A model's blocks of one kind follow one another.
            own = slice(blocks[0].position, blocks[-1].position + 1)
            self._similar.put(BLOCK_SIMILARITY.name, (own, own), similar)
        self._columns.clear()

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return the sums of each measure at each block, and of the similarity of pairs of blocks."""
        return self._tally.added() | self._similar.added()


def _blocks_of(model: Model, first: int) -> tuple[list[Block], list[str]]:
    """Return where one model's maps are measured, the positions from `first` on, and why others are not."""
    module, (height, width) = model.subject.module, model.shape[-2:]
    points = find_points(module)
    if not points:
        return [], [
            f"{model.name} has no attention that can be read: timm's ViT and DeiT and Refiner have"
        ]
    with unfused(module):
        calls = model.watch([point.hook for point in points])
    found: list[Block] = []
    lines: list[str] = []
    for point in points:
        outputs = calls.get(point.hook, ())
        if not outputs:
            continue  # Refiner's shared attention has no softmax of its own.
        try:
            heads, prefix, grid = _reading(outputs, model)
        except LayerError as error:
            lines.append(
                f"{model.name}: the map of {point.path} {error}; left out of the attention measures"
            )
        else:
            patch = (height / grid[0], width / grid[1])
            found.append(Block(first + len(found), point, heads, prefix, grid, patch))
    return found, lines


def _reading(outputs: Sequence[torch.Tensor | None], model: Model) -> tuple[int, int, Grid]:
    """Return heads, prefix tokens and grid of maps that a module returned.

    Raises:
        LayerError: they cannot be read; the message goes on after the words "the map of ...".
    """
    maps = outputs[0]
    images, size, module = model.probe_images, model.shape[-2:], model.subject.module
    if len(outputs) > 1 or maps is None or maps.ndim != 4 or maps.shape[0] != images:
        raise LayerError(f"is no one map of {images} images x heads x tokens")
    prefix = prefix_of(maps.shape[2], model.subject.layout, module, size)
    grid = grid_of(maps.shape[2] - prefix, module, size)
    if maps.shape[2] != maps.shape[3] or grid is None:
        shape = "x".join(map(str, maps.shape[2:]))
        raise LayerError(f"of {shape} is not among patches on a grid")
    return maps.shape[1], prefix, grid


def block_columns(maps: Maps, images: int) -> torch.Tensor:
    """Return the unit columns of the head-averaged maps of the first images, `(images, N x N)`."""
    return unit_columns(maps.compared[:images].mean(1)).flatten(1)


def block_similarity(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean cosine of columns between blocks, `(images, blocks, blocks)`.

    As in DeepViT (Zhou et al., arXiv 2103.11886, eq. 2), of head-averaged maps.

    Args:
        columns: of each block, from `block_columns`.
    """
    stack = torch.stack(list(columns), 1)
    # A column of zeros has no direction: pairs with one are left out of the mean.
    side = round(stack.shape[2] ** 0.5)
    directed = (stack.view(*stack.shape[:2], side, side) != 0).any(2).to(stack.dtype)
    pairs = directed @ directed.mT
    cosine = (stack @ stack.mT) / pairs
    return cosine.where(pairs > 0, float("nan"))


def unit_columns(maps: torch.Tensor) -> torch.Tensor:
    """Return maps `(..., N, N)` with columns of length 1, or 0 where they are 0."""
    # A column that hardly any attention falls on may hold denormal numbers, whose inverse is beyond float32.
    maps = maps * _COLUMN_SCALE
    sizes = lengths(maps.mT).unsqueeze(-2)
    return maps * sizes.reciprocal().where(sizes > 0, 0.0)
