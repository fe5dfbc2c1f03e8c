"""Means over images: values of single images, measured one by one, and the three sums they add up to.

A measure's sums are of its values, of their squares and of the images that have one. An image without one (NaN)
is left out of all three; one whose features are not finite (inf) makes the layer's sums NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..images import Plan
from ..subjects.readout import exact_dtype
from ..sums import FOLDS, Quantity
from .scaling import sums_device


@dataclass(frozen=True)
class Measure:
    """A row of a table of measures.

    Attributes:
        function: from `Tokens` or `Maps` to a value for each image, `(images,)`; NaN where it is undefined.
        quantity: what a result says of it.
        default: whether it is measured unless something else is asked for.
        on_grid: whether it needs the patch grid.
    """

    function: Callable[[Any], torch.Tensor]
    quantity: Quantity
    default: bool = False
    on_grid: bool = False


class Tally:
    """Values of several quantities at several places for the images of one batch.

    Args:
        shapes: of each quantity the shape of what one image gives.
        images: of the batch.
        device: where values are put.
    """

    def __init__(
        self, shapes: Mapping[Quantity, tuple[int, ...]], images: int, device: torch.device
    ) -> None:
        self._quantities = {quantity.name: quantity for quantity in shapes}
        self._values = {
            quantity.name: torch.full(
                (*shape, images), float("nan"), dtype=exact_dtype(device), device=device
            )
            for quantity, shape in shapes.items()
        }

    def put(
        self, name: str, place: int | tuple[slice, ...], values: torch.Tensor, first: int = 0
    ) -> None:
        """Set a quantity's values of the images from number `first` on.

        Args:
            name: of the quantity.
            place: where on its axes: an index, or a slice for each axis.
            values: the images last.
            first: number of the first image in the batch.
        """
        self._values[name][place][..., first : first + values.shape[-1]] = values

    def added(self) -> dict[str, torch.Tensor]:
        """Return what the batch adds to the sums."""
        found: dict[str, torch.Tensor] = {}
        for name, quantity in self._quantities.items():
            values = self._values[name]
            values = values.to(sums_device(values.device)).to(torch.float64)
            # NaN has no part in nansum, inf makes it inf, and inf - inf is NaN.
            total = values.nansum(-1)
            non_finite = total - total
            found[quantity.sum("total")] = total + non_finite
            found[quantity.sum("squares")] = values.square().nansum(-1) + non_finite
            found[quantity.sum("images")] = (~values.isnan()).sum(-1).to(torch.float64)
        return found


def marked(values: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Return values that are inf for images whose features are not finite, and NaN where undefined."""
    return values.where(values.isfinite(), float("nan")).where(finite, float("inf"))


def share(images: int, batch: int, plan: Plan) -> int:
    """Return how many of the first images of a batch are taken when a run takes `images` of its images.

    They are spread evenly over the first batch of each fold.
    """
    over = min(FOLDS, len(plan.batches))
    if batch >= over:
        return 0
    return min(images // over + (batch < images % over), max(map(len, plan.batches)))


def row(
    axis: str,
    function: Callable[[Any], torch.Tensor],
    label: str,
    about: str,
    range_: tuple[float | None, float | None],
    smoother: Literal["higher", "lower"] | None,
    source: str,
    *,
    prefix: str = "",
    default: bool = False,
    on_grid: bool = False,
    few: bool = False,
) -> Measure:
    """Return a measure called as its function is, after `prefix`. For the rest see `Measure` and `Quantity`."""
    name = prefix + function.__name__
    path = f"smoothing/{name}"
    quantity = Quantity(name, path, "mean", (axis,), label, about, range_, smoother, source, few)
    return Measure(function, quantity, default, on_grid)


def table(*measures: Measure) -> dict[str, Measure]:
    """Return measures by name."""
    return {measure.quantity.name: measure for measure in measures}
