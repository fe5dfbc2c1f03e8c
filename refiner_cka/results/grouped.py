"""Curves along depth: of a model, or of a group, the trainings of one recipe."""

from __future__ import annotations

import numpy as np

from ..errors import ResultError
from . import statistics, trainings
from .estimate import Estimate
from .jackknife import Band
from .similarities import Similarities
from .statistics import Normalize


class Grouped(Similarities):
    """The part of a result that is about curves, of a model or of a group of trainings."""

    def curve(
        self,
        model: str,
        *,
        normalize: Normalize = "first-last",
        tokens: str | None = None,
        index: str = "cka",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return the similarity of each layer to the last along depth, with errors.

        Args:
            model: name of a model, with errors over images; or of a group: the mean over its trainings, with
                errors over trainings.
            normalize: `first-last` s(l) = CKA(l, last) / CKA(first, last); `min-max`; `none`.
            tokens: readout; the first of the run if none is named.
            index: one of `indices`.
            band: `pointwise` intervals, or `simultaneous` ones, within which the whole curve lies with 95 %.
        """
        if group := trainings.of(self.groups, model, band):
            return trainings.mean(self._curves(group, normalize, tokens, index))
        return statistics.curve(self._products(model, tokens, index), normalize, band)

    def contrast(
        self,
        model: str,
        other: str,
        *,
        normalize: Normalize = "none",
        tokens: str | None = None,
        index: str = "cka",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return the curve of `model` minus that of `other` over relative depth, with its error.

        Of two models it is the paired error over images; of two groups it is over trainings, by Welch.

        Raises:
            ResultError: no such model, group, readout, index or band; a group and a model that is none.
        """
        if groups := self._two_groups(model, other, band):
            return trainings.contrast(
                *(self._curves(group, normalize, tokens, index) for group in groups)
            )
        first, second = (self._products(each, tokens, index) for each in (model, other))
        return statistics.contrast(first, second, normalize, band)

    def against(
        self,
        model: str,
        reference: str,
        *,
        tokens: str | None = None,
        index: str = "cka",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return the similarity of each layer to a reference along depth, with errors.

        Args:
            model: see `curve`.
            reference: one of `references`.
            tokens: readout; the first of the run if none is named.
            index: one of `indices`.
            band: see `curve`.

        Raises:
            ResultError: no such model, group, reference, readout, index or band.
        """
        row = self._row_of(reference)
        if group := trainings.of(self.groups, model, band):
            return trainings.mean(
                [self.against(each, reference, tokens=tokens, index=index) for each in group]
            )
        rows = self.rows(model, tokens=tokens)
        return statistics.against(self._all_products(index).of(np.append(rows, row)), band)

    def ceiling(
        self,
        group: str,
        *,
        tokens: str | None = None,
        index: str = "cka",
        band: Band = "pointwise",
    ) -> Estimate:
        """Return the similarity of the same layer in different trainings of one recipe, along depth.

        Another network can hardly be expected to resemble one of them more than they resemble each other.

        Args:
            group: its name.
            tokens: readout; the first of the run if none is named.
            index: one of `indices`.
            band: see `curve`.

        Returns:
            The mean over pairs of trainings, with its error over images; its `spread` is over pairs.

        Raises:
            ResultError: no such group.
        """
        if group not in self.groups:
            known = ", ".join(self.groups) or "none: name trainings of one recipe with group="
            raise ResultError(f"no group {group!r} in this result; it holds {known}")
        models = self.groups[group]
        rows = np.concatenate([self.rows(model, tokens=tokens) for model in models])
        return statistics.ceiling(self._all_products(index).of(rows), len(models), band)

    def _curves(
        self, group: tuple[str, ...], normalize: Normalize, tokens: str | None, index: str
    ) -> list[Estimate]:
        return [self.curve(each, normalize=normalize, tokens=tokens, index=index) for each in group]

    def _two_groups(self, one: str, other: str, band: Band) -> tuple[tuple[str, ...], ...]:
        """Return the trainings of two groups; nothing if both are models."""
        for model in {one, other}.difference(self.groups):
            self._position_of(model)
        return trainings.both(self.groups, one, other, band)

    def _position_of(self, model: str) -> int:
        if model in self.groups:
            raise ResultError(
                f"{model!r} is a group of trainings, of which this is not known as a whole; name one of them: "
                f"{', '.join(self.groups[model])}"
            )
        return super()._position_of(model)
