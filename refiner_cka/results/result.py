"""The result of an analysis: every question that one asks of its sums.

A result holds sums, and everything else is computed from them when asked. Results of disjoint batches of the
same analysis therefore merge by addition, and half a result is a result. No torch here: a saved result opens
in a second anywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ResultError
from ..sums import FOLDS, Array
from . import hdf5, means, trainings
from .estimate import Estimate
from .grouped import Grouped
from .jackknife import Band


class Result(Grouped):
    """Everything measured in one analysis, or in part of one. Its attributes are those of `Contents`."""

    def __repr__(self) -> str:
        """Name what it holds; the sums themselves would fill pages."""
        return (
            f"<Result: {', '.join(self.models)}; {len(self.layers)} layers, {self.images} images, "
            f"{len(self.batches)} of {self.total_batches} batches>"
        )

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result from an HDF5 file; nothing but numbers, strings and JSON is taken from it.

        Raises:
            ResultFileError: no such file; not a result; of a newer version; damaged.
        """
        return hdf5.load(path, cls)

    def save(self, path: str | Path) -> None:
        """Write the result to an HDF5 file, whole or not at all.

        Raises:
            ResultFileError: the file cannot be written.
        """
        derived: dict[str, Array] = {}
        for quantity in self.quantities:
            if quantity.estimator == "share":
                continue
            ask = self.similarity if quantity.estimator == "cosine" else self.smoothing
            estimate = ask(quantity.name)
            values, errors = hdf5.derived_paths(quantity)
            derived |= {values: estimate.values, errors: estimate.se}
        hdf5.save(self, derived | self.of_groups(), path)

    def of_groups(self) -> dict[str, Array]:
        """Return the numbers of groups by their paths in the file, for readers that do not compute."""
        found: dict[str, Array] = {}
        for group, (model, *_) in self.groups.items():
            for tokens in dict.fromkeys(at.tokens for at in self.layers if at.model == model):
                raw = self.curve(group, normalize="none", tokens=tokens)
                place = f"groups/{group}/{tokens}"
                found[f"{place}/depth"] = raw.depth
                found |= trainings.named(f"{place}/cka_last", raw)
                found |= trainings.named(f"{place}/s", self.curve(group, tokens=tokens))
                found |= trainings.named(f"{place}/ceiling", self.ceiling(group, tokens=tokens))
            for measure in self.measures:
                quantity = self.quantity(measure)
                for kind in dict.fromkeys(
                    at.tokens for at in self.axes.get(quantity.axes[0], ()) if at.model == model
                ):
                    means_of = self.smoothing(measure, group, tokens=kind, maps=kind)
                    found |= trainings.named(f"groups/{group}/{kind}/{quantity.path}", means_of)
        return found

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
        positions, depth = self._places(measure, model, tokens, maps)
        block = np.ix_(np.arange(FOLDS), *[positions] * len(self.quantity(measure).axes))
        total, images = (self._sum(measure, part)[block] for part in ("total", "images"))
        return means.means(total, images, depth, band)

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
        return means.mean_contrast(first, second, band)

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
        end = np.ones(1)
        return means.mean_contrast((sums[..., -1:], end), (sums[..., :1], end))

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

    def other_pixels(self, other: Result) -> str:
        """Say which batch that both hold was made of other pixels, inputs or labels; nothing if none was.

        Args:
            other: a result of the same analysis.
        """
        both, here, there = np.intersect1d(self.batches, other.batches, return_indices=True)
        differ = (self.batch_digests[here] != other.batch_digests[there]).any(2)
        if not differ.any():
            return ""
        place, model = np.argwhere(differ)[0]
        return f"batch {both[place]} of {self.models[model]} is of other pixels"

    def _each_smoothing(
        self, group: tuple[str, ...], measure: str, tokens: str | None, maps: str
    ) -> list[Estimate]:
        return [self.smoothing(measure, each, tokens=tokens, maps=maps) for each in group]

    def _by_fold(
        self, measure: str, model: str, tokens: str | None, maps: str
    ) -> tuple[Array, Array]:
        """Return a measure's sums and images in each fold `(g, 2, L)`, and the depth, where it is defined."""
        if len(self.quantity(measure).axes) > 1:
            raise ResultError(f"{measure} is of pairs, which have no course along depth to compare")
        positions, depth = self._places(measure, model, tokens, maps)
        total, images = (self._sum(measure, part)[:, positions] for part in ("total", "images"))
        sums, filled = np.stack([total, images], 1), images.any(1)
        measured = np.isfinite(sums[:, 0].sum(0)) & (sums[:, 1].sum(0) > 0)
        if not measured.any():
            raise ResultError(f"{measure} is defined at no layer")
        return sums[filled][..., measured], depth[measured]
