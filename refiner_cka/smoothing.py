"""Over-smoothing: how alike the tokens of a layer are, one row of a table per measure.

Every measure is a function from the tokens of a CKA batch to one number per image. Rules for all of them: tokens
are read in float32; an image for which a measure is undefined (say, all its tokens are 0) is NaN and left out of
the mean; a token of length 0 has no direction, and no part in a cosine.

No torch is imported with this module: figures and summaries read the table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import LayerError

if TYPE_CHECKING:
    import torch

EFFECTIVE_RANK_IMAGES = 32
"""Effective rank, whose decompositions are dear, is measured on at most so many images of a run, ..."""

EFFECTIVE_RANK_SHARE = 256
"""... on one image in so many, ..."""

EFFECTIVE_RANK_LEAST = 4
"""... and on no fewer than these."""

_BLOCK_BYTES = {"cpu": 1 << 22}
_ACCELERATOR_BLOCK_BYTES = 1 << 28
"""Tokens are read in blocks of images: on a CPU small enough to stay in cache, on an accelerator large."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Measure:
    """One measure of over-smoothing.

    Attributes:
        function: from `Tokens` (or attention's `Maps`) to `(images,)` values.
        label: its name on an axis.
        about: what it is, in one line.
        range: least and greatest value; `None` where there is no bound that all layers share.
        smoother: whether a `higher` or `lower` value means more alike; `None`: neither.
        source: where the formula is from.
        default: whether it is measured unless something else is asked for.
        dear: whether it is measured on a few images of a run only.
        on_grid: whether it needs the patch grid.
    """

    function: Callable[[Any], torch.Tensor]
    label: str
    about: str
    range: tuple[float | None, float | None]
    smoother: Literal["higher", "lower"] | None
    source: str
    default: bool = False
    dear: bool = False
    on_grid: bool = False


