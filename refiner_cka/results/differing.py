"""Whether two runs say the same within error, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ResultError, printable
from ..sums import Array
from .chance import ALPHA, corrected
from .estimate import as_json
from .jackknife import MIN_FOLDS
from .merging import changes
from .numbers import TOLERANCE, Numbers, numbers
from .pairing import Common, Place
from .result import Result
from .similarities import SAME

_ASIDE = {"identity", "command", "started", "shard", "smoothing", "attention", "indices", "against"}
"""Entries of the provenance that say nothing of how a number came about, or what the options say too."""

_BY_MODEL = ("notes", "training", "faint_parameters")
"""Entries of the provenance that are tables, from the name of a model to what is said of it."""

_LONG = 40
"""Characters of what differs that are told."""


@dataclass(frozen=True)
class Difference:
    """A number that differs between two results.

    Attributes:
        quantity: name of an index or a measure.
        model: its name in the first result.
        path: the layer, or block; empty of what a model has but one of.
        tokens: the readout.
        beside: of the similarity of two layers, the other one: model, path and readout.
        first: in the first result.
        second: in the second; NaN where it is undefined in one.
        se: standard error of second minus first; NaN where there is none.
        own: standard error over images of each; NaN where there is none.
        p: probability of such a difference where there is none, corrected for all numbers compared (Holm).
    """

    quantity: str
    model: str
    path: str
    tokens: str
    beside: Place | None
    first: float
    second: float
    se: float
    own: float
    p: float

    @property
    def errors(self) -> float:
        """Second minus first in standard errors of this difference; infinite where that is 0."""
        difference = self.second - self.first
        return difference / self.se if self.se else math.copysign(math.inf, difference)


@dataclass(frozen=True)
class Compared:
    """The numbers of one quantity.

    Attributes:
        quantity: its name.
        label: what it is called on an axis.
        count: how many numbers both results hold.
        largest: the largest difference; NaN if none is defined.
        in_errors: the largest difference in standard errors over images of its number; NaN without errors.
        beyond: how many differ by more than the tolerance.
        different: how many of these differ significantly.
    """

    quantity: str
    label: str
    count: int
    largest: float
    in_errors: float
    beyond: int
    different: int


@dataclass(frozen=True)
class Change:
    """What was recorded of two runs and is not the same: what, of the first, of the second."""

    what: str
    first: str
    second: str


@dataclass(frozen=True)
class Diff:
    """What differs between two results.

    Attributes:
        models: names in the first result and in the second of the models that were compared.
        by_position: whether these are the only one of each, under different names.
        images: how many images the first holds and the second.
        shared: how many of these are the same.
        paired: whether all are, in the same folds, so that errors of differences are paired.
        compared: for each quantity what was found.
        differences: for each layer and quantity the number that differs most clearly, the clearest first.
        changes: what was recorded of the runs and differs: versions, weights, preprocessing, options.
        other_inputs: models that were given other pixels, inputs or labels, made of the same images.
        missing: what only one of them holds, one line each.
    """

    models: tuple[tuple[str, str], ...]
    by_position: bool
    images: tuple[int, int]
    shared: int
    paired: bool
    compared: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    other_inputs: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether no number differs by more than the tolerance, significantly."""
        return not self.differences

    @property
    def verdict(self) -> str:
        """Whether the runs are the same, in one line."""
        count = sum(each.count for each in self.compared)
        beyond = sum(each.beyond for each in self.compared)
        if not self.same:
            different = sum(each.different for each in self.compared)
            layers = len({(each.model, each.path, each.tokens) for each in self.differences})
            places = "1 place" if layers == 1 else f"{layers} places"
            return f"Different: {different} of {count} numbers, at {places}."
        if beyond:
            return (
                f"The same within error: of {count} numbers {beyond} differ by more than {TOLERANCE} of their "
                f"standard error over images, none significantly (p < {ALPHA} after Holm)."
            )
        largest = max((each.largest for each in self.compared), key=_size, default=0.0)
        if _size(largest) == 0:
            return f"The same: all {count} numbers are identical to the last bit."
        in_errors = max((each.in_errors for each in self.compared), key=_size)
        apart = (
            f", within {in_errors:.1g} of their standard error over images" if in_errors > 0 else ""
        )
        if largest <= SAME:
            return f"The same: {count} numbers, identical to {largest:.1g}{apart}."
        return f"The same: {count} numbers{apart}."

    @property
    def sentences(self) -> list[str]:
        """What the comparison rests on, and what else differs, one line each."""
        return [printable(line) for line in (*self._basis(), *self.missing, *self._changed())]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        document: dict[str, Any] = {"same": self.same, "verdict": self.verdict, **vars(self)}
        for name in ("compared", "differences", "changes"):
            document[name] = [vars(each) for each in document[name]]
        result: dict[str, Any] = as_json(document)
        return result

    def _basis(self) -> Iterator[str]:
        if self.by_position:
            ((first, second),) = self.models
            yield f"{first} and {second} are compared, the only model of each, though their names differ."
        here, there = self.images
        if self.paired:
            yield (
                f"Both saw the same {here} images in the same folds: errors of differences are paired, a fold "
                "left out of both at a time."
            )
        else:
            some = f", of which {self.shared} are the same" if self.shared else ""
            yield (
                f"They saw different images, {here} and {there}{some}: errors of differences are those of "
                "independent images" + (", which overstates them." if self.shared else ".")
            )

    def _changed(self) -> Iterator[str]:
        for each in self.changes:
            here, there = (_shortened(text) for text in (each.first, each.second))
            yield f"{each.what}: {'not the same' if here == there else f'{here} / {there}'}"
        if self.other_inputs:
            yield f"pixels, inputs or labels given to {', '.join(self.other_inputs)}: others, of the same images"


