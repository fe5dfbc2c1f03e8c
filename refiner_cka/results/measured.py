"""Every question about what was measured of each layer by itself, over-smoothing first, and about accuracy."""

from __future__ import annotations

import numpy as np

from ..errors import ResultError, known_names
from ..sums import FOLDS, Array, Quantity
from . import means, trainings
from .estimate import Estimate
from .grouped import Grouped
from .jackknife import Band


class Measured(Grouped):
    """A result without its file: everything that its sums say."""

    def smoothing(
        self,
        measure: str,
        model: str | None = None,
        *,
        tokens: str | None = None,
        maps: str = "softmax",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return an over-smoothing measure along one model's depth, with errors.

        Intervals over images end where the measure does: that of a positive mean is not negative.

        Args:
            measure: one of `measures`; what it means says `quantity(measure)`.
            model: name of the model, or of a group, with errors over its trainings; every layer (or block with
                maps) of the result if none is named.
            tokens: of a token measure: readout whose layers are meant. The measure does not depend on it.
            maps: of an attention measure: `softmax` or `refined`.
            band: see `curve`.

        Raises:
            ResultError: not measured; no such model, readout, maps or band.
        """
        if group := trainings.of(self.groups, model, band):
            return trainings.mean(self._each_smoothing(group, measure, tokens, maps))
        quantity = self._measure(measure)
        positions, depth = self._places(measure, model, tokens, maps)
        block = np.ix_(np.arange(FOLDS), *[positions] * len(quantity.axes))
        paths = (*quantity.quotient, quantity.sum("images"))
        total, of, images = (self.sums[path][block] for path in paths)
        if quantity.estimator == "fraction":
            return means.fractions(total, of, images, depth, band)
        return means.means(total, images, depth, band).within(*quantity.range)

    def smoothing_contrast(
        self,
        measure: str,
        model: str,
        other: str,
        *,
        tokens: str | None = None,
        maps: str = "softmax",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return a measure of `model` minus that of `other` over relative depth, with its error.

        Of two models it is the paired error over images; of two groups it is over trainings, see `contrast`.
        """
        if groups := self._two_groups(model, other, band):
            each = [self._each_smoothing(group, measure, tokens, maps) for group in groups]
            return trainings.contrast(*(trainings.defined(group, measure) for group in each))
        first, second = (self._by_fold(measure, each, tokens, maps) for each in (model, other))
        fractions = self.quantity(measure).estimator == "fraction"
        return means.mean_contrast(first, second, band, of_fractions=fractions)

    def smoothing_change(
        self, measure: str, model: str, *, tokens: str | None = None, maps: str = "softmax"
    ) -> Estimate:
        """Return a measure at a model's last layer minus that at its first, with its paired error.

        Of a group it is the mean over its trainings, with the error over trainings.
        """
        if group := trainings.of(self.groups, model):
            return trainings.mean(
                [self.smoothing_change(measure, each, tokens=tokens, maps=maps) for each in group]
            )
        sums, _ = self._by_fold(measure, model, tokens, maps)
        last, first = ((sums[..., at], np.ones(1)) for at in (slice(-1, None), slice(1)))
        fractions = self.quantity(measure).estimator == "fraction"
        return means.mean_contrast(last, first, of_fractions=fractions)

    def top1(self, model: str) -> float | None:
        """Return the fraction of images whose class the model predicted, or `None` if classes are unknown.

        Of a group it is the mean over its trainings.
        """
        if group := trainings.of(self.groups, model):
            found = [self.top1(each) for each in group]
            known = [accuracy for accuracy in found if accuracy is not None]
            return sum(known) / len(known) if len(known) == len(found) else None
        column = self._position_of(model)
        if not any(each.name == "top1" for each in self.quantities):
            return None
        hits, trials = (self._sum("top1", part)[column] for part in ("hits", "trials"))
        return float(hits / trials) if trials else None

    def _measure(self, name: str) -> Quantity:
        """Return what a measure of single images is.

        Raises:
            ResultError: it was not measured, or is none: a similarity index, accuracy.
        """
        quantity = self.quantity(name)
        if not quantity.is_of_images:
            raise ResultError(
                f"{name!r} is no measure of images: {known_names(name, self.measures)}"
            )
        return quantity

    def _each_smoothing(
        self, group: tuple[str, ...], measure: str, tokens: str | None, maps: str
    ) -> list[Estimate]:
        return [self.smoothing(measure, each, tokens=tokens, maps=maps) for each in group]

    def _by_fold(
        self, measure: str, model: str, tokens: str | None, maps: str
    ) -> tuple[Array, Array]:
        """Return the two sums of a measure in each fold `(g, 2, L)`, and the depth, where it is defined."""
        quantity = self._measure(measure)
        if len(quantity.axes) > 1:
            raise ResultError(f"{measure} is of pairs, which have no course along depth to compare")
        positions, depth = self._places(measure, model, tokens, maps)
        sums = np.stack([self.sums[path][:, positions] for path in quantity.quotient], 1)
        filled = self.sums[quantity.sum("images")][:, positions].any(1)
        measured = np.isfinite(sums[:, 0].sum(0)) & (sums[:, 1].sum(0) > 0)
        if not measured.any():
            raise ResultError(f"{measure} is defined at no layer")
        return sums[filled][..., measured], depth[measured]