class Tokens:
    """The tokens of one layer for a whole CKA batch, and what several measures need of them.

    Args:
        chunks: in parts `(images, tokens, dim)` of any floating type.
        grid: rows and columns of the patches, the last `rows x columns` tokens; `None` if unknown.
        dear: how many of the first images the dear measures take.
    """

    def __init__(
        self, chunks: Sequence[torch.Tensor], grid: Grid | None = None, dear: int = 0
    ) -> None:
        self._chunks = chunks
        self.grid = grid
        self.images = sum(len(chunk) for chunk in chunks)
        self.count = chunks[0].shape[1]
        self.dear = min(dear, self.images)

    def first(self, images: int) -> torch.Tensor:
        """Return the tokens of the first images, float64 (on the CPU if the device has none)."""
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

    @functools.cached_property
    def mean(self) -> torch.Tensor:
        """The mean token over all images of the batch, `(dim,)`."""
        reference = self._chunks[0][0, 0].float()
        # Relative to a token, so that tokens which are all the same leave exactly nothing.
        offset = self.each(lambda block: block.mean(1) - reference).mean(0)
        return reference + offset

    @functools.cached_property
    def norms(self) -> torch.Tensor:
        """The length of every token, `(images, tokens)`."""
        return self._reduced[0]

    @functools.cached_property
    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each image the sum of its unit tokens `(images, dim)`, and how many tokens have a direction."""
        return self._reduced[1], self._reduced[2]

    @functools.cached_property
    def centred_directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of tokens from which `mean` is taken away."""
        return self._reduced[3], self._reduced[4]

    @functools.cached_property
    def finite(self) -> torch.Tensor:
        """Whether all tokens of an image are finite, `(images,)`."""
        return self.norms.isfinite().all(1)

    @functools.cached_property
    def _reduced(self) -> list[torch.Tensor]:
        """What the cosines and norms read, from one visit to each block while it is in cache."""
        import torch

        # What is left of a token by less than its own rounding is not a direction.
        floor = 2.0 * torch.finfo(self._chunks[0].dtype).eps
        parts = []
        for block in self._blocks():
            norms = _norms(block)
            centred = _norms(block - self.mean)
            weights = torch.stack([_inverse(norms, 0.0), _inverse(centred, floor * norms)], 1)
            sums = weights @ block
            counts = (weights > 0).sum(2)
            around = sums[:, 1] - weights[:, 1].sum(1, keepdim=True) * self.mean
            parts.append((norms, sums[:, 0], counts[:, 0], around, counts[:, 1]))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _blocks(self) -> Iterator[torch.Tensor]:
        import torch

        for chunk in self._chunks:
            image_bytes = 4 * chunk[0].numel()
            size = _BLOCK_BYTES.get(chunk.device.type, _ACCELERATOR_BLOCK_BYTES)
            for block in torch.split(chunk, max(1, size // image_bytes)):
                yield block.float()


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
    return tokens.each(lambda x: _length(x - x.mean(1, keepdim=True)) / _length(x))


def frequency_ratio(tokens: Tokens) -> torch.Tensor:
    """Frobenius norm of what differs from the mean token of the image, over that of the mean repeated."""

    def ratio(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        high, low = _length(x - mean), _length(mean.expand_as(x))
        return (high / low).where(low > 0, float("nan"))

    return tokens.each(ratio)


def effective_rank(tokens: Tokens) -> torch.Tensor:
    """Exponential of the entropy of the normalised singular values, of the first images only.

    Singular values below float32's rounding of the largest are 0. A GPU waits here for each decomposition.
    """
    import torch

    values = torch.full_like(tokens.norms[:, 0], float("nan"))
    if not tokens.dear:
        return values
    x = tokens.first(tokens.dear)
    x = x.where(x.isfinite(), 0.0)  # a decomposition of what is not finite raises
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    squares = torch.linalg.eigvalsh(gram)
    floor = torch.finfo(torch.float32).eps ** 2 * squares[:, -1:]
    singular = squares.where(squares > floor, 0.0).sqrt()
    shares = singular / singular.sum(1, keepdim=True)
    values[: tokens.dear] = shares.xlogy(shares).sum(1).neg().exp().to(values)
    return values


def dirichlet_energy(tokens: Tokens) -> torch.Tensor:
    """Squared differences of neighbours on the patch grid (4-neighbours, each edge once), over squared norm."""
    grid = tokens.grid
    if grid is None:
        raise ValueError("the Dirichlet energy needs the patch grid")

    def energy(x: torch.Tensor) -> torch.Tensor:
        x = x[:, -grid[0] * grid[1] :].view(len(x), *grid, -1)
        edges = x.diff(dim=1).square().sum((1, 2, 3)) + x.diff(dim=2).square().sum((1, 2, 3))
        return edges / x.square().sum((1, 2, 3))

    return tokens.each(energy)


def token_norm(tokens: Tokens) -> torch.Tensor:
    """Mean length of the tokens."""
    return tokens.norms.mean(1)


def token_norm_ratio(tokens: Tokens) -> torch.Tensor:
    """Length of the longest token over the median length."""
    norms = tokens.norms
    # torch's median of an even number of values is the lower of the two in the middle.
    median = (norms.median(1).values - (-norms).median(1).values) / 2
    return (norms.amax(1) / median).where(median > 0, float("nan"))


MEASURES: dict[str, Measure] = {
    "patch_cosine_centred": Measure(
        patch_cosine_centred,
        "Centred patch cosine",
        "mean cosine of an image's tokens, the mean token of the CKA batch removed",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753, centred",
        default=True,
    ),
    "patch_cosine": Measure(
        patch_cosine,
        "Patch cosine",
        "mean cosine of an image's tokens; does not compare families of models",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753",
        default=True,
    ),
    "patch_cosine_between": Measure(
        patch_cosine_between,
        "Cosine between images",
        "mean cosine of tokens of different images of a CKA batch",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753, of pairs from different images",
    ),
    "rank_collapse": Measure(
        rank_collapse,
        "Rank-collapse residual",
        "share of the tokens' Frobenius norm that is not their mean",
        (0.0, 1.0),
        "lower",
        "Dong et al., arXiv 2103.03404, in the Frobenius norm",
    ),
    "frequency_ratio": Measure(
        frequency_ratio,
        "High/low frequency",
        "Frobenius norm of what is not the mean token over that of the mean",
        (0.0, None),
        "lower",
        "Wang et al., arXiv 2203.05962",
    ),
    "effective_rank": Measure(
        effective_rank,
        "Effective rank",
        "exponential of the entropy of the normalised singular values",
        (1.0, None),
        "lower",
        "Roy & Vetterli, EUSIPCO 2007",
        default=True,
        dear=True,
    ),
    "dirichlet_energy": Measure(
        dirichlet_energy,
        "Dirichlet energy",
        "squared differences of neighbouring patches over the squared norm",
        (0.0, 8.0),
        "lower",
        "Cai & Wang, arXiv 2006.13318, on the patch grid",
        on_grid=True,
    ),
    "token_norm": Measure(
        token_norm,
        "Token norm",
        "mean length of the tokens",
        (0.0, None),
        None,
        "Darcet et al., arXiv 2309.16588",
        default=True,
    ),
    "token_norm_ratio": Measure(
        token_norm_ratio,
        "Largest / median norm",
        "length of the longest token over the median: outlier tokens",
        (1.0, None),
        None,
        "Darcet et al., arXiv 2309.16588",
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


def dear_images(images: int) -> int:
    """Return on how many images of a run the dear measures are taken."""
    wanted = max(EFFECTIVE_RANK_LEAST, images // EFFECTIVE_RANK_SHARE)
    return min(images, wanted, EFFECTIVE_RANK_IMAGES)


def _mean_cosine(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return (|sum of n unit tokens|^2 - n) / (n (n - 1)); NaN for fewer than two."""
    cosine = (sums.square().sum(1) - counts) / (counts * (counts - 1))
    return cosine.where(counts > 1, float("nan"))


def _norms(block: torch.Tensor) -> torch.Tensor:
    """Return the lengths of tokens `(images, tokens, dim)`."""
    if block.stride(2) == 1:
        norms: torch.Tensor = block.norm(dim=2)
        return norms
    # Channels first: torch's norm along a stride is several times slower than this.
    return (block * block).sum(2).sqrt()


def _inverse(norms: torch.Tensor, floor: torch.Tensor | float) -> torch.Tensor:
    """Return 1 / norms, 0 for those not above the floor."""
    return norms.reciprocal().where(norms > floor, 0.0)


def _length(x: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norm of each image's tokens."""
    return x.square().sum((1, 2)).sqrt()
