"""What was found, in a short table and in plain words.

Statements rest on the raw curve, CKA(l, last): unlike the normalised one it does not divide by a number that may
be close to 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..sums import Array, Quantity
from .result import Result
from .statistics import MIN_GROUPS, Contrast, Curve

MEANING = (
    "CKA near 1 and cosine near 1 are different things: CKA near 1 between two layers says that they tell the "
    "images apart in the same way (nothing new along depth); cosine near 1 within a layer says that the tokens "
    "of an image have become alike (collapse inside the layer). Neither implies the other."
)
"""Printed wherever both are."""

_FEW = 4
"""So many models are compared in sentences pair by pair. The data hold all pairs of any number."""

SIMILAR = 0.9
"""CKA with the last layer from which on the summary calls a layer similar to it."""


@dataclass(frozen=True)
class Finding:
    """One model under one readout.

    Attributes:
        model: its name.
        tokens: the readout.
        layers: number of layers.
        first_last: CKA(first, last).
        first_last_se: its jackknife standard error.
        s_last: 1 / CKA(first, last), the height of the normalised curve at its end.
        s_last_lower: lower end of its 95 % interval (Fieller).
        s_last_upper: upper end.
        resolved: whether CKA(first, last) is clearly above 0, so that `s_last` means something.
        similar_from: path of the first layer from which on every layer has CKA of at least `SIMILAR` with the
            last.
        similar_depth: its relative depth.
        top1: fraction of images whose class the model predicted, where classes are known.
        last: path of the last layer.
        first: path of the first layer.
    """

    model: str
    tokens: str
    layers: int
    first_last: float
    first_last_se: float
    s_last: float
    s_last_lower: float
    s_last_upper: float
    resolved: bool
    similar_from: str | None
    similar_depth: float | None
    top1: float | None
    first: str
    last: str


@dataclass(frozen=True)
class Comparison:
    """Two models at the depth nearest to the middle: the difference of their raw curves."""

    model: str
    other: str
    tokens: str
    depth: float
    difference: float
    se: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Smoothing:
    """The headline measure of over-smoothing of one model: at its first and last layer with tokens.

    Attributes:
        model: its name.
        measure: which measure.
        first: path of the first layer where it is defined.
        last: path of the last.
        first_value: value at the first.
        first_se: its standard error over images.
        last_value: value at the last.
        last_se: its standard error over images.
        change: last minus first.
        change_se: paired jackknife error of that.
        lower: lower end of its 95 % interval.
        upper: upper end.
    """

    model: str
    measure: str
    first: str
    last: str
    first_value: float
    first_se: float
    last_value: float
    last_se: float
    change: float
    change_se: float
    lower: float
    upper: float


@dataclass(frozen=True)
class SmoothingComparison:
    """The headline measure at the last layers of two models: first minus second, paired over images."""

    model: str
    other: str
    measure: str
    difference: float
    se: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Summary:
    """What a result says, ready to print."""

    result: Result
    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    smoothing: tuple[Smoothing, ...] = ()
    smoothing_comparisons: tuple[SmoothingComparison, ...] = ()

    @property
    def headers(self) -> list[str]:
        """Column heads of the table."""
        heads = [
            "Model",
            "Layers",
            "CKA(first, last)",
            "s(last), 95 % interval",
            f"CKA >= {SIMILAR} from",
        ]
        heads += ["Top-1"] if self._has_top1 else []
        return heads

    @property
    def rows(self) -> list[list[str]]:
        """Rows of the table, a model and readout each."""
        rows = []
        for finding in self.findings:
            name = finding.model
            if len(self.result.tokens) > 1:
                name += f" ({finding.tokens})"
            row = [name, str(finding.layers), _with_se(finding.first_last, finding.first_last_se)]
            row += [_ratio(finding), "-" if finding.similar_from is None else finding.similar_from]
            if self._has_top1:
                row.append("-" if finding.top1 is None else f"{100 * finding.top1:.1f} %")
            rows.append(row)
        return rows

    @property
    def sentences(self) -> list[str]:
        """The findings in plain words, with what the numbers rest on."""
        return list(self._sentences())

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        result = self.result
        return {
            "images": result.images,
            "batches": len(result.batches),
            "total_batches": result.total_batches,
            "complete": result.complete,
            "groups": result.groups,
            "unreadable": [vars(entry) for entry in result.unreadable],
            "in_batches_too_small": self.too_small,
            "models": [_json(vars(finding)) for finding in self.findings],
            "contrasts": [_json(vars(comparison)) for comparison in self.comparisons],
            "smoothing": [_json(vars(entry)) for entry in self.smoothing],
            "smoothing_contrasts": [_json(vars(entry)) for entry in self.smoothing_comparisons],
            "warnings": list(result.warnings),
            "fingerprint": result.fingerprint,
        }

    @property
    def too_small(self) -> int:
        """Readable images whose batches were too small for the estimator; 0 while a run is incomplete."""
        result = self.result
        if not result.complete:
            return 0
        planned = int(result.batch_planned.sum()) + int(result.provenance.get("left_out", 0))
        return planned - len(result.unreadable) - result.images

    @property
    def _has_top1(self) -> bool:
        return any(finding.top1 is not None for finding in self.findings)

    def _sentences(self) -> Iterator[str]:
        result = self.result
        count = len(result.batches)
        counted = f"{result.images} images in {count} {'batch' if count == 1 else 'batches'}"
        if not result.complete:
            yield f"Incomplete: {len(result.batches)} of {result.total_batches} batches."
        if result.groups >= MIN_GROUPS:
            yield f"{counted}; errors are jackknife standard errors over {result.groups} groups of batches."
        else:
            yield f"{counted}; too few for errors, which take at least {MIN_GROUPS} groups of batches."
        if result.unreadable:
            first = result.unreadable[0]
            yield (
                f"{len(result.unreadable)} images could not be read, such as {first.image}: {first.reason}."
            )
        if self.too_small:
            yield (
                f"{self.too_small} readable images were left out: their batches had fewer than 4 images, "
                "which hold no estimate."
            )
        covered = result.provenance.get("fingerprint_of_images", {})
        if not covered.get("whole", True):
            yield (
                f"The fingerprint covers {covered['covers']}; what each batch saw is digested in the result."
            )
        untrained = [
            str(model["name"])
            for model in result.provenance.get("models", [])
            if model.get("origin", {}).get("weights") == "random"
        ]
        if untrained:
            verb = "is" if len(untrained) == 1 else "are"
            yield f"{_listed(untrained)} {verb} untrained: random weights, so the numbers describe architecture."
        notes: dict[str, str] = result.provenance.get("notes", {})
        for note in dict.fromkeys(notes.values()):
            yield f"{_listed([name for name, of in notes.items() if of == note])}: {note}."
        for finding in self.findings:
            yield from self._about(finding)
        compared = self._told_pairs()
        for comparison in self.comparisons:
            pair = (comparison.model, comparison.other)
            if pair in compared and not any(self._flat(one, comparison.tokens) for one in pair):
                yield self._compared(comparison)
        for smoothed in self.smoothing:
            yield _smoothed(smoothed, result.quantity(smoothed.measure))
        for entry in self.smoothing_comparisons:
            if (entry.model, entry.other) in compared:
                yield _smoother(entry, result.quantity(entry.measure))
        if self.smoothing:
            yield MEANING

    def _told_pairs(self) -> set[tuple[str, str]]:
        """Return the pairs of models that sentences compare: all of a few; of many each with the next."""
        models = self.result.models
        few = len(models) <= _FEW
        return set(itertools.combinations(models, 2) if few else itertools.pairwise(models))

    def _flat(self, model: str, tokens: str) -> bool:
        """Whether CKA cannot tell any of a model's layers apart, so that its curve says nothing."""
        rows = self.result.rows(model, tokens=tokens)
        ends = self.result.layers[rows[0]], self.result.layers[rows[-1]]
        return self.result.same(model, tokens=tokens) == [ends] and len(rows) > 1

    def _about(self, finding: Finding) -> Iterator[str]:
        name = finding.model + (f" ({finding.tokens})" if len(self.result.tokens) > 1 else "")
        if not self.result.images:
            return
        if not math.isfinite(finding.first_last):
            yield (
                f"{name}: CKA(first, last) is undefined: the features of {finding.first} or "
                f"{finding.last} do not vary, or are not finite."
            )
            return
        if self._flat(finding.model, finding.tokens):
            yield f"{name}: all its layers are the same up to rounding: its curve says nothing about depth."
            return
        text = (
            f"{name}: {finding.first} and {finding.last} share CKA "
            f"{_with_se(finding.first_last, finding.first_last_se)}"
        )
        if finding.similar_from is not None and finding.similar_from != finding.last:
            text += f"; from {finding.similar_from} on, every layer has CKA of at least {SIMILAR} with the last"
        else:
            text += f"; no earlier layer has CKA of {SIMILAR} with the last"
        yield text + "."
        if not finding.resolved and not math.isfinite(finding.first_last_se):
            yield f"{name}: s(l) is unresolved without an error of CKA(first, last): read the raw curve."
        elif not finding.resolved:
            yield (
                f"{name}: s(l) is unresolved, since CKA(first, last), by which it divides, is not clearly "
                "above 0: read the raw curve."
            )

    def _compared(self, comparison: Comparison) -> str:
        tokens = f" ({comparison.tokens})" if len(self.result.tokens) > 1 else ""
        closer, further, sign = comparison.model, comparison.other, 1.0
        if comparison.difference < 0:
            closer, further, sign = further, closer, -1.0
        size = _with_se(sign * comparison.difference, comparison.se)
        if not math.isfinite(comparison.se):
            return (
                f"At relative depth {comparison.depth:.2f}{tokens}, CKA with the last layer of {closer} is "
                f"higher than of {further} by {size}, without an error."
            )
        if comparison.lower <= 0 <= comparison.upper:
            return (
                f"At relative depth {comparison.depth:.2f}{tokens}, {comparison.model} and {comparison.other} "
                f"are equally close to their last layers within the error (CKA differs by {size})."
            )
        return (
            f"At relative depth {comparison.depth:.2f}{tokens}, {closer} is closer to its last layer than "
            f"{further}: CKA higher by {size}."
        )


