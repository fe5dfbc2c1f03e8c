"""Token measures of simulated images, with their errors: those that depend on the mean token of a batch above all.

The images of a run are not independent there, though their tokens are: each moves the mean that is taken away from
all. `interval` measures one run as the library does, and `population` says what its interval has to hold:

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
from refiner_cka.results.means import means
from refiner_cka.sums import FOLDS, MIN_BATCH, fold_of

from .running import Seeds, markdown, percent, repeat

Array = npt.NDArray[np.float64]
Kind = Literal["ordinary", "classes", "outliers"]

BATCH, TOKENS, DIM, CLASSES = 64, 12, 8, 10

MEASURED = ("patch_cosine_centred", "patch_cosine_between", "within_image_variance", "patch_cosine")
"""The first three depend on what the images of a batch share, the last does not."""

_COMMON = np.random.default_rng(1).standard_normal(DIM)
_CENTRES = np.random.default_rng(2).standard_normal((CLASSES, DIM))

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
    of_image = rng.standard_normal((images, 1, DIM)) * 0.7
    if kind == "classes":
        of_image = of_image * 0.5 + _CENTRES[rng.integers(CLASSES, size=images), None]
    drawn = _COMMON + of_image + rng.standard_normal((images, TOKENS, DIM))
    long = rng.random((images, 1, 1)) < 0.02
    return np.where(long, 10 * drawn, drawn) if kind == "outliers" else drawn


def values(name: str, drawn: Array) -> Array:
    """Return the values of a measure of images `(images, tokens, dim)` in batches of `BATCH`, `(images,)`.

    As in a run, the images of a last batch of fewer than `MIN_BATCH` are left out.
    """
    batches = torch.from_numpy(drawn).float().split(BATCH)
    measured = [
        MEASURES[name].function(Tokens([batch])) for batch in batches if len(batch) >= MIN_BATCH
    ]
    return torch.cat(measured).double().numpy()


def interval(name: str, drawn: Array) -> Estimate:
    """Return the mean of a measure over one run with its error, arrays `(1,)`."""
    found = values(name, drawn)
    folds = np.eye(FOLDS)[fold_of(np.arange(len(found)))]
    return means(folds.T @ found[:, None], folds.sum(0)[:, None], np.ones(1))


@cache
def population(name: str, kind: Kind) -> float:
    """Return what the mean over runs of batches of `BATCH` tends to, from a sample of `LARGE` images."""
    return float(values(name, tokens(kind, LARGE, np.random.default_rng(0))).mean())


def runs(name: str, kind: Kind, images: int, truth: float, seeds: Seeds) -> dict[str, Array]:
    """Return whether the interval of each run holds the truth, `(repetitions,)`."""
    found = [interval(name, tokens(kind, images, np.random.default_rng(seed))) for seed in seeds]
    return {"covered": np.array([f.lower[0] <= truth <= f.upper[0] for f in found], float)}


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return how often intervals hold the population value."""
    rows = []
    kinds: tuple[Kind, ...] = ("ordinary", "classes", "outliers")
    for kind in kinds:
        for images in sizes:
            shares = []
            for name in MEASURED:
                truth = population(name, kind)
                done = repeat(executor, runs, name, kind, images, truth, repetitions=repetitions)
                shares.append(percent(done["covered"].mean()))
            rows.append([kind, f"{images:,}", *shares])
    return markdown(("images are", "number", *MEASURED), rows)
