"""The tokens of a layer, and what the measures of over-smoothing need of them.

Rules for all measures: tokens are read in float32; an image for which a measure is undefined (say, all its tokens
are 0) is NaN and left out of the mean; a token of length 0 has no direction, and no part in a cosine.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..subjects.locality import Reading
from ..subjects.readout import Grid, exact_dtype, patches_of
from .directions import gradient, unit_sum
from .scaling import are_ordinary, block_bytes, common_scale, joined, lengths, median_of_three


class Tokens:
    """The tokens of one layer for a whole CKA batch, and what several measures need of them.

    All but `first` and `norms` see tokens divided by `scale`, one power of two for the batch: they are measured
    alike at any size. A token shorter than 2^-126 of the layer's largest number counts as 0.

    Args:
        chunks: in parts `(images, tokens, dim)` of any floating type.
        grid: rows and columns of the patches, the last `rows x columns` tokens; `None` if unknown.
        expensive: how many of the first images the expensive measures take.
        class_token: of each image, `(images, dim)` of any floating type; `None` if there is none.
    """

    def __init__(
        self,
        chunks: Sequence[torch.Tensor],
        grid: Grid | None = None,
        expensive: int = 0,
        class_token: torch.Tensor | None = None,
    ) -> None:
        self._chunks = chunks
        self.grid = grid
        self.count = chunks[0].shape[1]
        self.expensive = min(expensive, sum(map(len, chunks)))
        self.class_token = class_token
        self._only: tuple[torch.Tensor | None, torch.Tensor] | None = None

    def first(self, images: int) -> torch.Tensor:
        """Return the tokens of the first images as they are, float64 (on the CPU if the device has none)."""
        rows = itertools.chain.from_iterable(chunk.unbind() for chunk in self._chunks)
        tokens = torch.stack(list(itertools.islice(rows, images)))
        return (tokens.cpu() if tokens.device.type == "mps" else tokens).to(torch.float64)

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return `function` of float32 blocks of images, joined along the images."""
        return joined([function(block) for block in self._blocks(self.scale)])

    @property
    def scale(self) -> torch.Tensor | None:
        """What tokens are divided by; `None` for 1."""
        return self._look.scale

    @property
    def lengths(self) -> torch.Tensor:
        """The length of every token divided by `scale`, `(images, tokens)`."""
        return self._look.lengths

    @property
    def norms(self) -> torch.Tensor:
        """The length of every token, `(images, tokens)`, float64 where the device has it.

        The largest float32 tokens have lengths beyond float32.
        """
        exact = self.lengths.to(exact_dtype(self.lengths.device))
        return exact if self.scale is None else exact * self.scale

    @property
    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each image the sum of its unit tokens `(images, dim)`, and how many tokens have a direction."""
        return self._reduced[0], self._reduced[1]

    @property
    def centred_directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of tokens from which the mean token of the batch is taken away."""
        return self._reduced[2], self._reduced[3]

    @property
    def centred_gradients(self) -> torch.Tensor:
        """How fast each image's mean cosine of centred tokens moves with the mean token, `(images, dim)`.

        The derivative to the mean token, times `typical_deviation`.
        """
        return self._reduced[4]

    @property
    def offsets(self) -> torch.Tensor:
        """By how much each image's mean token differs from one token of the batch, `(images, dim)`."""
        return self._look.offsets

    @functools.cached_property
    def deviations(self) -> torch.Tensor:
        """By how much each image's mean token differs from that of the batch, `(images, dim)`."""
        return self._look.offsets - self._look.offset

    @functools.cached_property
    def typical_deviation(self) -> torch.Tensor:
        """Root mean square length of the `deviations`, a single number."""
        return lengths(lengths(self.deviations)) / math.sqrt(len(self.deviations))

    @functools.cached_property
    def spread(self) -> torch.Tensor:
        """The Frobenius norm of what differs from an image's mean token, and of the mean token, `(2, images)`."""
        return joined([_spread(block) for block in self._blocks(self.scale)], dim=1)

    @functools.cached_property
    def sizes(self) -> torch.Tensor:
        """The Frobenius norm of all tokens of an image divided by `scale`, `(images,)`."""
        return lengths(self.lengths)

    @functools.cached_property
    def finite(self) -> torch.Tensor:
        """Whether all tokens of an image are finite, `(images,)`."""
        # NaN, which the largest of numbers with it is, is not less.
        return self.lengths.amax(1) < torch.inf

    @functools.cached_property
    def _look(self) -> _Look:
        """What a first visit to the tokens tells. On a CPU it also tells whether they need scaling at all."""
        if self._chunks[0].device.type == "cpu":
            found = self._look_at(None)
            if are_ordinary(found.lengths):
                return found
        return self._look_at(common_scale(self._chunks))

    def _look_at(self, scale: torch.Tensor | None) -> _Look:
        last = self._chunks[-1]
        token = median_of_three(
            self._chunks[0][0, 0], last[len(last) // 2, self.count // 2], last[-1, -1]
        )
        reference = _divided(token, scale)
        parts = [(lengths(block), (block - reference).mean(1)) for block in self._blocks(scale)]
        sizes, offsets = (joined(part) for part in zip(*parts, strict=True))
        return _Look(scale, sizes, reference, offsets, offsets.mean(0))

    @functools.cached_property
    def _varies(self) -> torch.Tensor:
        """Which features differ at all between the tokens of the batch, `(dim,)`."""
        reference = self._look.reference
        return self.each(lambda block: (block != reference).any(1)).any(0)

    @functools.cached_property
    def _reduced(self) -> list[torch.Tensor]:
        """What the cosines read, from one visit to each block while it is in cache."""
        look, parts, first = self._look, [], 0
        room = None
        for block in self._blocks(look.scale):
            sizes = look.lengths[first : first + len(block)]
            first += len(block)
            if room is None or len(room) < len(block):
                # One for all blocks: a fresh large one costs a CPU more than what is computed in it.
                room = torch.empty_like(block)
            centred = torch.sub(block, look.reference, out=room[: len(block)]).sub_(look.offset)
            remaining = lengths(centred)
            counted = sizes > torch.finfo(torch.float32).tiny
            around = self._has_direction(block, sizes, remaining)
            seen = unit_sum(centred, remaining, around)
            moves = gradient(
                centred, remaining, around, seen[0], self.typical_deviation, len(look.lengths)
            )
            parts.append((*unit_sum(block, sizes, counted), *seen, moves))
        return [joined(part) for part in zip(*parts, strict=True)]

    def _has_direction(
        self, block: torch.Tensor, sizes: torch.Tensor, remaining: torch.Tensor
    ) -> torch.Tensor:
        """Whether more is left of a token than its own rounding when the mean is taken away.

        Only features that differ in the batch count in its size: one which all tokens share exactly says nothing
        about the rounding of the others.
        """
        eps = torch.finfo(self._chunks[0].dtype).eps
        if block.device.type == "cpu":
            # Rarely is anything near its rounding, even of the whole size.
            clear = remaining > 2.0 * eps * sizes
            if clear.all():
                return clear
        return remaining > 2.0 * eps * lengths(block.where(self._varies, 0.0))

    def _blocks(self, scale: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """Yield float32 blocks of images, divided by `scale`; where there is only one, it is made once."""
        if self._only is not None and self._only[0] is scale:
            yield self._only[1]
            return
        first = self._chunks[0]
        images = max(1, block_bytes(first.device) // (4 * first[0].numel()))
        blocks = [block for chunk in self._chunks for block in torch.split(chunk, images)]
        for block in blocks:
            divided = _divided(block, scale)
            if len(blocks) == 1:
                self._only = scale, divided
            yield divided


@dataclass(frozen=True, eq=False)
class _Look:
    """What the first visit to a batch's tokens tells; all but `scale` is of tokens divided by it.

    The mean token is a token and the mean of what differs from it, to be taken away one after the other. Their
    sum has a rounding error of the size of what all tokens share, which may be far more than what tells them
    apart.

    Attributes:
        scale: a power of two; `None` for 1.
        lengths: of every token, `(images, tokens)`.
        reference: a token, `(dim,)`.
        offsets: of each image the mean of what differs from it, `(images, dim)`.
        offset: the mean of these, `(dim,)`.
    """

    scale: torch.Tensor | None
    lengths: torch.Tensor
    reference: torch.Tensor
    offsets: torch.Tensor
    offset: torch.Tensor


def has_tokens(output: torch.Tensor, reading: Reading | None) -> bool:
    """Whether a layer has at least two patch tokens.

    Args:
        output: of the layer; only its shape matters.
        reading: how it is read; `None` if it is `(images, channels)`.
    """
    return reading is not None and patches_of(output, reading.layout).shape[1] > 1


def _spread(x: torch.Tensor) -> torch.Tensor:
    """Return the length of what differs from the mean token of each image, and of that token, `(2, images)`.

    A token is taken away first: see `_Look`.
    """
    reference = median_of_three(x[:, :1], x[:, x.shape[1] // 2, None], x[:, -1:])
    rest = x - reference
    offset = rest.mean(1, keepdim=True)
    rest -= offset
    return torch.stack([lengths(lengths(rest)), lengths((reference + offset).squeeze(1))])


def _divided(tokens: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return tokens over a power of two, float32."""
    tokens = tokens.float()
    return tokens if scale is None else tokens / scale