def summarize(result: Result) -> Summary:
    """Return the summary of a result."""
    findings = [
        _finding(result, model, tokens)
        for tokens, model in itertools.product(result.tokens, result.models)
        if any(layer.model == model and layer.tokens == tokens for layer in result.layers)
    ]
    comparisons = [
        _comparison(result, first, second, tokens)
        for tokens in result.tokens
        for first, second in itertools.combinations(result.models, 2)
    ]
    defined = [entry for entry in comparisons if math.isfinite(entry.difference)]
    smoothing = _smoothing(result)
    return Summary(
        result,
        tuple(findings),
        tuple(defined),
        smoothing,
        _smoothing_comparisons(result, smoothing),
    )


def _smoothing(result: Result) -> tuple[Smoothing, ...]:
    """Return the headline of every model that has it at two layers or more."""
    headline = [each.name for each in result.quantities if each.places == "layers"][:1]
    found = []
    for measure, model in itertools.product(headline, result.models):
        tokens = next(layer.tokens for layer in result.layers if layer.model == model)
        means = result.smoothing(measure, model, tokens=tokens)
        paths = [result.layers[row].path for row in result.rows(model, tokens=tokens)]
        defined = np.flatnonzero(np.isfinite(means.values))
        if len(defined) < 2:
            continue
        first, last = int(defined[0]), int(defined[-1])
        change = result.smoothing_change(measure, model, tokens=tokens)
        numbers = (
            means.values[first],
            means.se[first],
            means.values[last],
            means.se[last],
            *_only(change),
        )
        found.append(Smoothing(model, measure, paths[first], paths[last], *map(float, numbers)))
    return tuple(found)


