"""What a sum is and what is made of it: the words that measuring and results share.

Everything an analysis measures is a sum over batches, with what leaving out a fold of images takes away from it.
Streaming, resuming, merging shards, reducing over processes and leaving one fold out for an error are then all
additions of the same arrays.
A `Quantity` names what was measured, which sums it keeps and which of a few estimators makes numbers of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MIN_BATCH = 4
"""HSIC_1 divides by n - 3: a batch of fewer images holds no estimate."""

FOLDS = 20
"""Folds of images; every error comes from leaving out one at a time. Which image is in which: `fold_of`."""

Kind = Literal["count", "value", "pairs", "products"]
"""Of a sum: whole numbers; values of any sign; what is symmetric in two layers, and what is not negative besides
for a layer with itself."""

Estimator = Literal["mean", "fraction", "share", "cosine"]
"""What makes a number of sums: total / images; part / whole; hits / trials; S_kl / sqrt(S_kk S_ll)."""

LAYERS = "layers"
"""The axis of the models' layers: the rows of the similarity matrix, or the first of them."""

ROWS = "rows"
"""The axis of the rows of the similarity matrix where references (the labels, the pixels) follow the layers."""

REFERENCE = "reference"
"""The readout of a reference, which is no model and has but one row."""

MODELS = "models"
"""The axis of the models."""

BY_FOLD = "folds"
"""The axis of the folds of images."""


@dataclass(frozen=True)
class Layer:
    """A place along a model's depth where something was measured: an entry of an axis.

    Attributes:
        model: name of the model.
        path: dotted module path, as in `model.named_modules()`.
        tokens: readout: `all`, `patch`, `cls` or `mean`; of an attention map `softmax` or `refined`.
        index: position among the model's entries of this readout, from 0.
        depth: relative depth, 0 the first and 1 the last.
    """

    model: str
    path: str
    tokens: str
    index: int
    depth: float


@dataclass(frozen=True)
class Sum:
    """One additive float64 array; what a batch adds has its shape.

    Attributes:
        path: its name in memory and its path in the file.
        axes: names of its axes.
        kind: by which it is checked.
        at_most: path of the counts that it cannot exceed.
    """

    path: str
    axes: tuple[str, ...]
    kind: Kind
    at_most: str | None = None


IMAGES = Sum("images", (BY_FOLD,), "count")
"""The images that the sums hold."""


class _Part(NamedTuple):
    """A sum of an estimator: whether each fold has its own, its kind, the counts that it cannot exceed."""

    by_fold: bool
    kind: Kind
    at_most: str | None = None


_PARTS: Mapping[Estimator, Mapping[str, _Part]] = {
    "mean": {"total": _Part(True, "value"), "images": _Part(True, "count", "images")},
    "fraction": {
        "part": _Part(True, "value"),
        "whole": _Part(True, "value"),
        "images": _Part(True, "count", "images"),
    },
    "share": {
        "hits": _Part(False, "count", "{path}/trials"),
        "trials": _Part(False, "count", "images"),
    },
    "cosine": {
        "products": _Part(False, "products"),
        "removed": _Part(True, "products"),
        "variance": _Part(False, "products"),
        "third": _Part(False, "pairs"),
        "fourth": _Part(False, "products"),
    },
}
"""Estimator -> the sums that it needs.

`mean` takes the total of the images' values in each fold, and how many images have one. `fraction` takes what the
images of each fold add to something, and to what it is a part of. `cosine` takes the products S of all pairs of
layers; what is removed from them with the images of each fold; and the variance, the third moment and the fourth
powers of S when the images of one layer are shuffled against those of the other.
"""


