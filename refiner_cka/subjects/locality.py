"""Where in the image a token looks: each part of the image is changed in turn, and every token's change is seen.

A patch token changes most when its own part of the image does: its residual stream starts there, and the fields of
convolutions are centred there. So a wrong order of the tokens on the grid (windows, mask units), or a channel axis
taken for places, shows, whatever the weights are. Where all tokens change alike, after many global averages say,
nothing can be said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from .hooks import capture
from .readout import Grid, TokenLayout, tensor_of, tokens_of

_IMAGES = 3
"""Images of each forward pass."""

PARTS = 3
"""The image is divided into PARTS x PARTS parts."""

_FOCUS = 2.0
"""Nothing can be said if the tokens that change most change less than so many times as much as the mean token."""

_PLACED = 0.5
"""A reading is wrong if tokens of the changed part have less than this of the largest change so many tokens have.

In the blocks of timm's families, untrained, they have 0.8 to 1 of it; where tokens are not in raster order
(Hiera's mask units) 0.1, and where channels are taken for places 0.3.
"""

_STRAY = 4.0
"""A prefix token is a patch if one part changes it more than so many times as much as the mean part. Of nine parts
one alone would be nine times the mean; class tokens of untrained networks have at most 2."""

_STEADY = 0.1
"""An image given twice may change tokens by so much of what a changed part does: rounding, and no chance."""


Verdict = Literal["placed", "misplaced", "unknown", "stray"]
"""What the changes of tokens say of a reading: its patches change where the image does, or not, or nothing can be
said; or a prefix token does: then it is a patch, and another token is none."""


@dataclass(frozen=True)
class Reading:
    """One way to read a layer's output.

    Attributes:
        layout: how its tokens lie.
        grid: rows and columns of the patches, which follow one another row by row; `None` if they do not, or if
            it is not known.
    """

    layout: TokenLayout
    grid: Grid | None


def locate(
    module: nn.Module,
    readings: Mapping[str, Sequence[Reading]],
    forward: Callable[[torch.Tensor], Any],
    image: Sequence[int],
) -> dict[str, dict[Reading, Verdict]]:
    """Return of each reading in question of each layer whether its tokens are in their places.

    `forward` runs the model on images `(3, *image)`; `image` is `(channels, height, width)`.
    """
    changes: dict[str, dict[Reading, list[torch.Tensor]]] = {
        path: {way: [] for way in ways} for path, ways in readings.items()
    }

    def visit(path: str, output: Any) -> None:
        tensor = tensor_of(output, _IMAGES)
        assert tensor is not None  # it has been probed
        for way, found in changes[path].items():
            tokens = tokens_of(tensor, way.layout).to(torch.float32)
            found.append((tokens[1:] - tokens[:1]).square().sum(2).cpu())

    with capture(module, list(readings), visit):
        for batch in _batches(image):
            forward(batch)
    return {
        path: {way: _verdict(torch.cat(found).double(), way) for way, found in ways.items()}
        for path, ways in changes.items()
    }


def _batches(image: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield an image of noise with two others: with one part changed, one after the other, and at last itself."""
    generator = torch.Generator().manual_seed(0)
    whole, other = torch.randn(2, *image, generator=generator)
    rows, columns = (
        [slice(part * side // PARTS, (part + 1) * side // PARTS) for part in range(PARTS)]
        for side in image[-2:]
    )
    variants = []
    for row, column in itertools.product(rows, columns):
        changed = whole.clone()
        changed[:, row, column] = other[:, row, column]
        variants.append(changed)
    variants.append(whole)
    for one, two in zip(variants[::2], variants[1::2], strict=True):
        yield torch.stack([whole, one, two])  # _IMAGES of them


def _verdict(changes: torch.Tensor, way: Reading) -> Verdict:
    """Return what squared changes `(parts + 1, tokens)`, the last of the same image again, say of a reading."""
    prefix = changes[:-1, : way.layout.prefix]
    # A class token sees all of the image; a patch that is taken for one changes most with its own part.
    if prefix.isfinite().all() and (prefix.amax(0) > _STRAY * prefix.mean(0)).any():
        return "stray"
    patches, grid = changes[:, way.layout.prefix :], way.grid
    if grid is None or min(grid) < 2 or not patches.isfinite().all():
        return "unknown"
    parts, repeated = patches[:-1], patches[-1]
    if repeated.mean() > _STEADY * parts.mean():
        return "misplaced"
    # A token that changes much with every part, as outliers do, has no more say than the others.
    shares = parts / parts.mean(0).where(parts.mean(0) > 0, 1.0)
    rows = (torch.arange(grid[0]) + 0.5) * PARTS // grid[0]
    columns = (torch.arange(grid[1]) + 0.5) * PARTS // grid[1]
    part_of = (rows.unsqueeze(1) * PARTS + columns).flatten()
    inside = part_of == torch.arange(PARTS**2).unsqueeze(1)
    counts = inside.sum(1)
    uniform = (shares.mean(1) * counts).sum()
    most = sum(
        part.topk(int(count)).values.sum() for part, count in zip(shares, counts, strict=True)
    )
    if not most > _FOCUS * uniform:
        return "unknown"
    return "placed" if shares[inside].sum() >= _PLACED * most else "misplaced"
