"""A number with its error, or an array of them along depth: what every question to a result returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..sums import Array
from .jackknife import Band


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """Values with errors, at layers along a model's depth or at pairs of layers.

    Attributes:
        values: `(L,)` or `(L, L')`; of one place `()`. NaN where undefined.
        se: the same shape, standard errors; NaN where too little was measured for one.
        lower: the same shape, lower end of the 95 % interval.
        upper: the same shape, upper end.
        depth: `(L,)`, relative depth, 0 the first layer and 1 the last.
        folds: number of non-empty folds of images, left out one at a time.
        over: what the error is over: how well these networks are known from these `images`, or how a recipe varies
            between `trainings`.
        images: of a mean the shape of the values, how many images have one.
        resolved: false if it divides by a number not clearly above 0: the values then mean little.
        band: whether 95 % holds for each place, or for all of them at once.
        trainings: how many trainings it rests on, see docs/replicates.md.
        spread: the shape of the values, standard deviation over trainings, or over pairs of them; `None` where
            there is one.
        freedom: the shape of the values, degrees of freedom of errors over trainings, and over images of
            fractions; `None` where they are one fewer than the folds.
    """

    values: Array
    se: Array
    lower: Array
    upper: Array
    depth: Array
    folds: int
    over: Literal["images", "trainings"] = "images"
    images: Array | None = None
    resolved: bool = True
    band: Band = "pointwise"
    trainings: int = 1
    spread: Array | None = None
    freedom: Array | None = None

    def __repr__(self) -> str:
        """Tell the first and the last value; an array of them would fill pages."""
        if self.values.size == 0:
            return "<Estimate of nothing>"
        values, errors = self.values.ravel(), self.se.ravel()
        first, last = (with_se(values[place], errors[place]) for place in (0, -1))
        told = first if self.values.ndim == 0 else f"{first} to {last}, shape {self.values.shape}"
        return (
            f"<Estimate: {told}; errors over {self.over}{'' if self.resolved else '; unresolved'}>"
        )

    def at(self, layer: int, other: int | None = None) -> Estimate:
        """Return the estimate of one layer of a curve, or of one pair of layers."""
        place = layer if other is None else (layer, other)
        arrays: dict[str, Any] = {
            name: np.asarray(value[layer if name == "depth" else place])
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return replace(self, **arrays)

    def block(self, pairs: Any, depth: Array) -> Estimate:
        """Return the estimate of some pairs of layers, indexed as an array is, of rows at these depths."""
        names = ("values", "se", "lower", "upper")
        return replace(self, depth=depth, **{name: getattr(self, name)[pairs] for name in names})

    def within(self, least: float | None, most: float | None) -> Estimate:
        """Return it with intervals that end where no value can be; `None` where there is no such bound."""
        # A value may lie beyond by rounding.
        low = (
            self.lower if least is None else np.maximum(self.lower, np.minimum(least, self.values))
        )
        high = self.upper if most is None else np.minimum(self.upper, np.maximum(most, self.values))
        return replace(self, lower=low, upper=high)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        return {name: as_json(value) for name, value in vars(self).items() if value is not None}


def nearest(depth: Array, wanted: float) -> int:
    """Return which layer lies nearest to a relative depth, the earlier of two that are equally near."""
    return int(np.abs(depth - wanted).round(9).argmin())  # equal but for rounding is equal


def with_se(value: float | Array, se: float | Array) -> str:
    """Return a value with its standard error as text, `0.412 +- 0.010`."""
    return f"{value:.3f}{error_told(se)}" if np.isfinite(value) else "undefined"


def error_told(se: float | Array) -> str:
    """Return a standard error as text that follows its value; nothing where there is none, or exactly 0.

    What is smaller than 0.001 is rounded up: an error is never told as 0.
    """
    return f" +- {max(se, 0.001):.3f}" if np.isfinite(se) and se > 0 else ""


def as_json(value: Any) -> Any:
    """Return a document in JSON types, with null for every number that JSON cannot hold."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, dict):
        return {as_json(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, str):
        # File names that are not UTF-8 carry bytes that no text in JSON can hold.
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
