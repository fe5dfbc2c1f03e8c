"""Which image belongs to which fold, when classes take turns in the data."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from refiner_cka.results import statistics
from refiner_cka.sums import FOLDS, fold_of

from . import product
from .coverage import error_ratio
from .populations import Array, batches, two_models
from .running import Seeds, markdown, repeat


def in_turn(places: product.Places) -> product.Places:
    """Return folds that take turns, as the classes do."""
    return places % FOLDS


SCHEMES = {"j mod 20": in_turn, "(j + 7 floor(j/20)) mod 20": fold_of}


def runs(scheme: str, images: int, seeds: Seeds) -> dict[str, Array]:
    """Return similarities of all pairs over images whose classes take turns, `(repetitions, 4, K)`."""
    population, found = two_models("in turn"), []
    for seed in seeds:
        features = population.features(np.random.default_rng(seed), images)
        products = product.products(batches(features), fold=SCHEMES[scheme])
        pairs = np.triu_indices(len(products.total), 1)
        found.append(product.as_array(statistics.similarity(products))[:, *pairs])
    return {"pair": np.stack(found)}


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return how large errors are in both schemes.

    No coverage: with as many images of each class as of any other, population CKA of images drawn one by one is
    not quite what is estimated.
    """
    rows = []
    for scheme in SCHEMES:
        for images in sizes:
            done = repeat(executor, runs, scheme, images, repetitions=repetitions)
            rows.append([scheme, f"{images:,}", f"{error_ratio(done['pair']):.2f}"])
    return markdown(("fold of the image at place j", "images", "error / SD"), rows)
