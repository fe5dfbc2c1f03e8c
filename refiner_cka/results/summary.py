"""What was found, in a short table and in plain words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import some
from ..sums import MIN_BATCH
from . import findings
from .estimate import Estimate, as_json, with_se
from .findings import SIMILAR, Comparison, Finding, Smoothing
from .jackknife import MIN_FOLDS
from .result import Result

MEANING = (
    "CKA near 1 and cosine near 1 are different things: CKA near 1 between two layers says that they tell the "
    "images apart in the same way (nothing new along depth); cosine near 1 within a layer says that the tokens "
    "of an image have become alike (collapse inside the layer). Neither implies the other."
)
"""Printed wherever both are."""

_FEW = 4
"""So many models are compared in sentences pair by pair. The data hold all pairs of any number."""


def summarize(result: Result) -> Summary:
    """Return the summary of a result."""
    smoothing = findings.smoothing(result)
    return Summary(
        result,
        findings.findings(result),
        findings.comparisons(result),
        smoothing,
        findings.smoothing_comparisons(result, smoothing),
    )


@dataclass(frozen=True)
class Summary:
    """What a result says, ready to print.

    Attributes:
        result: what it is of.
        findings: of each model under each readout.
        comparisons: of the raw curves of any two models.
        smoothing: of each model, the headline measure of over-smoothing.
        smoothing_comparisons: of that measure of any two models.
    """

    result: Result
    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    smoothing: tuple[Smoothing, ...] = ()
    smoothing_comparisons: tuple[Comparison, ...] = ()

    @property
    def headers(self) -> list[str]:
        """Column heads of the table."""
        heads = ["Model", "Layers", "CKA(first, last)", "s(last), 95 % interval"]
        return [*heads, f"CKA >= {SIMILAR} from", *(["Top-1"] if self._has_top1 else [])]

    @property
    def rows(self) -> list[list[str]]:
        """Rows of the table, a model and readout each."""
        rows = []
        for finding in self.findings:
            row = [self._named(finding), str(finding.layers), _told(finding.first_last)]
            similar = "-" if finding.similar_from is None else finding.similar_from
            row += [_ratio(finding.s_last), similar]
            if self._has_top1:
                row.append("-" if finding.top1 is None else f"{100 * finding.top1:.1f} %")
            rows.append(row)
        return rows

    @property
    def sentences(self) -> list[str]:
        """The findings in plain words, with what the numbers rest on."""
        return [
            *self._images(),
            *self._weights(),
            *(line for finding in self.findings for line in self._about(finding)),
            *self._compared(),
            *self._smoothed(),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; numbers that are undefined are None."""
        result = self.result
        document = {
            "images": result.images,
            "batches": len(result.batches),
            "total_batches": result.total_batches,
            "complete": result.complete,
            "folds": result.folds,
            "unreadable": [vars(entry) for entry in result.unreadable],
            "in_batches_too_small": self.too_small,
            "models": [vars(finding) for finding in self.findings],
            "contrasts": [vars(comparison) for comparison in self.comparisons],
            "smoothing": [vars(entry) for entry in self.smoothing],
            "smoothing_contrasts": [vars(entry) for entry in self.smoothing_comparisons],
            "warnings": list(result.warnings),
            "fingerprint": result.fingerprint,
        }
        return {name: as_json(value) for name, value in document.items()}

    @property
    def too_small(self) -> int:
        """Readable images whose batches were too small for the estimator; 0 while a run is incomplete."""
        result = self.result
        planned = int(result.batch_planned.sum()) + int(result.provenance.get("left_out", 0))
        return planned - len(result.unreadable) - result.images if result.complete else 0

    @property
    def _has_top1(self) -> bool:
        return any(finding.top1 is not None for finding in self.findings)

    def _named(self, finding: Finding) -> str:
        return finding.model + (f" ({finding.tokens})" if len(self.result.tokens) > 1 else "")

    def _images(self) -> Iterator[str]:
        """Yield what the numbers rest on."""
        result = self.result
        count = len(result.batches)
        counted = f"{result.images} images in {count} {'batch' if count == 1 else 'batches'}"
        if not result.complete:
            missing = sorted({*range(result.total_batches)} - set(result.batches.tolist()))
            yield (
                f"Incomplete: {len(result.batches)} of {result.total_batches} batches; missing: "
                f"{some([str(batch) for batch in missing], 5)}."
            )
        if result.folds >= MIN_FOLDS:
            yield f"{counted}; errors are jackknife standard errors over {result.folds} folds of images."
        else:
            yield f"{counted}; too few for errors, which take at least {MIN_FOLDS} images."
        if unreadable := result.unreadable:
            first = unreadable[0]
            images = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
            yield f"{images} could not be read, such as {first.image}: {first.reason}."
        if self.too_small:
            yield (
                f"{self.too_small} readable images were left out: their batches had fewer than {MIN_BATCH} "
                "images, which hold no estimate."
            )
        covered = result.provenance.get("fingerprint_of_images", {})
        if not covered.get("whole", True):
            yield (
                f"The fingerprint covers {covered['covers']}; what each batch saw is digested in the result."
            )

    def _weights(self) -> Iterator[str]:
        """Yield what is known of the models' weights."""
        provenance = self.result.provenance
        untrained = [
            str(model["name"])
            for model in provenance.get("models", [])
            if model.get("origin", {}).get("weights") == "random"
        ]
        if untrained:
            verb = "is" if len(untrained) == 1 else "are"
            yield f"{_listed(untrained)} {verb} untrained: random weights, so the numbers describe architecture."
        notes: dict[str, str] = provenance.get("notes", {})
        for note in dict.fromkeys(notes.values()):
            yield f"{_listed([name for name, of in notes.items() if of == note])}: {note}."

    def _about(self, finding: Finding) -> Iterator[str]:
        """Yield how far a model's last layer is from its first."""
        name, first_last = self._named(finding), finding.first_last
        if not self.result.images:
            return
        if not np.isfinite(first_last.values):
            yield (
                f"{name}: CKA(first, last) is undefined: the features of {finding.first} or "
                f"{finding.last} do not vary, or are not finite."
            )
            return
        if self._is_flat(finding.model, finding.tokens):
            yield f"{name}: all its layers are the same up to rounding: its curve says nothing about depth."
            return
        text = f"{name}: {finding.first} and {finding.last} share CKA {_told(first_last)}"
        if finding.similar_from is not None and finding.similar_from != finding.last:
            text += f"; from {finding.similar_from} on, every layer has CKA of at least {SIMILAR} with the last"
        else:
            text += f"; no earlier layer has CKA of {SIMILAR} with the last"
        yield text + "."
        if not finding.s_last.resolved and not np.isfinite(first_last.se):
            yield f"{name}: s(l) is unresolved without an error of CKA(first, last): read the raw curve."
        elif not finding.s_last.resolved:
            yield (
                f"{name}: s(l) is unresolved, since CKA(first, last), by which it divides, is not clearly "
                "above 0: read the raw curve."
            )

    def _is_flat(self, model: str, tokens: str) -> bool:
        """Whether CKA cannot tell any of a model's layers apart, so that its curve says nothing."""
        rows = self.result.rows(model, tokens=tokens)
        ends = self.result.layers[rows[0]], self.result.layers[rows[-1]]
        return self.result.same(model, tokens=tokens) == [ends] and len(rows) > 1

    def _is_told(self, comparison: Comparison) -> bool:
        """Whether a sentence compares two models: of a few all pairs, of many each with the next."""
        models = self.result.models
        pairs = (
            itertools.combinations(models, 2) if len(models) <= _FEW else itertools.pairwise(models)
        )
        return (comparison.model, comparison.other) in pairs

    def _compared(self) -> Iterator[str]:
        """Yield which of two models is closer to its last layer in the middle of its depth."""
        for comparison in filter(self._is_told, self.comparisons):
            pair, difference = (comparison.model, comparison.other), comparison.difference
            if any(self._is_flat(model, comparison.of) for model in pair):
                continue
            tokens = f" ({comparison.of})" if len(self.result.tokens) > 1 else ""
            where, size = f"At relative depth {difference.depth:.2f}{tokens}", _size(difference)
            closer, further = _ordered(comparison)
            if not np.isfinite(difference.se):
                yield (
                    f"{where}, CKA with the last layer of {closer} is higher than of {further} by {size}, "
                    "without an error."
                )
            elif _may_be_zero(difference):
                yield (
                    f"{where}, {comparison.model} and {comparison.other} are equally close to their last "
                    f"layers within the error (CKA differs by {size})."
                )
            else:
                yield f"{where}, {closer} is closer to its last layer than {further}: CKA higher by {size}."

    def _smoothed(self) -> Iterator[str]:
        """Yield how the headline measure changes along each model, and how it differs between two."""
        for entry in self.smoothing:
            ends = (
                f"{entry.model}: {self._lower_label(entry.measure)} is {_told(entry.at_first)} at "
                f"{entry.first} and {_told(entry.at_last)} at {entry.last}"
            )
            if not np.isfinite(entry.change.se):
                yield f"{ends}."
            elif _may_be_zero(entry.change):
                yield f"{ends}: no change beyond the error ({_told(entry.change)})."
            else:
                yield f"{ends}: a change of {_told(entry.change)}."
        for comparison in filter(self._is_told, self.smoothing_comparisons):
            yield self._smoother(comparison)
        if self.smoothing:
            yield MEANING

    def _smoother(self, comparison: Comparison) -> str:
        difference, size = comparison.difference, _size(comparison.difference)
        names = f"At the last layer, {self._lower_label(comparison.of)} of"
        if _may_be_zero(difference):
            return (
                f"{names} {comparison.model} and {comparison.other} is equal within the error "
                f"(it differs by {size})."
            )
        if not np.isfinite(difference.se):
            return (
                f"{names} {comparison.model} less that of {comparison.other} is {difference.values:.3f}, "
                "without an error."
            )
        higher, lower = _ordered(comparison)
        text = f"{names} {higher} is higher than of {lower} by {size}"
        direction = self.result.quantity(comparison.of).smoother
        smoother = {"higher": higher, "lower": lower, None: None}[direction]
        return f"{text}: the tokens of {smoother} are more alike." if smoother else f"{text}."

    def _lower_label(self, measure: str) -> str:
        label = self.result.quantity(measure).label
        return label[:1].lower() + label[1:]


def _told(estimate: Estimate) -> str:
    return with_se(estimate.values, estimate.se)


def _size(difference: Estimate) -> str:
    return with_se(np.abs(difference.values), difference.se)


def _may_be_zero(difference: Estimate) -> bool:
    return bool(difference.lower <= 0 <= difference.upper)


def _ordered(comparison: Comparison) -> tuple[str, str]:
    """Return the model with the higher value and the one with the lower."""
    pair = (comparison.model, comparison.other)
    return pair if comparison.difference.values >= 0 else pair[::-1]


def _ratio(ratio: Estimate) -> str:
    if not np.isfinite(ratio.values):
        return "undefined"
    if not ratio.resolved:
        return "unresolved"
    return f"{ratio.values:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
