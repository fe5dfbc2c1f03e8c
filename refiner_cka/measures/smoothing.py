"""Over-smoothing: how alike the tokens of a layer are, one function and one row of the table per measure.

Every measure is a function from the tokens of a CKA batch to one number per image, two of a fraction; for the
rules see `tokens`.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from ..errors import LayerError
from ..subjects.readout import exact_dtype
from ..sums import LAYERS
from .directions import mean_cosine
from .meter import Setting
from .scaling import ascending, lengths, median, units
from .tally import row, table
from .token_meter import TokenMeter
from .tokens import Tokens

OUTLIER_RATIO = 3.0
"""A token so many times as long as the median is an outlier: on a logarithmic scale about halfway between ordinary
tokens and those of Darcet et al., which are about ten times as long."""

EFFECTIVE_RANK_SHARE, EFFECTIVE_RANK_LEAST, EFFECTIVE_RANK_MOST = 256, 4, 32
"""Effective rank, whose decompositions are expensive, is measured on one image of a run in so many, from so many
images to so many."""


def patch_cosine(tokens: Tokens) -> torch.Tensor:
    """Mean cosine of all pairs of different tokens of an image, in O(tokens x dim)."""
    return mean_cosine(*tokens.directions)


def patch_cosine_centred(tokens: Tokens) -> torch.Tensor:
    """`patch_cosine` of tokens from which the mean token of the CKA batch is taken away.

    All images of the batch move that mean, so their cosines are not independent. To an image's value is added what
    it moves the batch's mean cosine by in this way, to first order: this leaves the mean over the batch as it is,
    and makes its error right.
    """
    values = mean_cosine(*tokens.centred_directions)
    step = tokens.typical_deviation
    moved = ((tokens.deviations / step) @ tokens.centred_gradients.mean(0)).where(step > 0, 0.0)
    # Images without a value take part in the mean token, but not in the mean over images.
    return values + (moved - (moved + 0.0 * values).nanmean())


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
    found: torch.Tensor = tokens.spread[0] / tokens.sizes
    return found


def frequency_ratio(tokens: Tokens) -> torch.Tensor:
    """Frobenius norm of what differs from the mean token of the image, over that of the mean repeated."""
    high, mean = tokens.spread
    low = mean * math.sqrt(tokens.count)
    found: torch.Tensor = (high / low).where(low > 0, float("nan"))
    return found


def effective_rank(tokens: Tokens) -> torch.Tensor:
    """Exponential of the entropy of the normalised singular values, of the first images only.

    Singular values below float32's rounding of the largest are 0. A GPU waits here for each decomposition.
    """
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
    assert grid is not None  # the meter asks for nothing on the grid where there is none

    patches = grid[0] * grid[1]

    def differences(x: torch.Tensor) -> torch.Tensor:
        x = x[:, -patches:].view(len(x), *grid, -1)
        return torch.stack([_length(x.diff(dim=1)), _length(x.diff(dim=2))], dim=1)

    sizes = lengths(tokens.lengths[:, -patches:])
    return (tokens.each(differences) / sizes.unsqueeze(1)).square().sum(1)


def token_norm(tokens: Tokens) -> torch.Tensor:
    """Mean length of the tokens."""
    return tokens.norms.mean(1)


def token_norm_ratio(tokens: Tokens) -> torch.Tensor:
    """Length of the longest token over the median length."""
    middle = median(ascending(tokens.lengths))
    return (tokens.lengths.amax(1) / middle).where(middle > 0, float("nan"))


def outlier_tokens(tokens: Tokens) -> torch.Tensor:
    """Share of the tokens that are longer than `OUTLIER_RATIO` times the median length."""
    middle = median(ascending(tokens.lengths))
    share = (tokens.lengths > OUTLIER_RATIO * middle.unsqueeze(1)).float().mean(1)
    return share.where(middle > 0, float("nan"))


def massive_activation(tokens: Tokens) -> torch.Tensor:
    """Mean of the three largest numbers in an image's tokens over their median, all in absolute value."""

    def ratio(x: torch.Tensor) -> torch.Tensor:
        ordered = ascending(x.abs().flatten(1))
        middle, largest = median(ordered), ordered[:, -3:].mean(1)
        return (largest / middle).where(middle > 0, float("nan"))

    return tokens.each(ratio)


def cls_patch_cosine(tokens: Tokens) -> torch.Tensor:
    """Mean cosine of the class token and the patch tokens."""
    assert tokens.class_token is not None  # the meter asks for nothing of it where there is none
    sums, counts = tokens.directions
    return (sums * units(tokens.class_token.float())).sum(1) / counts


