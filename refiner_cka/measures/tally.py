"""Values of single images, measured one by one, and the sums they add up to.

A measure's sums are, for each fold, of its values and of the images that have one; a fraction has two values of an
image. An image without one (NaN) is left out of all; one whose features are not finite (inf) makes the layer's
number NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..images import Plan
from ..subjects.readout import exact_dtype
from ..sums import FOLDS, Estimator, Quantity
from .scaling import sums_device

Needs = Literal["tokens", "grid", "class_token"]
"""What a measure of tokens reads besides the patch tokens themselves: their grid, or the class token."""


@dataclass(frozen=True)
class Measure:
    """A row of a table of measures.

    Attributes:
        function: from `Tokens` or `Maps` to a value for each image, `(images,)`; NaN where it is undefined. Of a
            fraction to its part and its whole, `(2, images)`.
        quantity: what a result says of it.
        default: whether it is measured unless something else is asked for.
        needs: where a layer has not got this, it is not measured.
    """

    function: Callable[[Any], torch.Tensor]
    quantity: Quantity
    default: bool = False
    needs: Needs = "tokens"

    def of_batch(self, seen: Any) -> float:
        """Return the number of the `Tokens` or `Maps` of one batch by themselves; NaN where it is undefined."""
        means = self.function(seen).double().nanmean(-1)
        return float(means[0] / means[1] if self.quantity.estimator == "fraction" else means)


class Tally:
    """Values of several quantities at several places for the images of one batch.

    Args:
        shapes: of each quantity the shape of what one image gives.
        folds: of the images, int64 `(images,)`, on the CPU.
        device: where values are put.
    """

    def __init__(
        self, shapes: Mapping[Quantity, tuple[int, ...]], folds: torch.Tensor, device: torch.device
    ) -> None:
        self._quantities = {quantity.name: quantity for quantity in shapes}
        self._folds = folds
        self._device = sums_device(device)
        self._values = {
            quantity.name: torch.full(
                (*shape, *_VALUES[quantity.estimator], len(folds)),
                float("nan"),
                dtype=exact_dtype(device),
                device=device,
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
            values: the images last; of a fraction, before them, the part and the whole.
            first: number of the first image in the batch.
        """
        self._values[name][place][..., first : first + values.shape[-1]] = values

    def added(self) -> dict[str, torch.Tensor]:
        """Return what the batch adds to the sums."""
        found: dict[str, torch.Tensor] = {}
        # Which image is in which fold is told on the device: to copy more than a few bytes might wait for it.
        folds = self._folds.to(self._device, non_blocking=True)
        is_in = folds.unsqueeze(1) == torch.arange(FOLDS, device=self._device)
        members = is_in.to(torch.float64)
        for name, quantity in self._quantities.items():
            values = self._values[name].to(self._device).to(torch.float64)
            has = ~values.isnan()
            # What is inf makes NaN of every fold that it has no part in.
            sums = _by_fold(values.where(has, 0.0), members)
            if quantity.estimator == "fraction":
                has = has.all(-2)
                found |= zip(quantity.quotient, sums.unbind(-1), strict=True)
            else:
                found[quantity.sum("total")] = sums
            found[quantity.sum("images")] = _by_fold(has.to(torch.float64), members)
        return found


_VALUES: Mapping[Estimator, tuple[int, ...]] = {"mean": (), "fraction": (2,)}
"""Estimator -> shape of what a single image gives."""


def _by_fold(values: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Return sums `(folds, ...)` of values `(..., images)` over the images of each fold."""
    return (values @ members).movedim(-1, 0)


def marked(values: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Return values that are inf for images whose features are not finite, and NaN where undefined."""
    nan = float("nan")
    return values.nan_to_num(nan, nan, nan).where(finite, float("inf"))


def share(images: int, batch: int, plan: Plan) -> int:
    """Return how many of the first images of a batch are taken when a run takes `images` of its images.

    They are spread evenly over the first batches of the run.
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
    needs: Needs = "tokens",
    few: bool = False,
    estimator: Estimator = "mean",
) -> Measure:
    """Return a measure called as its function is, after `prefix`. For the rest see `Measure` and `Quantity`."""
    name = prefix + function.__name__
    path = f"smoothing/{name}"
    quantity = Quantity(name, path, estimator, (axis,), label, about, range_, smoother, source, few)
    return Measure(function, quantity, default, needs)


def table(*measures: Measure) -> dict[str, Measure]:
    """Return measures by name."""
    return {measure.quantity.name: measure for measure in measures}