@dataclass(frozen=True)
class Quantity:
    """One measured quantity, in the words that a result stores beside its numbers.

    Whatever draws, prints or exports a result reads these, so that a measure it has never heard of is drawn too.

    Attributes:
        name: in file and code.
        path: the group of the file in which its sums lie.
        estimator: what makes a number of them.
        axes: what it has a value for, one or two names of axes: each layer, each pair of layers, each model.
        label: its name on an axis.
        about: what it is, in one line.
        range: least and greatest value; `None` where there is no bound that all layers share.
        smoother: whether a `higher` or `lower` value means more alike; `None`: neither.
        source: where the formula is from.
        few: whether it is measured on a few images of a run only.
        absent: positions on its axis at which it is not measured.
    """

    name: str
    path: str
    estimator: Estimator
    axes: tuple[str, ...]
    label: str = ""
    about: str = ""
    range: tuple[float | None, float | None] = (None, None)
    smoother: Literal["higher", "lower"] | None = None
    source: str = ""
    few: bool = False
    absent: tuple[int, ...] = ()

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The sums it is made of."""
        return tuple(
            Sum(
                self.sum(name),
                (BY_FOLD, *self.axes) if part.by_fold else self.axes,
                part.kind,
                part.at_most and part.at_most.format(path=self.path),
            )
            for name, part in _PARTS[self.estimator].items()
        )

    @property
    def is_of_images(self) -> bool:
        """Whether single images have values, which its sums by fold are of."""
        return self.estimator in ("mean", "fraction")

    @property
    def quotient(self) -> tuple[str, str]:
        """The paths of the two sums by fold whose quotient it is, if it is of images."""
        parts = ("part", "whole") if self.estimator == "fraction" else ("total", "images")
        return self.sum(parts[0]), self.sum(parts[1])

    def sum(self, part: str) -> str:
        """Return the path of one of its sums."""
        return f"{self.path}/{part}"


def all_sums(quantities: Sequence[Quantity]) -> dict[str, Sum]:
    """Return the sums of a run by path, that of the images first."""
    found = [IMAGES, *(each for quantity in quantities for each in quantity.sums)]
    return {each.path: each for each in found}


def lengths_of(axes: Mapping[str, Sequence[Layer]]) -> dict[str, int]:
    """Return the length of each axis, also of those of the models and the folds."""
    models = {layer.model for layer in axes[LAYERS]}
    return {name: len(axis) for name, axis in axes.items()} | {MODELS: len(models), BY_FOLD: FOLDS}


def along_depth(entries: Sequence[tuple[str, str, str]]) -> tuple[Layer, ...]:
    """Return an axis of `(model, path, readout)`, each with its place among those of its model and readout."""
    counts = Counter((model, tokens) for model, _, tokens in entries)
    places = {own: enumerate(relative_depth(count).tolist()) for own, count in counts.items()}
    return tuple(
        Layer(model, path, tokens, *next(places[model, tokens])) for model, path, tokens in entries
    )


def fold_of(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the fold of images by their places in the planned run, counted from 0 over all batches.

    A place modulo the number of folds, shifted by 7 with every round: without the shift classes that alternate in
    the data would alternate with the folds.
    """
    folds: npt.NDArray[np.int64] = (places + 7 * (places // FOLDS)) % FOLDS
    return folds


def relative_depth(count: int) -> Array:
    """Return `(count,)` depths from 0 (first) to 1 (last); a single layer lies at 1."""
    result: Array = np.linspace(0.0, 1.0, count) if count > 1 else np.ones(count)
    return result


def cosine(products: Array) -> Array:
    """Return CKA of every pair of layers from summed HSIC products.

    CKA_kl = S_kl / sqrt(S_kk S_ll) (Nguyen, Raghu & Kornblith, arXiv 2010.15327, eq. 3). Nothing is clamped:
    the unbiased estimate of unrelated features lies on both sides of 0. A layer whose own product is not
    positive or not finite (constant or non-finite features) is NaN in its row and column.

    Args:
        products: `(L, L)` sums over batches.

    Returns:
        `(L, L)`, symmetric, diagonal 1 where defined.
    """
    own = np.diagonal(products)
    defined = np.isfinite(own) & (own > 0)
    # Powers of two bring the diagonal to between 1/2 and 2, where its products have squares.
    half = np.ldexp(1.0, -(np.frexp(np.where(defined, own, 1.0))[1] // 2))
    own = np.where(defined, own * half * half, np.nan)
    # Divided by one symmetric matrix, so that the result is symmetric to the last bit. The root of a product,
    # unlike a product of roots, is exactly s for two layers of equal s.
    result: Array = products * (half[:, None] * half) / np.sqrt(own[:, None] * own)
    np.fill_diagonal(result, own / own)
    return result
