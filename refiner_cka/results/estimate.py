"""A number with its error, or an array of them along depth: what every question to a result returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..sums import Array

_ARRAYS = ("values", "se", "lower", "upper", "depth")


@dataclass(frozen=True, eq=False)
class Basis:
    """What an estimate rests on.

    Attributes:
        folds: number of non-empty folds, of which one at a time was left out; `None` if the error is over images.
        images: the shape of the values, how many images have one; `None` if the error is over folds.
        resolved: false if it divides by a number not clearly above 0: the values then mean little.
    """

    folds: int | None = None
    images: Array | None = None
    resolved: bool = True


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """Values with errors, at layers along a model's depth or at pairs of layers.

    Attributes:
        values: `(L,)` or `(L, L')`; of one place `()`. NaN where undefined.
        se: the same shape, standard errors; NaN where too little was measured for one.
        lower: the same shape, lower end of the 95 % interval.
        upper: the same shape, upper end.
        depth: `(L,)`, relative depth, 0 the first layer and 1 the last.
        basis: what it rests on.
    """

    values: Array
    se: Array
    lower: Array
    upper: Array
    depth: Array
    basis: Basis = field(default_factory=Basis)

    def __repr__(self) -> str:
        """Tell the first and the last value; an array of them would fill pages."""
        if self.values.size == 0:
            return "<Estimate of nothing>"
        values, errors = self.values.ravel(), self.se.ravel()
        first, last = (with_se(values[place], errors[place]) for place in (0, -1))
        told = first if self.values.ndim == 0 else f"{first} to {last}, shape {self.values.shape}"
        rests = "images" if self.folds is None else f"{self.folds} folds"
        return f"<Estimate: {told}; errors over {rests}{'' if self.resolved else '; unresolved'}>"

    @property
    def resolved(self) -> bool:
        """False if it divides by a number not clearly above 0: the values then mean little."""
        return self.basis.resolved

    @property
    def folds(self) -> int | None:
        """Number of non-empty folds behind the errors; `None` if they are over images."""
        return self.basis.folds

    @property
    def images(self) -> Array | None:
        """How many images have a value, the shape of the values; `None` if the errors are over folds."""
        return self.basis.images

    def at(self, place: int) -> Estimate:
        """Return the estimate of one layer of a curve."""
        images = None if self.images is None else self.images[place]
        basis = Basis(self.folds, images, self.resolved)
        arrays = {name: np.asarray(getattr(self, name)[place]) for name in _ARRAYS}
        return Estimate(**arrays, basis=basis)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        arrays = {name: as_json(getattr(self, name)) for name in _ARRAYS}
        return arrays | {
            name: as_json(value) for name, value in vars(self.basis).items() if value is not None
        }


def with_se(value: float | Array, se: float | Array) -> str:
    """Return a value with its standard error as text, `0.412 +- 0.010`."""
    if not np.isfinite(value):
        return "undefined"
    return f"{value:.3f} +- {se:.3f}" if np.isfinite(se) else f"{value:.3f}"


def as_json(value: Any) -> Any:
    """Return a document in JSON types, with null for every number that JSON cannot hold."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