def _smoothing_comparisons(
    result: Result, smoothing: tuple[Smoothing, ...]
) -> tuple[SmoothingComparison, ...]:
    found = []
    for first, second in itertools.combinations(smoothing, 2):
        contrast = result.smoothing_contrast(first.measure, first.model, second.model)
        numbers = (values[-1] for values in _parts(contrast))
        found.append(
            SmoothingComparison(first.model, second.model, first.measure, *map(float, numbers))
        )
    return tuple(found)


def _parts(contrast: Contrast) -> tuple[Array, Array, Array, Array]:
    return contrast.values, contrast.se, contrast.lower, contrast.upper


def _only(contrast: Contrast) -> list[float]:
    """Return value, error and interval of a contrast at one depth."""
    return [float(values[0]) for values in _parts(contrast)]


def _smoothed(entry: Smoothing, quantity: Quantity) -> str:
    label = quantity.label
    ends = (
        f"{entry.model}: {label[0].lower()}{label[1:]} is {_with_se(entry.first_value, entry.first_se)} at "
        f"{entry.first} and {_with_se(entry.last_value, entry.last_se)} at {entry.last}"
    )
    change = _with_se(entry.change, entry.change_se)
    if not math.isfinite(entry.change_se):
        return f"{ends}."
    if entry.lower <= 0 <= entry.upper:
        return f"{ends}: no change beyond the error ({change})."
    return f"{ends}: a change of {change}."


