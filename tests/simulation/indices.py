"""Similarity indices: whether their values depend on the size of the batches, and what their errors are worth."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from refiner_cka.measures.indices import INDICES
from refiner_cka.results import statistics

from . import product
from .coverage import Found, error_ratio
from .populations import Array, two_models
from .running import Seeds, markdown, percent, repeat

BATCHES = (32, 64, 128, 256)
"""Images of a batch."""

IMAGES = 512

LAYERS = [0, 6, 11, 17]
"""Of the 12 and 6 layers of two models: first, middle and last, and the last of the other."""

SHARE = 6
"""Of the repetitions one in so many is made: that fixes a value to 0.002, a coverage to 1 %."""


def runs(index: str, batch: int, kind: str, seeds: Seeds) -> dict[str, Array]:
    """Return similarities of all pairs of layers, `(repetitions, 4, K)`."""
    whole = two_models(kind)
    population, found = replace(whole, maps=whole.maps[LAYERS]), []
    pairs = np.triu_indices(len(LAYERS), 1)
    for seed in seeds:
        features = population.features(np.random.default_rng(seed), IMAGES)
        cut = [features[:, first : first + batch] for first in range(0, IMAGES, batch)]
        estimate = statistics.similarity(product.products(cut, index))
        found.append(product.as_array(estimate)[:, *pairs])
    return {"pair": np.stack(found)}


def table(executor: Executor, repetitions: int, _sizes: Sequence[int]) -> str:
    """Return values by batch size, and how often intervals hold the mean value of such runs."""
    rows = []
    for kind in ("ordinary", "outliers"):
        for index in INDICES:
            values, covered, ratios = [], [], []
            for batch in BATCHES:
                number = max(repetitions // SHARE, 2)
                pairs = repeat(executor, runs, index, batch, kind, repetitions=number)["pair"]
                truth = pairs[:, 0].mean(0)
                values.append(f"{truth.mean():.3f}")
                covered.append(percent(Found(truth, pairs).coverage))
                ratios.append(f"{error_ratio(pairs):.2f}")
            rows.append([index, kind, *values, " / ".join(covered), " / ".join(ratios)])
    sizes = [f"batches of {batch}" for batch in BATCHES]
    return markdown(("index", "images", *sizes, "coverage", "error / SD"), rows)
