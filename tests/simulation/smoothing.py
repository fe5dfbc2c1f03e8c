"""Token measures of simulated images, with their errors: those that depend on the mean token of a batch above all.

The images of a run are not independent there, though their tokens are: each moves the mean that is taken away from
all. And of a measure that is a fraction few images may decide. `interval` measures one run as the library does,
and `population` says what its interval has to hold:

    rng = np.random.default_rng(seed)
    estimate = interval("patch_cosine_centred", tokens("ordinary", 200, rng))
    estimate.lower <= population("patch_cosine_centred", "ordinary") <= estimate.upper
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from refiner_cka.measures.smoothing import MEASURES
from refiner_cka.measures.tokens import Tokens
from refiner_cka.results.estimate import Estimate
from refiner_cka.results.means import fractions, means
from refiner_cka.sums import FOLDS, MIN_BATCH, fold_of

from .running import Seeds, markdown, percent, repeat

Array = npt.NDArray[np.float64]
Kind = Literal["ordinary", "classes", "outliers"]

BATCH, TOKENS, DIM, CLASSES = 64, 12, 8, 10

OUTLIERS, LENGTH = 0.02, 10
"""How many images are outliers, and how many times as long as others."""

MEASURED = (
    "patch_cosine_centred",
    "patch_cosine_between",
    "patch_cosine",
    "token_norm",
    "within_image_variance",
)
"""The first two and the last depend on what the images of a batch share. Outliers decide the last two."""

_COMMON = np.random.default_rng(1).standard_normal(DIM)
_CENTRES = np.random.default_rng(2).standard_normal((CLASSES, DIM))
_SPREAD: dict[Kind, float] = {"ordinary": 0.7, "classes": 0.35, "outliers": 0.7}

LARGE = 64 * 1000
"""Images of the sample that stands for the population: its error is 18 times smaller than with 200."""


def tokens(kind: Kind, images: int, rng: np.random.Generator) -> Array:
    """Return the tokens of new images, `(images, TOKENS, DIM)`.

    A token is what all share, what its image is about, and what is its own.

    Args:
        kind: images of one kind, of `CLASSES` classes, or of one kind with 2 % of them 10 times as long.
        images: how many.
        rng: where they are drawn from.
    """
    of_image = rng.standard_normal((images, 1, DIM)) * _SPREAD[kind]
    if kind == "classes":
        of_image = of_image + _CENTRES[rng.integers(CLASSES, size=images), None]
    drawn = _COMMON + of_image + rng.standard_normal((images, TOKENS, DIM))
    long = rng.random((images, 1, 1)) < OUTLIERS
    return np.where(long, LENGTH * drawn, drawn) if kind == "outliers" else drawn


def values(name: str, drawn: Array) -> Array:
    """Return the values of a measure of images `(images, tokens, dim)` in batches of `BATCH`, images last.

    As in a run, the images of a last batch of fewer than `MIN_BATCH` are left out.
    """
    batches = torch.from_numpy(drawn).float().split(BATCH)
    measured = [
        MEASURES[name].function(Tokens([batch])) for batch in batches if len(batch) >= MIN_BATCH
    ]
    return torch.cat(measured, -1).double().numpy()


def interval(name: str, drawn: Array) -> Estimate:
    """Return a measure over one run with its error, arrays `(1,)`."""
    found = values(name, drawn)
    folds = np.eye(FOLDS)[fold_of(np.arange(found.shape[-1]))]
    images = folds.sum(0)[:, None]
    if MEASURES[name].quantity.estimator == "fraction":
        part, whole = (found @ folds)[..., None]
        return fractions(part, whole, images, np.ones(1))
    return means(folds.T @ found[:, None], images, np.ones(1))


@cache
def population(name: str, kind: Kind) -> float:
    """Return what the mean over runs of batches of `BATCH` tends to, from a sample of `LARGE` images.

    The variance within images has a closed form.
    """
    if name == "within_image_variance":
        return variance_within(kind)
    return float(values(name, tokens(kind, LARGE, np.random.default_rng(0))).mean())


def variance_within(kind: Kind) -> float:
    """Return the share of the variance of all tokens that is within images."""
    within = DIM * (1 - 1 / TOKENS)
    between = DIM * (_SPREAD[kind] ** 2 + 1 / TOKENS)
    if kind == "classes":
        between += _CENTRES.var(0).sum()
    if kind == "outliers":
        mean, square = (1 - OUTLIERS + OUTLIERS * LENGTH**power for power in (1, 2))
        within, between = within * square, between * square + _COMMON @ _COMMON * (square - mean**2)
    return float(within / (within + between))


def runs(name: str, kind: Kind, images: int, truth: float, seeds: Seeds) -> dict[str, Array]:
    """Return whether the interval of each run holds the truth, and whether it has outliers, `(repetitions,)`."""
    drawn = [tokens(kind, images, np.random.default_rng(seed)) for seed in seeds]
    found = [interval(name, each) for each in drawn]
    return {
        "covered": np.array([f.lower[0] <= truth <= f.upper[0] for f in found], float),
        "outliers": np.array([has_outliers(each) for each in drawn], float),
    }


def has_outliers(drawn: Array) -> bool:
    """Whether some image is several times as long as most."""
    sizes = np.linalg.norm(drawn, axis=(1, 2))
    return bool(sizes.max() > LENGTH / 3 * np.median(sizes))


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return how often intervals hold the population value, last in runs with an outlier alone."""
    rows = []
    kinds: tuple[Kind, ...] = ("ordinary", "classes", "outliers")
    for kind in kinds:
        for images in sizes:
            shares = []
            for name in MEASURED:
                truth = population(name, kind)
                done = repeat(executor, runs, name, kind, images, truth, repetitions=repetitions)
                shares.append(percent(done["covered"].mean()))
            with_outliers = done["covered"][done["outliers"] > 0]
            shares.append(percent(with_outliers.mean()) if len(with_outliers) else "")
            rows.append([kind, f"{images:,}", *shares])
    return markdown(("images are", "number", *MEASURED, "with an outlier"), rows)