def _smoother(entry: SmoothingComparison, quantity: Quantity) -> str:
    label = quantity.label
    names = f"At the last layer, {label[0].lower()}{label[1:]} of"
    difference = _with_se(abs(entry.difference), entry.se)
    if entry.lower <= 0 <= entry.upper:
        return f"{names} {entry.model} and {entry.other} is equal within the error (it differs by {difference})."
    if not math.isfinite(entry.se):
        return f"{names} {entry.model} less that of {entry.other} is {entry.difference:.3f}, without an error."
    higher, lower = (entry.model, entry.other)[:: 1 if entry.difference > 0 else -1]
    text = f"{names} {higher} is higher than of {lower} by {difference}"
    smoother = {"higher": higher, "lower": lower, None: None}[quantity.smoother]
    return f"{text}: the tokens of {smoother} are more alike." if smoother else f"{text}."


def _finding(result: Result, model: str, tokens: str) -> Finding:
    raw = result.curve(model, normalize="none", tokens=tokens)
    ratio = result.curve(model, normalize="first-last", tokens=tokens)
    paths = [result.layers[row].path for row in result.rows(model, tokens=tokens)]
    similar = _similar_from(raw)
    return Finding(
        model=model,
        tokens=tokens,
        layers=len(paths),
        first_last=float(raw.values[0]),
        first_last_se=float(raw.se[0]),
        s_last=float(ratio.values[-1]),
        s_last_lower=float(ratio.lower[-1]),
        s_last_upper=float(ratio.upper[-1]),
        resolved=ratio.resolved,
        similar_from=None if similar is None else paths[similar],
        similar_depth=None if similar is None else float(raw.depth[similar]),
        top1=result.top1(model),
        first=paths[0],
        last=paths[-1],
    )


def _similar_from(curve: Curve) -> int | None:
    """Return the first layer from which on every defined value is at least `SIMILAR`."""
    below = np.flatnonzero(curve.values < SIMILAR)
    start = int(below[-1]) + 1 if len(below) else 0
    return start if start < len(curve.values) and np.isfinite(curve.values[-1]) else None


def _comparison(result: Result, model: str, other: str, tokens: str) -> Comparison:
    contrast = result.contrast(model, other, normalize="none", tokens=tokens)
    middle = int(np.argmin(np.abs(contrast.depth - 0.5)))
    return Comparison(
        model,
        other,
        tokens,
        *(
            float(values[middle])
            for values in (
                contrast.depth,
                contrast.values,
                contrast.se,
                contrast.lower,
                contrast.upper,
            )
        ),
    )


def _with_se(value: float, se: float) -> str:
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.3f} +- {se:.3f}" if math.isfinite(se) else f"{value:.3f}"


def _ratio(finding: Finding) -> str:
    if not math.isfinite(finding.s_last):
        return "undefined"
    if not finding.resolved:
        return "unresolved"
    return f"{finding.s_last:.2f} [{finding.s_last_lower:.2f}, {finding.s_last_upper:.2f}]"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _json(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
