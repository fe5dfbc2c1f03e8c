"""How often the library's intervals hold population CKA, and how large its errors are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refiner_cka.results import statistics
from refiner_cka.results.jackknife import Products
from refiner_cka.sums import relative_depth

from . import product
from .populations import DEPTHS, Population, batches, two_models
from .running import Seeds, markdown, percent, repeat

Array = npt.NDArray[np.float64]

KINDS = ("ordinary", "relu", "classes", "outliers")

FIRST, SECOND = np.arange(DEPTHS[0]), np.arange(DEPTHS[0], sum(DEPTHS))


@dataclass(frozen=True)
class Found:
    """Estimates of one kind over the repetitions of a cell, and the truth.

    Attributes:
        truth: `(K,)`.
        estimates: `(repetitions, 4, K)`: values, standard errors, lower and upper ends.
    """

    truth: Array
    estimates: Array

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Whether an interval holds the truth, `(repetitions, K)`."""
        lower, upper = self.estimates[:, 2], self.estimates[:, 3]
        result: npt.NDArray[np.bool_] = (lower <= self.truth) & (self.truth <= upper)
        return result

    @property
    def coverage(self) -> float:
        """Share of intervals that hold the truth, mean over layers or pairs."""
        return float(self.covered.mean())

    @property
    def whole(self) -> float:
        """Share of repetitions in which all intervals hold the truth at once."""
        return float(self.covered.all(1).mean())


def error_ratio(estimates: Array) -> float:
    """Return mean standard error over standard deviation of the values, mean over layers or pairs.

    Args:
        estimates: `(repetitions, 4, K)`, as in `Found`.
    """
    values, errors = estimates[:, 0], estimates[:, 1]
    return float((errors.mean(0) / values.std(0, ddof=1)).mean())


def measured(population: Population, images: int, seed: np.random.SeedSequence) -> Products:
    """Return what the library keeps of a run over new images."""
    features = population.features(np.random.default_rng(seed), images)
    return product.products(batches(features))


def truths(cka: Array) -> dict[str, Array]:
    """Return what `estimates` estimates, from population CKA of all layers."""
    first, second = cka[FIRST, FIRST[-1]], cka[SECOND, SECOND[-1]]
    depth = np.union1d(*map(relative_depth, DEPTHS))
    one, two = (np.interp(depth, relative_depth(len(each)), each) for each in (first, second))
    return {
        "pair": cka[np.triu_indices(len(cka), 1)],
        "curve": first[:-1],
        "s": first[1:] / first[0],
        "contrast": (one - two)[:-1],
        "contrast of s": (one / one[0] - two / two[0])[1:],
        "12 layers": first,
        "6 layers": second,
        "contrast at once": one - two,
    }


def estimates(products: Products) -> dict[str, Array]:
    """Return the library's estimates, each `(4, K)`; what is exact by definition is left out of those by layer."""
    first, second = products.of(FIRST), products.of(SECOND)
    pairs = np.triu_indices(len(products.total), 1)
    found = {
        "curve": statistics.curve(first, "none"),
        "s": statistics.curve(first, "first-last"),
        "contrast": statistics.contrast(first, second, "none"),
        "contrast of s": statistics.contrast(first, second, "first-last"),
        "12 layers": statistics.curve(first, "none", "simultaneous"),
        "6 layers": statistics.curve(second, "none", "simultaneous"),
        "contrast at once": statistics.contrast(first, second, "none", "simultaneous"),
    }
    kept = {
        "curve": np.s_[:, :-1],
        "s": np.s_[:, 1:],
        "contrast": np.s_[:, :-1],
        "contrast of s": np.s_[:, 1:],
    }
    arrays = {
        name: product.as_array(each)[kept.get(name, np.s_[:])] for name, each in found.items()
    }
    return {"pair": product.as_array(statistics.similarity(products))[:, *pairs], **arrays}


def two_model_runs(kind: str, images: int, seeds: Seeds) -> dict[str, Array]:
    """Return `estimates` of runs over images of a kind, `(repetitions, 4, K)` each."""
    population = two_models(kind)
    return product.stacked([estimates(measured(population, images, seed)) for seed in seeds])


def cell(kind: str, images: int, runs: dict[str, Array]) -> dict[str, Found]:
    """Return the runs beside their truths."""
    truth = truths(two_models(kind).cka())
    return {name: Found(truth[name], each) for name, each in runs.items()}


def table(executor: Executor, repetitions: int, sizes: Sequence[int]) -> str:
    """Return the table of coverages."""
    single = ("pair", "curve", "s", "contrast", "contrast of s")
    whole = ("12 layers", "6 layers", "contrast at once")
    rows = []
    for kind in KINDS:
        for images in sizes:
            runs = repeat(executor, two_model_runs, kind, images, repetitions=repetitions)
            found = cell(kind, images, runs)
            shares = [found[name].coverage for name in single] + [
                found[name].whole for name in whole
            ]
            ratio = f"{error_ratio(runs['pair']):.2f}"
            rows.append([kind, f"{images:,}", *map(percent, shares), ratio])
    return markdown(("images are", "number", *single, *whole, "error / SD"), rows)
