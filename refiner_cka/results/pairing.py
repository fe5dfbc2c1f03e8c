"""What two results have in common: models, layers, quantities and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ResultError, some
from ..sums import LAYERS, MODELS, Quantity
from .record import Record
from .result import Result

Positions = npt.NDArray[np.intp]
Place = tuple[str, str, str]
"""Model, by its name in the first result; path; readout. Of the axis of models the latter two are empty."""


@dataclass(frozen=True, eq=False)
class Common:
    """What two results have in common.

    Attributes:
        first: one of them.
        second: the other.
        models: names of the models of both, in the first -> in the second.
        by_position: whether they were matched as the only one of each, under different names.
    """

    first: Result
    second: Result
    models: Mapping[str, str]
    by_position: bool

    @classmethod
    def of(cls, first: Result, second: Result) -> Common:
        """Match the models of two results by their names; one of each alone, whatever they are called.

        Raises:
            ResultError: they share no model, or no layer of one.
        """
        models = {name: name for name in first.models if name in second.models}
        alone = len(first.models) == len(second.models) == 1
        if not models and alone:
            models = {first.models[0]: second.models[0]}
        if not models:
            raise ResultError(
                f"the results share no model: the first has {some(first.models)}, the second "
                f"{some(second.models)}; give those that belong together one label="
            )
        found = cls(first, second, models, first.models != second.models and alone)
        if not found.places(LAYERS, LAYERS)[0]:
            raise ResultError(
                "the results share no layer: no path and readout of a model is in both"
            )
        return found

    def places(self, axis: str, other: str) -> tuple[list[Place], Positions, Positions]:
        """Return what two axes have in common, and where on each of them it is.

        Args:
            axis: of the first result.
            other: of the second.
        """
        here, there = self._named(self.first, axis), self._named(self.second, other)
        both = [place for place in here if place in there]
        first, second = (np.array([of[place] for place in both], np.intp) for of in (here, there))
        return both, first, second

    def quantities(self) -> Iterator[tuple[Quantity, Quantity]]:
        """Yield the quantities that both hold and that are of one kind, as each says of them."""
        others = {each.name: each for each in self.second.quantities}
        for each in self.first.quantities:
            other = others.get(each.name)
            if other is not None and _is_one(each, other):
                yield each, other

    def missing(self) -> Iterator[str]:
        """Yield what only one of them holds, one line each."""
        for one, other, name in (
            (self.first, self.second, "first"),
            (self.second, self.first, "second"),
        ):
            paired = self.models if one is self.first else self.models.values()
            if models := [model for model in one.models if model not in paired]:
                yield f"Only the {name} has the models {some(models, 8)}."
            here, there = (self._named(of, LAYERS) for of in (one, other))
            layers = [
                f"{model} {path} ({tokens})"
                for model, path, tokens in here
                if model in self.models and (model, path, tokens) not in there
            ]
            if layers:
                yield f"Only the {name} has the layers {some(layers, 4)}."
            held = {each.name: each for each in other.quantities}
            if names := [each.name for each in one.quantities if each.name not in held]:
                yield f"Only the {name} measured {some(names, 8)}."
        for each, other_one in (
            (each, of)
            for each in self.first.quantities
            for of in self.second.quantities
            if of.name == each.name and not _is_one(each, of)
        ):
            yield f"{each.label} and {other_one.label} are not compared: they are different quantities."

    def same_images(self) -> bool:
        """Whether the images of both lie at the same places of the run, and so in the same folds.

        They do by their pixels, or by the digest of the data they were read from, where these were prepared in
        different ways.
        """
        (here, digests), (there, others) = map(_placed, (self.first, self.second))
        if not np.array_equal(here, there):
            return False
        recorded = [Record(of).entry("images").get("digest") for of in (self.first, self.second)]
        by_name = recorded[0] is not None and recorded[0] == recorded[1]
        return by_name or np.array_equal(digests, others)

    def shared_images(self) -> int:
        """Return how many images have the same pixels in both, wherever in the run."""
        return len(np.intersect1d(_placed(self.first)[1], _placed(self.second)[1]))

    def other_inputs(self) -> list[str]:
        """Return the models that were given other pixels or labels where batches are of the same images."""
        sizes = [of.image_digests.shape[1] for of in (self.first, self.second)]
        if not self.same_images() or sizes[0] != sizes[1]:
            return []
        both = np.intersect1d(self.first.batches, self.second.batches, return_indices=True)
        found = []
        for model, other in self.models.items():
            here = self.first.batch_digests[both[1], self.first.models.index(model)]
            there = self.second.batch_digests[both[2], self.second.models.index(other)]
            if not np.array_equal(here, there):
                found.append(model)
        return found

    def _named(self, result: Result, axis: str) -> dict[Place, int]:
        """Return the entries of an axis by their place, models by their names in the first result."""
        back = {} if result is self.first else {of: name for name, of in self.models.items()}
        if axis == MODELS:
            return {(back.get(name, name), "", ""): at for at, name in enumerate(result.models)}
        return {
            (back.get(entry.model, entry.model), entry.path, entry.tokens): at
            for at, entry in enumerate(result.axes[axis])
        }


def _is_one(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities of one name are comparable: the label of some carries what they depend on."""
    kinds = [(each.estimator, len(each.axes), each.label) for each in (one, other)]
    return kinds[0] == kinds[1]


def _placed(result: Result) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Return the places in the run of the images that a result holds, and their digests."""
    batch, place = np.nonzero(result.image_digests)
    places = result.batches[batch] * result.image_digests.shape[1] + place
    return places, result.image_digests[batch, place]
