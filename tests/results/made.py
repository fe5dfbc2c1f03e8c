"""U-centred Gram matrices of made-up layers, their sums, and the sums without a fold, by brute force."""

from __future__ import annotations

import numpy as np

from refiner_cka.results.jackknife import Products
from refiner_cka.sums import FOLDS, fold_of
from tests.synthetic import added_by, u_centred_gram


def grams(images=60, layers=4, seed=0):
    """`(layers, images, images)` of one batch, of layers that turn from one random map into another."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, 10, 40))
    latent = rng.standard_normal((images, 10))
    turns = np.arange(layers) / max(layers - 1, 1)
    return np.stack([u_centred_gram(latent @ ((1 - t) * maps[0] + t * maps[1])) for t in turns])


def products(stack):
    """The sums of a batch that is the first of a run."""
    places = np.arange(stack.shape[1])
    added = added_by(stack, places)
    filled = np.bincount(fold_of(places), minlength=FOLDS) > 0
    return Products(added["products"], added["removed"][filled])


def without(stack, fold):
    """Products `(L, L)` of the pairs of images of which none is in a fold."""
    keep = fold_of(np.arange(stack.shape[1])) != fold
    left = stack[:, keep][:, :, keep].reshape(len(stack), -1)
    return left @ left.T


def left_out(stack, statistic):
    """A statistic without each non-empty fold in turn, `(g, ...)`."""
    folds = np.unique(fold_of(np.arange(stack.shape[1])))
    return np.array([statistic(without(stack, fold)) for fold in folds])


def jackknife(values):
    """The standard error from values without each fold."""
    g = len(values)
    return np.sqrt((g - 1) / g * ((values - values.mean(0)) ** 2).sum(0))
