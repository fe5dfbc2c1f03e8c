"""What attention maps say about over-smoothing: one table of measures.

All measures drop the prefix tokens' rows and columns. A softmax map is then divided by its row sums, so that a
row is a distribution over patches. The rows of a refined map do not sum to 1 and may hold negative weights:
entropy and distance take the positive part of each row over its sum, similarities take the map as it is, and row
sum and negative share are measures themselves.

No torch is imported with this module.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..sums import Quantity
from .tokens import Measure

if TYPE_CHECKING:
    import torch

    from ..subjects.attention import MapKind
    from ..subjects.readout import Grid

CHUNK_IMAGES = 8
"""Images of one forward pass while attention is measured."""

SIMILARITY_IMAGES = 32
"""Images of a run, at most `CHUNK_IMAGES` of a batch, on which maps are compared between blocks."""

_COLUMN_SCALE = 2.0**60
"""Makes every weight a normal number, the largest, of about 1, still far from overflow."""

BLOCK_SIMILARITY = Quantity(
    "attention_block_similarity",
    "Similarity of maps between blocks",
    "mean cosine of the columns of two blocks' head-averaged maps",
    (-1.0, 1.0),
    "higher",
    "Zhou et al., arXiv 2103.11886, of head-averaged maps",
    places="pairs of maps",
    few=True,
)


def distances(grid: Grid, patch: tuple[float, float], device: torch.device) -> torch.Tensor:
    """Return the distance in pixels between the centres of all pairs of patches, `(N, N)`.

    Args:
        grid: rows and columns of patches.
        patch: height and width of a patch in pixels.
        device: where to make it.
    """
    import torch

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
        from .scaling import common_scale

        self._scale = common_scale([maps])
        maps = maps.float()
        self._maps = maps if self._scale is None else maps * self._scale.reciprocal()
        self._prefix = prefix
        self._kind = kind
        self.distances = distances

    @property
    def row_sums(self) -> torch.Tensor:
        """Sums of the patches' rows over all tokens, `(images, heads, N)`, float64 where the device has it."""
        from ..subjects.readout import exact_dtype

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


def entropy(maps: Maps) -> torch.Tensor:
    """Mean entropy of a row in nats, over heads and patches."""
    weights = maps.weights
    return weights.xlogy(weights).sum(-1).nanmean((1, 2)).neg()


def distance(maps: Maps) -> torch.Tensor:
    """Mean distance in pixels between a patch and those it attends to (itself too), by weight."""
    return (maps.weights * maps.distances).sum(-1).nanmean((1, 2))


def head_similarity(maps: Maps) -> torch.Tensor:
    """Mean cosine of the columns of the maps of two different heads."""
    units = _unit_columns(maps.compared)
    heads = (units != 0).any(2).sum(1)  # (images, N): of how many heads the column is not all 0
    sums = units.sum(1).square().sum(1)
    cosine = (sums - heads) / (heads * (heads - 1))
    return cosine.where(heads > 1, float("nan")).nanmean(1)


def row_sum(maps: Maps) -> torch.Tensor:
    """Mean sum of a patch's row over all tokens: 1 for a softmax."""
    return maps.row_sums.mean((1, 2))


def negative_share(maps: Maps) -> torch.Tensor:
    """Share of the weight among patches, in absolute value, that is negative."""
    patches = maps.patches
    return patches.clamp_max(0.0).abs().sum((1, 2, 3)) / patches.abs().sum((1, 2, 3))


def block_columns(maps: Maps, images: int) -> torch.Tensor:
    """Return the unit columns of the head-averaged maps of the first images, `(images, N x N)`."""
    return _unit_columns(maps.compared[:images].mean(1)).flatten(1)


def block_similarity(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean cosine of columns between blocks, `(images, blocks, blocks)`.

    As in DeepViT (Zhou et al., arXiv 2103.11886, eq. 2), of head-averaged maps.

    Args:
        columns: of each block, from `block_columns`.
    """
    import torch

    stack = torch.stack(list(columns), 1)
    # A column of zeros has no direction: pairs with one are left out of the mean.
    side = round(stack.shape[2] ** 0.5)
    directed = (stack.view(*stack.shape[:2], side, side) != 0).any(2).to(stack.dtype)
    pairs = directed @ directed.mT
    cosine = (stack @ stack.mT) / pairs
    return cosine.where(pairs > 0, float("nan"))


MEASURES: dict[str, Measure] = {
    "attention_entropy": Measure(
        entropy,
        Quantity(
            "attention_entropy",
            "Attention entropy (nats)",
            "mean entropy of a patch's attention over the patches; ln N if uniform",
            (0.0, None),
            "higher",
            "Zhai et al., arXiv 2303.06296",
            places="maps",
        ),
    ),
    "attention_distance": Measure(
        distance,
        Quantity(
            "attention_distance",
            "Attention distance (pixels)",
            "mean distance to what a patch attends to; 116.5 px if uniform over 14x14 patches of 16 px",
            (0.0, None),
            "higher",
            "Dosovitskiy et al., arXiv 2010.11929",
            places="maps",
        ),
    ),
    "attention_head_similarity": Measure(
        head_similarity,
        Quantity(
            "attention_head_similarity",
            "Similarity between heads",
            "mean cosine of the columns of two heads' maps",
            (-1.0, 1.0),
            "higher",
            "Zhou et al., arXiv 2103.11886, between heads",
            places="maps",
        ),
    ),
    "attention_row_sum": Measure(
        row_sum,
        Quantity(
            "attention_row_sum",
            "Row sum of the map",
            "mean sum of a patch's row over all tokens; 1 for a softmax",
            (None, None),
            None,
            "Zhou et al., arXiv 2106.03714",
            places="maps",
        ),
    ),
    "attention_negative": Measure(
        negative_share,
        Quantity(
            "attention_negative",
            "Negative share of the map",
            "share of the weight among patches that is negative; 0 for a softmax",
            (0.0, 1.0),
            None,
            "Zhou et al., arXiv 2106.03714",
            places="maps",
        ),
    ),
}
"""Name -> measure of a block's maps."""


def _unit_columns(maps: torch.Tensor) -> torch.Tensor:
    """Return maps `(..., N, N)` with columns of length 1, or 0 where they are 0."""
    from .scaling import lengths

    # A column that hardly any attention falls on may hold denormal numbers, whose inverse is beyond float32.
    maps = maps * _COLUMN_SCALE
    sizes = lengths(maps.mT).unsqueeze(-2)
    return maps * sizes.reciprocal().where(sizes > 0, 0.0)
