"""What a sum is and what is made of it: the words that measuring and results share.

Everything an analysis measures is a sum over batches, kept in folds. Streaming, resuming, merging shards,
reducing over processes and leaving one fold out for an error are then all additions of the same arrays.
A `Quantity` names what was measured, which sums it keeps and which of a few estimators makes numbers of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MIN_BATCH = 4
"""HSIC_1 divides by n - 3: a batch of fewer images holds no estimate."""

FOLDS = 20
"""Folds the sums are kept in; an error comes from leaving out one at a time."""

Kind = Literal["count", "value", "square", "product"]
"""Of a sum: whole numbers; values of any sign; squares of values; products of all pairs of layers."""

Folds = Literal["batches", "images"]
"""What a fold is made of. `batches`: batch k of the whole run, in whichever shard, adds to fold k mod `FOLDS`.
`images`: each batch adds to every fold."""

Estimator = Literal["mean", "share", "cosine"]
"""What makes a number of sums: total / images; hits / trials; S_ij / sqrt(S_ii S_jj)."""

LAYERS = "layers"
"""The axis of the rows of the similarity matrix."""

MODELS = "models"
"""The axis of the models."""


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
    """One additive float64 array, `(FOLDS, *axes)`.

    Attributes:
        path: its name in memory and its path in the file.
        axes: names of its axes after that of the folds.
        kind: by which it is checked.
        at_most: path of the counts that it cannot exceed.
        folds: what a fold is made of. What a batch adds has the shape of `axes` for `batches`, and the axis of
            the folds in front of them for `images`.
    """

    path: str
    axes: tuple[str, ...]
    kind: Kind
    at_most: str | None = None
    folds: Folds = "batches"


IMAGES = Sum("images", (), "count")
"""The images that the sums hold."""

_PARTS: Mapping[Estimator, Mapping[str, tuple[Kind, str | None]]] = {
    "mean": {
        "total": ("value", None),
        "squares": ("square", None),
        "images": ("count", "images"),
    },
    "share": {"hits": ("count", "{path}/trials"), "trials": ("count", "images")},
    "cosine": {"products": ("product", None)},
}
"""Estimator -> name, kind and bound of each sum that it needs."""


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
        folds: what its folds are made of.
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
    folds: Folds = "batches"
    absent: tuple[int, ...] = ()

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The sums it is made of."""
        return tuple(
            Sum(self.sum(part), self.axes, kind, bound and bound.format(path=self.path), self.folds)
            for part, (kind, bound) in _PARTS[self.estimator].items()
        )

    def sum(self, part: str) -> str:
        """Return the path of one of its sums."""
        return f"{self.path}/{part}"


def all_sums(quantities: Sequence[Quantity]) -> dict[str, Sum]:
    """Return the sums of a run by path, that of the images first."""
    found = [IMAGES, *(each for quantity in quantities for each in quantity.sums)]
    return {each.path: each for each in found}


def lengths_of(axes: Mapping[str, Sequence[Layer]]) -> dict[str, int]:
    """Return the length of each axis, also of that of the models."""
    models = {layer.model for layer in axes[LAYERS]}
    return {name: len(axis) for name, axis in axes.items()} | {MODELS: len(models)}


def along_depth(entries: Sequence[tuple[str, str, str]]) -> tuple[Layer, ...]:
    """Return an axis of `(model, path, readout)`, each with its place among those of its model and readout."""
    counts = Counter((model, tokens) for model, _, tokens in entries)
    places = {own: enumerate(relative_depth(count).tolist()) for own, count in counts.items()}
    return tuple(
        Layer(model, path, tokens, *next(places[model, tokens])) for model, path, tokens in entries
    )


def relative_depth(count: int) -> Array:
    """Return `(count,)` depths from 0 (first) to 1 (last); a single layer lies at 1."""
    result: Array = np.linspace(0.0, 1.0, count) if count > 1 else np.ones(count)
    return result


def cosine(products: Array) -> Array:
    """Return CKA of every pair of layers from summed HSIC products.

    CKA_ij = S_ij / sqrt(S_ii S_jj) (Nguyen, Raghu & Kornblith, arXiv 2010.15327, eq. 3). Nothing is clamped:
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
