"""P-values of the library against real permutations of the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt
from scipy import stats

from refiner_cka.results.chance import Null
from refiner_cka.sums import cosine
from tests.synthetic import u_centred_gram

from . import product
from .populations import Array, batches
from .running import Seeds, markdown, repeat

LEVELS = (0.05, 0.01, 0.001)

PERMUTATIONS = 20_000
"""Of each pair of layers."""

DRAWS = 24
"""Pairs of layers in a row of the table."""

ROWS = (
    (1, 64, False),
    (4, 64, False),
    (24, 64, False),
    (384, 64, False),
    (1, 146, False),
    (24, 64, True),
)
"""Width of the features, images, and whether one image of each layer is 10 times as long as the others."""


def unrelated(rng: np.random.Generator, width: int, images: int, outliers: bool) -> Array:
    """Return Gaussian features of two layers that have nothing to do with each other, `(2, images, width)`."""
    features = rng.standard_normal((2, images, width))
    if outliers:
        features[:, 0] *= 10.0
    return features


def centred(features: Array) -> list[tuple[Array, Array]]:
    """Return the U-centred Gram matrices of both layers, batch by batch."""
    return [(u_centred_gram(first), u_centred_gram(second)) for first, second in batches(features)]


def shuffled(pair: tuple[Array, Array], orders: Iterable[npt.NDArray[np.int64]]) -> Array:
    """Return the product of both layers of a batch with the images of the second in other orders."""
    first, second = pair
    return np.array([(first * second[order[:, None], order]).sum() for order in orders])


def null(features: Array) -> tuple[dict[str, Array], Null]:
    """Return the sums of two layers, and the library's null distribution of their similarity."""
    sums, _ = product.sums(batches(features))
    own = np.diagonal(sums["products"])
    moments = [sums[name] for name in ("variance", "third", "fourth")]
    return sums, Null.of(cosine(sums["products"]), (own, own), moments)


def runs(width: int, images: int, outliers: bool, seeds: Seeds) -> dict[str, Array]:
    """Return for each pair of layers how often p-values of permutations are below each level.

    `p` those of the library, `normal` those of a normal distribution of the same variance; `skewness` by the
    library and of the permutations; `rough` whether the library calls its p-values approximate.
    """
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        features = unrelated(rng, width, images, outliers)
        drawn = [
            shuffled(pair, (rng.permutation(len(pair[0])) for _ in range(PERMUTATIONS)))
            for pair in centred(features)
        ]
        sums, library = null(features)
        own = np.diagonal(sums["products"])
        similarity = sum(drawn) / np.sqrt(own.prod())
        one = Null(
            similarity, *(each[0, 1] for each in (library.sd, library.skewness, library.rough))
        )
        normal = stats.norm.sf(similarity / one.sd)
        found.append(
            {
                "p": np.array([(one.p_values() <= level).mean() for level in LEVELS]),
                "normal": np.array([(normal <= level).mean() for level in LEVELS]),
                "skewness": np.array([one.skewness, stats.skew(similarity)]),
                "rough": np.array(float(one.rough)),
            }
        )
    return product.stacked(found)


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return how often unrelated images have p-values below each level."""
    rows = []
    draws = min(repetitions, DRAWS)
    for width, images, outliers in ROWS:
        if images > max(sizes):
            continue
        found = repeat(executor, runs, width, images, outliers, repetitions=draws)
        mean = {name: values.mean(0) for name, values in found.items()}
        rows.append(
            [
                f"{width}{', an outlier' if outliers else ''}",
                str(images),
                *(f"{value:.2f}" for value in mean["skewness"]),
                *(f"{level:.4f}" for level in mean["p"]),
                f"{mean['normal'][-1]:.4f}",
                f"{100 * mean['rough']:.0f}",
            ]
        )
    heads = (
        "features",
        "images",
        "skewness",
        "of permutations",
        *(f"p <= {level}" for level in LEVELS),
        f"normal p <= {LEVELS[-1]}",
        "called approximate, %",
    )
    return markdown(heads, rows)
