"""When a normalised curve is called resolved, and what its interval is worth then."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from refiner_cka.results import statistics

from . import product
from .coverage import Found, measured
from .populations import Array, weak_first_layer
from .running import Seeds, markdown, percent, repeat

SIMILARITIES = (0.0, 0.02, 0.1, 0.3)
"""Of the first and the last layer."""


def runs(similarity: float, images: int, seeds: Seeds) -> dict[str, Array]:
    """Return normalised curves `(repetitions, 4, K)` without their first layer, and whether they are resolved."""
    population = weak_first_layer(similarity)
    found = [statistics.curve(measured(population, images, seed), "first-last") for seed in seeds]
    return {
        "s": np.stack([product.as_array(each)[:, 1:] for each in found]),
        "resolved": np.array([float(each.resolved) for each in found]),
    }


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return how often curves are resolved, and how often their intervals hold the truth."""
    rows = []
    for similarity in SIMILARITIES:
        curve = weak_first_layer(similarity).cka()[:, -1]
        for images in sizes:
            found = repeat(executor, runs, similarity, images, repetitions=repetitions)
            resolved = found["resolved"] > 0
            row = [f"{similarity}", f"{images:,}", percent(resolved.mean())]
            # Of a true ratio that does not exist there is nothing to hold.
            for kept in (np.ones_like(resolved), resolved):
                shown = similarity > 0 and kept.sum() >= MIN_SHOWN
                s = Found(curve[1:] / curve[0] if shown else curve[1:], found["s"][kept])
                row.append(percent(s.coverage) if shown else "")
            rows.append(row)
    heads = ("CKA(first, last)", "images", "resolved", "s(l)", "s(l) where resolved")
    return markdown(heads, rows)


MIN_SHOWN = 50
"""Of fewer runs no coverage is shown: its error would be more than 3 points."""
