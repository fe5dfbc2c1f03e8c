"""A number with its error, or an array of them along depth: what every question to a result returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..sums import Array


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """Values with errors, at layers along a model's depth or at pairs of layers.

    Attributes:
        values: `(L,)` or `(L, L')`; of one place `()`. NaN where undefined.
        se: the same shape, standard errors; NaN where too little was measured for one.
        lower: the same shape, lower end of the 95 % interval.
        upper: the same shape, upper end.
        depth: `(L,)`, relative depth, 0 the first layer and 1 the last.
        folds: number of non-empty folds, left out one at a time; `None` if the errors are over images.
        images: the shape of the values, how many images have one; `None` if the errors are over folds.
        resolved: false if it divides by a number not clearly above 0: the values then mean little.
    """

    values: Array
    se: Array
    lower: Array
    upper: Array
    depth: Array
    folds: int | None = None
    images: Array | None = None
    resolved: bool = True

    def __repr__(self) -> str:
        """Tell the first and the last value; an array of them would fill pages."""
        if self.values.size == 0:
            return "<Estimate of nothing>"
        values, errors = self.values.ravel(), self.se.ravel()
        first, last = (with_se(values[place], errors[place]) for place in (0, -1))
        told = first if self.values.ndim == 0 else f"{first} to {last}, shape {self.values.shape}"
        rests = "images" if self.folds is None else f"{self.folds} folds"
        return f"<Estimate: {told}; errors over {rests}{'' if self.resolved else '; unresolved'}>"

    def at(self, place: int) -> Estimate:
        """Return the estimate of one layer of a curve."""
        arrays: dict[str, Any] = {
            name: None if value is None else np.asarray(value[place])
            for name, value in vars(self).items()
            if name not in ("folds", "resolved")
        }
        return replace(self, **arrays)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        return {name: as_json(value) for name, value in vars(self).items() if value is not None}


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