def within_image_variance(tokens: Tokens) -> torch.Tensor:
    """What an image adds to the variance of tokens within images, and to that of all tokens, `(2, images)`.

    Within images it is the sum of squared distances of its tokens to their mean. All tokens vary by that and by as
    many times the variance of the mean tokens of the batch's images, of which an image's share is its jackknife
    pseudo-value: they sum up to as many times the unbiased variance as there are images, whatever the batch size.
    """
    exact = exact_dtype(tokens.lengths.device)
    # A far image leaves little of the pseudo-values of others: the differences take all digits there are.
    offsets = tokens.offsets.to(exact)
    apart = (offsets - offsets.mean(0)).square().sum(1)
    images = len(apart)
    variance = apart.sum() / (images - 1)
    within = tokens.spread[0].to(exact).square()
    whole = within + tokens.count * (images * apart - variance) / (images - 2)
    found = torch.stack([within, whole]).where(whole.sum() > 0, float("nan"))
    return found if tokens.scale is None else found * tokens.scale.to(exact).square()


_row = partial(row, LAYERS)

MEASURES = table(
    _row(
        patch_cosine_centred,
        "Centred patch cosine",
        "mean cosine of an image's tokens, the mean token of the CKA batch removed",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753, centred",
        default=True,
    ),
    _row(
        patch_cosine,
        "Patch cosine",
        "mean cosine of an image's tokens; does not compare families of models",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753",
        default=True,
    ),
    _row(
        patch_cosine_between,
        "Cosine between images",
        "mean cosine of tokens of different images of a CKA batch",
        (-1.0, 1.0),
        "higher",
        "Gong et al., arXiv 2104.12753, of pairs from different images",
    ),
    _row(
        rank_collapse,
        "Rank-collapse residual",
        "share of the tokens' Frobenius norm that is not their mean",
        (0.0, 1.0),
        "lower",
        "Dong et al., arXiv 2103.03404, in the Frobenius norm",
    ),
    _row(
        frequency_ratio,
        "High/low frequency",
        "Frobenius norm of what is not the mean token over that of the mean",
        (0.0, None),
        "lower",
        "Wang et al., arXiv 2203.05962",
    ),
    _row(
        effective_rank,
        "Effective rank",
        "exponential of the entropy of the normalised singular values",
        (1.0, None),
        "lower",
        "Roy & Vetterli, EUSIPCO 2007",
        default=True,
        few=True,
    ),
    _row(
        dirichlet_energy,
        "Dirichlet energy",
        "squared differences of neighbouring patches over the squared norm",
        (0.0, 8.0),
        "lower",
        "Cai & Wang, arXiv 2006.13318, on the patch grid",
        needs="grid",
    ),
    _row(
        token_norm,
        "Token norm",
        "mean length of the tokens",
        (0.0, None),
        None,
        "Darcet et al., arXiv 2309.16588",
        default=True,
    ),
    _row(
        token_norm_ratio,
        "Largest / median norm",
        "length of the longest token over the median: outlier tokens",
        (1.0, None),
        None,
        "Darcet et al., arXiv 2309.16588",
        default=True,
    ),
    _row(
        outlier_tokens,
        "Share of outlier tokens",
        f"share of the tokens longer than {OUTLIER_RATIO:g} times the median length",
        (0.0, 1.0),
        None,
        "Darcet et al., arXiv 2309.16588, relative to the median",
    ),
    _row(
        massive_activation,
        "Massive activations",
        "mean of the three largest numbers in the tokens over their median, in absolute value",
        (0.0, None),
        None,
        "Sun et al., arXiv 2402.17762",
    ),
    _row(
        cls_patch_cosine,
        "Cosine of class token and patches",
        "mean cosine of the class token and the patch tokens",
        (-1.0, 1.0),
        None,
        "Siméoni et al., arXiv 2508.10104",
        needs="class_token",
    ),
    _row(
        within_image_variance,
        "Variance within images",
        "share of the variance of all tokens of all images that is within images",
        (0.0, 1.0),
        "lower",
        "analysis of variance",
        estimator="fraction",
    ),
)
"""Name -> measure. The first is the headline."""


def smoothing(setting: Setting) -> TokenMeter | None:
    """Return the meter of the measures that the options name; `None` if they name none.

    Raises:
        LayerError: an unknown name.
    """
    wanted = choose(setting.options.smoothing)
    if not wanted:
        return None
    return TokenMeter(
        setting,
        [measure for name, measure in MEASURES.items() if name in wanted],
        is_asked_for=setting.options.smoothing is not None,
        expensive=expensive_images(sum(map(len, setting.plan.batches))),
    )


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
    return min(images, wanted, EFFECTIVE_RANK_MOST)


def _length(x: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norm of each image's tokens, `(images,)`."""
    return lengths(lengths(x).flatten(1))
