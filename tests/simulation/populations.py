"""Populations of features whose CKA is known in closed form.

An image is a latent vector z of mean 0 and covariance C. Layer l has the features z A_l, or relu(z A_l). HSIC with
linear kernels of two layers is the squared Frobenius norm of their cross-covariance, |A_k' C A_l|^2 for the linear
ones, whatever the distribution of z: so population CKA follows from A and C alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refiner_cka.sums import cosine

Array = npt.NDArray[np.float64]

LATENT = 24
"""Numbers behind an image."""

WIDTH = 12
"""Features of a layer."""

CLASSES = 10

BATCH = 64
"""Images of a batch."""

DEPTHS = (12, 6)
"""Layers of the two models that see the same images."""


@dataclass(frozen=True)
class Population:
    """Layers of one or more models, and the images they see.

    Attributes:
        maps: `(L, LATENT, WIDTH)`, A_l of each layer.
        draw: from a generator and a number of images to their latent vectors `(n, LATENT)`.
        covariance: `(LATENT, LATENT)`, of the latent vectors.
        relu: whether features below 0 are cut; closed form for Gaussian latent vectors only.
    """

    maps: Array
    draw: Callable[[np.random.Generator, int], Array]
    covariance: Array
    relu: bool = False

    def features(self, rng: np.random.Generator, images: int) -> Array:
        """Return `(L, images, WIDTH)` features of new images."""
        features: Array = self.draw(rng, images) @ self.maps
        return np.maximum(features, 0.0) if self.relu else features

    def cka(self) -> Array:
        """Return population CKA `(L, L)`."""
        wide = np.concatenate(list(self.maps), axis=1)
        cross = wide.T @ self.covariance @ wide
        if self.relu:
            cross = relu_covariance(cross)
        layers = len(self.maps)
        blocks = cross.reshape(layers, WIDTH, layers, WIDTH)
        return cosine((blocks**2).sum((1, 3)))


def relu_covariance(covariance: Array) -> Array:
    """Return the covariance of relu(u), relu(v) of Gaussian u, v of mean 0 (Cho & Saul 2009)."""
    sd = np.sqrt(np.diagonal(covariance))
    scale = sd[:, None] * sd
    correlation = np.clip(covariance / scale, -1.0, 1.0)
    angle = np.arccos(correlation)
    result: Array = scale / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * correlation - 1.0)
    return result


def turning(rng: np.random.Generator, depth: int, angle: float = 1.4) -> Array:
    """Return maps of a model whose layers turn from one random map to another, `(depth, LATENT, WIDTH)`."""
    strength = np.arange(1, LATENT + 1)[:, None] ** -0.5
    first, last = rng.standard_normal((2, LATENT, WIDTH)) * strength
    turns = np.linspace(0.0, angle, depth)[:, None, None]
    return np.cos(turns) * first + np.sin(turns) * last


def gaussian(rng: np.random.Generator, images: int) -> Array:
    """Return ordinary images."""
    return rng.standard_normal((images, LATENT))


def with_outliers(rng: np.random.Generator, images: int) -> Array:
    """Return images of which 2 % are 10 times as long."""
    return gaussian(rng, images) * np.where(rng.random((images, 1)) < 0.02, 10.0, 1.0)


def two_models(kind: str) -> Population:
    """Return the population of the tables, with models of 12 and 6 layers.

    Args:
        kind: `ordinary`, `relu`, `classes`, `in turn` (classes that take turns) or `outliers`.
    """
    rng = np.random.default_rng(12)
    maps = np.concatenate([turning(rng, depth) for depth in DEPTHS])
    white = np.eye(LATENT)
    if kind in ("classes", "in turn"):
        means = 1.5 * rng.standard_normal((CLASSES, LATENT))
        means -= means.mean(0)

        def clustered(rng: np.random.Generator, images: int) -> Array:
            turns = np.arange(images) % CLASSES
            drawn = turns if kind == "in turn" else rng.integers(CLASSES, size=images)
            return means[drawn] + gaussian(rng, images)

        return Population(maps, clustered, white + means.T @ means / CLASSES)
    if kind == "outliers":
        return Population(maps, with_outliers, (0.98 + 0.02 * 10.0**2) * white)
    return Population(maps, gaussian, white, relu=kind == "relu")


def weak_first_layer(similarity: float, depth: int = 6) -> Population:
    """Return a model with CKA(first, last) as given, whose other layers lie near the last one.

    The first layer sees the first half of the latent numbers in half of its features; the last one the other half
    in the other, and as much of the first layer as gives the similarity.
    """
    rng = np.random.default_rng(3)
    ends = rng.standard_normal((2, LATENT, WIDTH))
    ends[0, LATENT // 2 :] = ends[0, :, WIDTH // 2 :] = 0.0
    ends[1, : LATENT // 2] = ends[1, :, : WIDTH // 2] = 0.0
    first, last = (np.linalg.norm(end @ end.T) for end in ends)
    # With weights m and 1 of two matrices that are orthogonal, CKA with the first is m a / sqrt(m^2 a^2 + b^2).
    mixed = similarity * last / (first * np.sqrt(1.0 - similarity**2))
    final = np.sqrt(mixed) * ends[0] + ends[1]
    turns = np.linspace(0.0, np.pi / 2, depth)[:, None, None]
    return Population(np.cos(turns) * ends[0] + np.sin(turns) * final, gaussian, np.eye(LATENT))


def batches(features: Array) -> Sequence[Array]:
    """Return features `(L, n, WIDTH)` in batches as a run cuts them; a last one of fewer than 4 is left out."""
    cut = [features[:, first : first + BATCH] for first in range(0, features.shape[1], BATCH)]
    return cut if cut[-1].shape[1] >= 4 else cut[:-1]