def diff(first: Result, second: Result) -> Diff:
    """Return whether two runs say the same within error, and what differs between them.

    Compared is every number that both hold: each similarity index of each pair of layers, each measure, top-1.
    Models belong together by name, or as the only one of each. Where both runs saw the same images the error of a
    difference is paired. A number differs if its difference is significant (p < 0.05, Holm over all numbers
    compared) *and* more than 0.1 of its standard error over images: rounding, however systematic, changes no
    conclusion. Where there is no error it differs if it does by more than rounding.

    Args:
        first: a result.
        second: another, such as of the same command with another version of torch.

    Raises:
        ResultError: they share no model or no layer; one holds no image; they are of different images, too few for
            errors.
    """
    if not (first.images and second.images):
        raise ResultError("one of the results holds no images yet: there is nothing to compare")
    common = Common.of(first, second)
    paired = common.same_images()
    if not paired and min(first.folds, second.folds) < MIN_FOLDS:
        raise ResultError(
            f"the results are of different images, and one has fewer than {MIN_FOLDS}: without errors nothing "
            "says whether they differ; measure the same images, or more"
        )
    found = list(numbers(common, paired=paired))
    p_values = corrected(np.concatenate([each.p for each in found]), "holm")
    split = np.split(p_values, np.cumsum([each.p.size for each in found])[:-1])
    both = list(zip(found, split, strict=True))
    return Diff(
        models=tuple(common.models.items()),
        by_position=common.by_position,
        images=(first.images, second.images),
        shared=common.shared_images(),
        paired=paired,
        compared=tuple(_compared(*each) for each in both),
        differences=_clearest([each for of in both for each in _differences(*of)]),
        changes=tuple(_changes(common)),
        other_inputs=tuple(common.other_inputs()),
        missing=tuple(common.missing()),
    )


def _different(of: Numbers, p_values: Array) -> npt.NDArray[np.bool_]:
    """Return which numbers differ; without an error those that do by more than rounding."""
    significant = (p_values < ALPHA) | (np.isnan(of.se) & of.paired)
    result: npt.NDArray[np.bool_] = (
        ~np.isnan(of.difference) & ~of.negligible & significant | of.lost
    )
    return result


def _compared(of: Numbers, p_values: Array) -> Compared:
    size = np.abs(of.difference)
    known = np.isfinite(size)
    with np.errstate(divide="ignore", invalid="ignore"):
        in_errors = np.where(size == 0, 0.0, size / of.own)
    in_errors = in_errors[np.isfinite(in_errors)]
    return Compared(
        quantity=of.quantity.name,
        label=of.quantity.label or of.quantity.name,
        count=of.here.size,
        largest=float(size[known].max()) if known.any() else math.nan,
        in_errors=float(in_errors.max()) if in_errors.size else math.nan,
        beyond=int((known & ~of.negligible | of.lost).sum()),
        different=int(_different(of, p_values).sum()),
    )


def _differences(of: Numbers, p_values: Array) -> Iterator[Difference]:
    """Yield the numbers that differ, of a pair one for each of its places."""
    for at in np.flatnonzero(_different(of, p_values)).tolist():
        own, *other = of.places[at]
        for place, beside in ((own, other), *(((each, [own])) for each in other if each != own)):
            yield Difference(
                of.quantity.name,
                *place,
                beside=beside[0] if beside else None,
                first=float(of.here[at]),
                second=float(of.there[at]),
                se=float(of.se[at]),
                own=float(of.own[at]),
                p=float(p_values[at]),
            )


def _clearest(found: list[Difference]) -> tuple[Difference, ...]:
    """Return for each place and quantity the difference of most standard errors, the clearest first."""
    best: dict[tuple[str, ...], Difference] = {}
    for each in sorted(found, key=_clarity, reverse=True):
        best.setdefault((each.quantity, each.model, each.path, each.tokens), each)
    return tuple(best.values())


def _clarity(each: Difference) -> float:
    # What is undefined in one alone, or has no error, comes first.
    return math.inf if math.isnan(each.errors) else abs(each.errors)


def _changes(common: Common) -> Iterator[Change]:
    first = _of_models(common.first.provenance, common.models)
    second = _of_models(common.second.provenance, common.models.values())
    back = {other: name for name, other in common.models.items()}
    found = list(changes(first, _renamed(second, back), _told))
    whats = {what for what, _, _ in found}
    for what, here, there in found:
        # Some options are recorded among what determines the numbers, too.
        again = what.endswith(" of options") and what.removesuffix(" of options") in whats
        if not (again or what.startswith("tensors_")):  # `loading` says these in words
            yield Change(what, here, there)


def _of_models(provenance: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return provenance without what it says of models that are not compared: `missing` names these."""
    kept = dict(provenance)
    kept["models"] = [each for each in provenance.get("models", []) if each["name"] in names]
    for key in _BY_MODEL:
        table = provenance.get(key, {})
        kept[key] = {name: said for name, said in table.items() if name in names}
    return kept


def _told(provenance: Mapping[str, Any]) -> Iterator[str]:
    return (key for key in provenance if key not in _ASIDE)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Return nested provenance with the models called by other names."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _size(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:12]}..."
