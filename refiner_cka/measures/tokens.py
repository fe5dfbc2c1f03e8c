"""Over-smoothing: how alike the tokens of a layer are, one row of a table per measure.

Every measure is a function from the tokens of a CKA batch to one number per image. Rules for all of them: tokens
are read in float32; an image for which a measure is undefined (say, all its tokens are 0) is NaN and left out of
the mean; a token of length 0 has no direction, and no part in a cosine.

No torch is imported with this module: figures and summaries read the table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import LayerError
from ..sums import Quantity

if TYPE_CHECKING:
    import torch

    from ..subjects.readout import Grid

EFFECTIVE_RANK_IMAGES = 32
"""Effective rank, whose decompositions are expensive, is measured on at most so many images of a run, ..."""

EFFECTIVE_RANK_SHARE = 256
"""... on one image in so many, ..."""

EFFECTIVE_RANK_LEAST = 4
"""... and on no fewer than these."""

_BLOCK_BYTES = {"cpu": 1 << 22}
_ACCELERATOR_BLOCK_BYTES = 1 << 28
"""Tokens are read in blocks of images: on a CPU small enough to stay in cache, on an accelerator large."""


@dataclass(frozen=True)
class Measure:
    """One measure of over-smoothing.

    Attributes:
        function: from `Tokens` (or attention's `Maps`) to `(images,)` values.
        quantity: what a result says of it.
        default: whether it is measured unless something else is asked for.
        on_grid: whether it needs the patch grid.
    """

    function: Callable[[Any], torch.Tensor]
    quantity: Quantity
    default: bool = False
    on_grid: bool = False


class Tokens:
    """The tokens of one layer for a whole CKA batch, and what several measures need of them.

    All but `first` and `norms` see tokens divided by `scale`, one power of two for the batch: they are measured
    alike at any size. A token shorter than 2^-126 of the layer's largest number counts as 0.

    Args:
        chunks: in parts `(images, tokens, dim)` of any floating type.
        grid: rows and columns of the patches, the last `rows x columns` tokens; `None` if unknown.
        expensive: how many of the first images the expensive measures take.
    """

    def __init__(
        self, chunks: Sequence[torch.Tensor], grid: Grid | None = None, expensive: int = 0
    ) -> None:
        self._chunks = chunks
        self.grid = grid
        self.images = sum(len(chunk) for chunk in chunks)
        self.count = chunks[0].shape[1]
        self.expensive = min(expensive, self.images)

    def first(self, images: int) -> torch.Tensor:
        """Return the tokens of the first images as they are, float64 (on the CPU if the device has none)."""
        import torch

        parts, left = [], images
        for chunk in self._chunks:
            parts.append(chunk[: max(left, 0)])
            left -= len(chunk)
        tokens = torch.cat(parts)
        return (tokens.cpu() if tokens.device.type == "mps" else tokens).to(torch.float64)

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return `function` of float32 blocks of images, joined along the images."""
        import torch

        return torch.cat([function(block) for block in self._blocks()])

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
        from ..subjects.readout import exact_dtype

        exact = self.lengths.to(exact_dtype(self.lengths.device))
        return exact if self.scale is None else exact * self.scale

    @functools.cached_property
    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each image the sum of its unit tokens `(images, dim)`, and how many tokens have a direction."""
        return self._reduced[0], self._reduced[1]

    @functools.cached_property
    def centred_directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of tokens from which the mean token of the batch is taken away."""
        return self._reduced[2], self._reduced[3]

    @functools.cached_property
    def finite(self) -> torch.Tensor:
        """Whether all tokens of an image are finite, `(images,)`."""
        return self.lengths.isfinite().all(1)

    @functools.cached_property
    def _look(self) -> _Look:
        """What a first visit to the tokens tells. On a CPU it also tells whether they need scaling at all."""
        from .scaling import are_ordinary, common_scale

        if self._chunks[0].device.type == "cpu":
            found = self._look_at(None)
            if are_ordinary(found.lengths):
                return found
        return self._look_at(common_scale(self._chunks))

    def _look_at(self, scale: torch.Tensor | None) -> _Look:
        import torch

        from .scaling import lengths, median_of_three

        last = self._chunks[-1]
        token = median_of_three(
            self._chunks[0][0, 0], last[len(last) // 2, self.count // 2], last[-1, -1]
        )
        reference = _divided(token, scale)
        parts = [
            (lengths(block), (block - reference).mean(1)) for block in self._blocks_over(scale)
        ]
        sizes, offsets = (torch.cat(part) for part in zip(*parts, strict=True))
        return _Look(scale, sizes, reference, offsets.mean(0))

    @functools.cached_property
    def _varies(self) -> torch.Tensor:
        """Which features differ at all between the tokens of the batch, `(dim,)`."""
        reference = self._look.reference
        return self.each(lambda block: (block != reference).any(1)).any(0)

    @functools.cached_property
    def _reduced(self) -> list[torch.Tensor]:
        """What the cosines read, from one visit to each block while it is in cache."""
        import torch

        from .scaling import lengths

        look, parts, first = self._look, [], 0
        for block in self._blocks():
            sizes = look.lengths[first : first + len(block)]
            first += len(block)
            centred = (block - look.reference).sub_(look.offset)
            remaining = lengths(centred)
            weights = _inverse(sizes, sizes > torch.finfo(torch.float32).tiny)
            around = _inverse(remaining, self._has_direction(block, sizes, remaining))
            parts.append((*_sums(weights, block), *_sums(around, centred)))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _has_direction(
        self, block: torch.Tensor, sizes: torch.Tensor, remaining: torch.Tensor
    ) -> torch.Tensor:
        """Whether more is left of a token than its own rounding when the mean is taken away.

        Only features that differ in the batch count in its size: one which all tokens share exactly says nothing
        about the rounding of the others.
        """
        import torch

        from .scaling import lengths

        eps = torch.finfo(self._chunks[0].dtype).eps
        if block.device.type == "cpu":
            # Rarely is anything near its rounding, even of the whole size.
            clear = remaining > 2.0 * eps * sizes
            if clear.all():
                return clear
        return remaining > 2.0 * eps * lengths(block.where(self._varies, 0.0))

    def _blocks(self) -> Iterator[torch.Tensor]:
        return self._blocks_over(self.scale)

    def _blocks_over(self, scale: torch.Tensor | None) -> Iterator[torch.Tensor]:
        import torch

        for chunk in self._chunks:
            image_bytes = 4 * chunk[0].numel()
            size = _BLOCK_BYTES.get(chunk.device.type, _ACCELERATOR_BLOCK_BYTES)
            for block in torch.split(chunk, max(1, size // image_bytes)):
                yield _divided(block, scale)


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
        offset: the mean over all images of what differs from it, `(dim,)`.
    """

    scale: torch.Tensor | None
    lengths: torch.Tensor
    reference: torch.Tensor
    offset: torch.Tensor


def patch_cosine(tokens: Tokens) -> torch.Tensor:
    """Mean cosine of all pairs of different tokens of an image, in O(tokens x dim)."""
    return _mean_cosine(*tokens.directions)


def patch_cosine_centred(tokens: Tokens) -> torch.Tensor:
    """`patch_cosine` of tokens from which the mean token of the CKA batch is taken away."""
    return _mean_cosine(*tokens.centred_directions)


def patch_cosine_between(tokens: Tokens) -> torch.Tensor:
    """Mean cosine of tokens of different images of the CKA batch.

    An image's value is its jackknife pseudo-value: the mean is the mean over pairs of images, and the spread
    gives its error, which the means of each image with the others would make half as large as it is.
    """
    sums, counts = tokens.directions
    has = counts > 0
    means = sums / counts.clamp_min(1).unsqueeze(1)
    total, images = means.sum(0), has.sum()
    with_others = (means * (total - means)).sum(1) / (images - 1)
    overall = with_others.sum() / images
    pseudo = (2 * (images - 1) * with_others - images * overall) / (images - 2)
    return pseudo.where(has, float("nan"))


def rank_collapse(tokens: Tokens) -> torch.Tensor:
    """Frobenius norm of what differs from the mean token of the image, over that of the tokens."""
    return tokens.each(lambda x: _length(_split(x)[0]) / _length(x))


def frequency_ratio(tokens: Tokens) -> torch.Tensor:
    """Frobenius norm of what differs from the mean token of the image, over that of the mean repeated."""

    def ratio(x: torch.Tensor) -> torch.Tensor:
        high, mean = _split(x)
        low = _length(mean) * math.sqrt(x.shape[1])
        return (_length(high) / low).where(low > 0, float("nan"))

    return tokens.each(ratio)


def effective_rank(tokens: Tokens) -> torch.Tensor:
    """Exponential of the entropy of the normalised singular values, of the first images only.

    Singular values below float32's rounding of the largest are 0. A GPU waits here for each decomposition.
    """
    import torch

    values = torch.full_like(tokens.lengths[:, 0], float("nan"))
    if not tokens.expensive:
        return values
    x = tokens.first(tokens.expensive)
    x = x.where(x.isfinite(), 0.0)  # a decomposition of what is not finite raises
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    squares = torch.linalg.eigvalsh(gram)
    floor = torch.finfo(torch.float32).eps ** 2 * squares[:, -1:]
    singular = squares.where(squares > floor, 0.0).sqrt()
    shares = singular / singular.sum(1, keepdim=True)
    values[: tokens.expensive] = shares.xlogy(shares).sum(1).neg().exp().to(values)
    return values


def dirichlet_energy(tokens: Tokens) -> torch.Tensor:
    """Squared differences of neighbours on the patch grid (4-neighbours, each edge once), over squared norm."""
    grid = tokens.grid
    if grid is None:
        raise ValueError("the Dirichlet energy needs the patch grid")

    def energy(x: torch.Tensor) -> torch.Tensor:
        x = x[:, -grid[0] * grid[1] :].view(len(x), *grid, -1)
        down, right = _length(x.diff(dim=1)), _length(x.diff(dim=2))
        size = _length(x)
        return (down / size).square() + (right / size).square()

    return tokens.each(energy)


def token_norm(tokens: Tokens) -> torch.Tensor:
    """Mean length of the tokens."""
    return tokens.norms.mean(1)


def token_norm_ratio(tokens: Tokens) -> torch.Tensor:
    """Length of the longest token over the median length."""
    norms = tokens.lengths
    # torch's median of an even number of values is the lower of the two in the middle.
    median = (norms.median(1).values - (-norms).median(1).values) / 2
    return (norms.amax(1) / median).where(median > 0, float("nan"))


MEASURES: dict[str, Measure] = {
    "patch_cosine_centred": Measure(
        patch_cosine_centred,
        Quantity(
            "patch_cosine_centred",
            "Centred patch cosine",
            "mean cosine of an image's tokens, the mean token of the CKA batch removed",
            (-1.0, 1.0),
            "higher",
            "Gong et al., arXiv 2104.12753, centred",
        ),
        default=True,
    ),
    "patch_cosine": Measure(
        patch_cosine,
        Quantity(
            "patch_cosine",
            "Patch cosine",
            "mean cosine of an image's tokens; does not compare families of models",
            (-1.0, 1.0),
            "higher",
            "Gong et al., arXiv 2104.12753",
        ),
        default=True,
    ),
    "patch_cosine_between": Measure(
        patch_cosine_between,
        Quantity(
            "patch_cosine_between",
            "Cosine between images",
            "mean cosine of tokens of different images of a CKA batch",
            (-1.0, 1.0),
            "higher",
            "Gong et al., arXiv 2104.12753, of pairs from different images",
        ),
    ),
    "rank_collapse": Measure(
        rank_collapse,
        Quantity(
            "rank_collapse",
            "Rank-collapse residual",
            "share of the tokens' Frobenius norm that is not their mean",
            (0.0, 1.0),
            "lower",
            "Dong et al., arXiv 2103.03404, in the Frobenius norm",
        ),
    ),
    "frequency_ratio": Measure(
        frequency_ratio,
        Quantity(
            "frequency_ratio",
            "High/low frequency",
            "Frobenius norm of what is not the mean token over that of the mean",
            (0.0, None),
            "lower",
            "Wang et al., arXiv 2203.05962",
        ),
    ),
    "effective_rank": Measure(
        effective_rank,
        Quantity(
            "effective_rank",
            "Effective rank",
            "exponential of the entropy of the normalised singular values",
            (1.0, None),
            "lower",
            "Roy & Vetterli, EUSIPCO 2007",
            few=True,
        ),
        default=True,
    ),
    "dirichlet_energy": Measure(
        dirichlet_energy,
        Quantity(
            "dirichlet_energy",
            "Dirichlet energy",
            "squared differences of neighbouring patches over the squared norm",
            (0.0, 8.0),
            "lower",
            "Cai & Wang, arXiv 2006.13318, on the patch grid",
        ),
        on_grid=True,
    ),
    "token_norm": Measure(
        token_norm,
        Quantity(
            "token_norm",
            "Token norm",
            "mean length of the tokens",
            (0.0, None),
            None,
            "Darcet et al., arXiv 2309.16588",
        ),
        default=True,
    ),
    "token_norm_ratio": Measure(
        token_norm_ratio,
        Quantity(
            "token_norm_ratio",
            "Largest / median norm",
            "length of the longest token over the median: outlier tokens",
            (1.0, None),
            None,
            "Darcet et al., arXiv 2309.16588",
        ),
        default=True,
    ),
}
"""Name -> measure. The first is the headline."""


def choose(names: str | None) -> tuple[str, ...]:
    """Return the measures that `--smoothing` names: names with commas, `all`, `none`; the default for `None`.

    Raises:
        LayerError: an unknown name.
    """
    if names is None:
        return tuple(name for name, measure in MEASURES.items() if measure.default)
    if names in ("all", "none"):
        return tuple(MEASURES) if names == "all" else ()
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in MEASURES:
            raise LayerError(
                f"unknown --smoothing {name!r}; choose all, none or from {', '.join(MEASURES)}"
                + ("; --attention measures attention" if "attention" in name else "")
            )
    return tuple(dict.fromkeys(wanted))


def expensive_images(images: int) -> int:
    """Return on how many images of a run the expensive measures are taken."""
    wanted = max(EFFECTIVE_RANK_LEAST, images // EFFECTIVE_RANK_SHARE)
    return min(images, wanted, EFFECTIVE_RANK_IMAGES)


def _mean_cosine(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return (|sum of n unit tokens|^2 - n) / (n (n - 1)); NaN for fewer than two."""
    cosine = (sums.square().sum(1) - counts) / (counts * (counts - 1))
    return cosine.where(counts > 1, float("nan"))


def _divided(tokens: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return tokens over a power of two, float32."""
    tokens = tokens.float()
    return tokens if scale is None else tokens * scale.reciprocal()


def _inverse(lengths: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return 1 / lengths, 0 for those that do not count."""
    return lengths.reciprocal().where(counted, 0.0)


def _sums(weights: torch.Tensor, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of an image's tokens `(images, dim)`, and how many have a weight `(images,)`."""
    return (weights.unsqueeze(1) @ block).squeeze(1), (weights > 0).sum(1)


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what differs from the mean token of each image, and the mean token, `(images, 1, dim)`.

    A token is taken away first: see `_Look`.
    """
    from .scaling import median_of_three

    reference = median_of_three(x[:, :1], x[:, x.shape[1] // 2, None], x[:, -1:])
    rest = x - reference
    offset = rest.mean(1, keepdim=True)
    return rest.sub_(offset), reference + offset


def _length(x: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norm of each image's tokens, `(images,)`."""
    from .scaling import lengths

    return lengths(lengths(x).flatten(1))
