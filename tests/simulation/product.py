"""The library's own way from features to estimates, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from refiner_cka.measures import pairs
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.results.estimate import Estimate
from refiner_cka.results.jackknife import Products
from refiner_cka.sums import FOLDS, fold_of

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
FoldOf = Callable[[Places], Places]


def sums(
    batches: Iterable[Array], index: str = "cka", fold: FoldOf = fold_of
) -> tuple[dict[str, Array], int]:
    """Return what the library sums up of a run, and how many folds hold images.

    Args:
        batches: of each batch the features, `(L, n, p)`.
        index: name of the similarity index.
        fold: from the places of images in the run to their folds.
    """
    total: dict[str, Array] = {}
    place = 0
    for features in batches:
        images = features.shape[1]
        centred = torch.from_numpy(features - features.mean(1, keepdims=True))
        folds = fold(np.arange(place, place + images))
        scales = torch.ones(centred.shape[:2], dtype=torch.float64)
        folded = Folded(folds, torch.device("cpu"))
        added = pairs.batch_sums(INDICES[index], centred @ centred.mT, scales, folded)
        for name, values in added.items():
            total[name] = total.get(name, 0.0) + values.numpy()
        place += images
    return total, min(place, FOLDS)


def products(batches: Iterable[Array], index: str = "cka", fold: FoldOf = fold_of) -> Products:
    """Return the products of all pairs of layers; for the arguments see `sums`."""
    total, folds = sums(batches, index, fold)
    return Products(total["products"], total["removed"][:folds])


def as_array(estimate: Estimate) -> Array:
    """Return values, standard errors, lower and upper ends, `(4, ...)`."""
    return np.stack([estimate.values, estimate.se, estimate.lower, estimate.upper])


def stacked(runs: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Return the arrays of several runs by name, the runs first."""
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}
