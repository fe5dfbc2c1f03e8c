"""What was found, in a short table and in plain words."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import some
from ..sums import MIN_BATCH
from . import findings
from .chance import ALPHA
from .estimate import Estimate, as_json
from .findings import (
    SIMILAR,
    Beyond,
    Comparison,
    Finding,
    Reference,
    Smoothing,
    WithinChance,
)
from .jackknife import MIN_FOLDS
from .measured import Measured
from .wording import listed, pair, ratio, signed, told

MEANING = (
    "CKA near 1: two layers tell the images apart alike. Cosine near 1: the tokens of an image are alike within a "
    "layer. Neither implies the other."
)
"""Printed wherever both are."""

OVER = (
    "Errors over images say how well these networks are known, errors over trainings how a recipe varies from "
    "training to training on these images: a claim about a recipe rests on the latter."
)
"""Printed wherever there are both."""

FEW_IMAGES = 100
"""With fewer images a normalised curve may mislead even where it is resolved."""

_FEW = 4
"""So many models are compared pair by pair. The data hold all pairs of any number."""


def summarize(result: Measured) -> Summary:
    """Return the summary of a result."""
    smoothing = findings.smoothing(result)
    return Summary(
        result,
        findings.findings(result),
        findings.comparisons(result),
        smoothing,
        findings.smoothing_comparisons(result, smoothing),
        findings.within_chance(result),
        findings.references(result),
        findings.beyond(result),
    )


class Table(NamedTuple):
    """A table to print: column heads, and rows."""

    headers: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Summary:
    """What a result says, ready to print.

    Attributes:
        result: what it is of.
        findings: of each model and each group of trainings, under each readout.
        comparisons: of the raw curves of any two models, and of any two groups.
        smoothing: of each model and group, the headline measure of over-smoothing.
        smoothing_comparisons: of that measure of any two models, and of any two groups.
        within_chance: of each model and any two, how many pairs of layers.
        references: of each model, its similarity to each reference.
        beyond: of any two models, what they share beyond each reference.
    """

    result: Measured
    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    smoothing: tuple[Smoothing, ...] = ()
    smoothing_comparisons: tuple[Comparison, ...] = ()
    within_chance: tuple[WithinChance, ...] = ()
    references: tuple[Reference, ...] = ()
    beyond: tuple[Beyond, ...] = ()

    @property
    def tables(self) -> list[Table]:
        """Of the models and groups; of the differences between two, and of references, where there are such."""
        others = (self._contrasts(), self._references())
        return [self._models(), *(table for table in others if table.rows)]

    def _models(self) -> Table:
        smoothed = {entry.model: entry for entry in self.smoothing}
        has_top1 = any(finding.top1 is not None for finding in self.findings)
        heads = ["Model", "Layers", "CKA(first, last)", "s(last) [95 %]", f"CKA >= {SIMILAR} from"]
        heads += [self._headline] if smoothed else []
        heads += ["Top-1"] if has_top1 else []
        heads += ["Errors over"] if self.result.groups else []
        rows = []
        for finding in self.findings:
            row = [self._named(finding), str(finding.layers), told(finding.first_last)]
            row += [ratio(finding.s_last), finding.similar_from or "-"]
            if smoothed:
                entry = smoothed.get(finding.model)
                ends = (entry.at_first, entry.at_last) if entry else ()
                row.append(" to ".join(f"{end.values:.3f}" for end in ends) or "-")
            if has_top1:
                row.append("-" if finding.top1 is None else f"{100 * finding.top1:.1f} %")
            row += self._over(finding.first_last)
            rows.append(row)
        return Table(heads, rows)

    def _contrasts(self) -> Table:
        """Return the differences of any two of a few models or groups, of many of each and the next."""
        smoothed = {(each.model, each.other): each for each in self.smoothing_comparisons}
        heads = ["Difference", "CKA(l, last), half way", "p"]
        heads += [f"{self._headline}, last", "p"] if smoothed else []
        heads += ["Errors over"] if self.result.groups else []
        rows = []
        for each in filter(self._is_told, self.comparisons):
            names = (each.model, each.other)
            row = [f"{each.model} - {each.other}{self._readout(each.of)}", *signed(each)]
            if smoothed:
                row += signed(smoothed[names]) if names in smoothed else ["-", "-"]
            row += self._over(each.difference)
            rows.append(row)
        return Table(heads, rows)

    def _references(self) -> Table:
        """Return how similar models are to references: the first layer, the one that is most, the last."""
        names = self.result.references
        heads = ["CKA with"]
        heads += [head for name in names for head in (f"{name}: first / highest / last", "at")]
        found = {(self._named(each), each.reference): each for each in self.references}
        rows = []
        for model in dict.fromkeys(model for model, _ in found):
            row = [model]
            for each in (found.get((model, name)) for name in names):
                ends = (each.first, each.highest, each.last) if each else ()
                row.append(" / ".join(f"{end.values:.2f}" for end in ends) or "-")
                row.append(each.highest_at if each else "-")
            rows.append(row)
        return Table(heads, rows)

    @property
    def sentences(self) -> list[str]:
        """What the numbers rest on, and what has to be known to read them."""
        return [
            *self._images(),
            *self._corrections(),
            *self._trainings(),
            *self._weights(),
            *self._undefined(),
            *self._chance(),
            *self._beyond(),
            *([MEANING] if self.smoothing else []),
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
            "models": [vars(each) for each in self.findings if each.ceiling is None],
            "groups": [
                {**vars(each), "trainings": result.groups[each.model]}
                for each in self.findings
                if each.ceiling is not None
            ],
            "contrasts": [vars(comparison) for comparison in self.comparisons],
            "smoothing": [vars(entry) for entry in self.smoothing],
            "smoothing_contrasts": [vars(entry) for entry in self.smoothing_comparisons],
            "within_chance": [vars(entry) for entry in self.within_chance],
            "references": [vars(entry) for entry in self.references],
            "beyond_references": [vars(entry) for entry in self.beyond],
            "warnings": list(result.warnings),
            "fingerprint": result.fingerprint,
        }
        return {name: as_json(value) for name, value in document.items()}

    @property
    def too_small(self) -> int:
        """Readable images whose batches were too small for the estimator; 0 while a run is incomplete."""
        return findings.too_small(self.result)

    @property
    def _headline(self) -> str:
        return self.result.quantity(self.smoothing[0].measure).label

    def _readout(self, tokens: str) -> str:
        return f" ({tokens})" if len(self.result.tokens) > 1 else ""

    def _named(self, of: Finding | Reference) -> str:
        return of.model + self._readout(of.tokens)

    def _over(self, estimate: Estimate) -> list[str]:
        """Return what the errors of a row are over, where there is a choice."""
        over = f"{estimate.trainings} trainings" if estimate.over == "trainings" else "images"
        return [over] if self.result.groups else []

    def _images(self) -> Iterator[str]:
        """Yield what the numbers rest on."""
        result, cka = self.result, self.result.quantity("cka")
        count = len(result.batches)
        counted = f"{result.images} images in {count} {'batch' if count == 1 else 'batches'}"
        source = f" ({cka.source})" if cka.source else ""
        estimator = f"{cka.label or 'CKA'}: {cka.about or 'of layers'}{source}"
        if result.folds >= MIN_FOLDS:
            errors = f"errors leave out one of {result.folds} folds of images at a time"
        else:
            errors = f"too few for errors, which take at least {MIN_FOLDS} images"
        yield f"{counted}; {errors}. {estimator}."
        if not result.complete:
            missing = sorted({*range(result.total_batches)} - set(result.batches.tolist()))
            yield (
                f"Incomplete: {len(result.batches)} of {result.total_batches} batches; missing: "
                f"{some([str(batch) for batch in missing], 5)}."
            )
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
            yield f"{listed(untrained)} {verb} untrained: random weights, so the numbers describe architecture."
        notes: dict[str, str] = provenance.get("notes", {})
        for note in dict.fromkeys(notes.values()):
            yield f"{listed([name for name, of in notes.items() if of == note])}: {note}."

    def _corrections(self) -> Iterator[str]:
        """Yield what the p-values are of."""
        shown = [each for each in filter(self._is_told, self.comparisons) if np.isfinite(each.p)]
        if not shown:
            return
        same = [each for each in self.comparisons if each.of == shown[0].of]
        pairs = Counter(each.difference.over for each in same).values()
        yield (
            "p: probability of such a difference where there is none"
            + (
                f", corrected for {' and '.join(map(str, pairs))} pairs (Holm)."
                if max(pairs) > 1
                else "."
            )
        )

    def _trainings(self) -> Iterator[str]:
        """Yield which models are trainings of one recipe, and how alike these are."""
        for group, models in self.result.groups.items():
            yield f"{group} is {len(models)} trainings of one recipe: {listed([*models])}."
        for finding in self.findings:
            if finding.ceiling is not None:
                first, last = map(told, finding.ceiling)
                yield (
                    f"{self._named(finding)}: the same layer of two trainings has CKA {first} at {finding.first} "
                    f"and {last} at {finding.last} (the ceiling; errors over images)."
                )
        if self.result.groups:
            yield OVER

    def _undefined(self) -> Iterator[str]:
        """Yield which curves say little, and why."""
        if not self.result.images:
            return
        unresolved, without_error = list[str](), list[str]()
        for finding in self.findings:
            name = self._named(finding)
            if not np.isfinite(finding.first_last.values):
                yield (
                    f"{name}: CKA(first, last) is undefined: the features of {finding.first} or "
                    f"{finding.last} do not vary, or are not finite."
                )
            elif self._is_flat(finding.model, finding.tokens):
                yield f"{name}: all its layers are the same up to rounding: its curve says nothing about depth."
            elif not finding.s_last.resolved:
                has_error = np.isfinite(finding.first_last.se)
                (unresolved if has_error else without_error).append(name)
        if unresolved:
            yield (
                f"s(l) of {listed(unresolved)} is unresolved: CKA(first, last), by which it divides, is not "
                "clearly above 0; read the raw curve."
            )
        if without_error:
            yield "s(l) is unresolved without an error of CKA(first, last): read the raw curve."
        elif self.result.images < FEW_IMAGES and len(unresolved) < len(self.findings):
            yield f"With fewer than {FEW_IMAGES} images s(l) may mislead where it is resolved: read the raw curve."

    def _chance(self) -> Iterator[str]:
        """Yield where layers are no more alike than unrelated images make them."""
        found = [
            f"{each.pairs} of {each.of} pairs of layers of {pair(each.model, each.other)}"
            f"{self._readout(each.tokens)}"
            for each in self.within_chance
            if each.pairs
        ]
        if found:
            rough = any(each.approximate for each in self.within_chance if each.pairs)
            about = "; few images carry some of them, so p is approximate" if rough else ""
            yield f"Within chance (p of at least {ALPHA} after Holm): {some(found, 4)}{about}."

    def _beyond(self) -> Iterator[str]:
        """Yield what the last layers of two models share, and beyond the references."""
        known = [each for each in self.beyond if np.isfinite(each.whole.values)]
        if known:
            rest = [
                f"{_span([each.rest for each in known if each.given == name])} beyond the {name}"
                for name in self.result.references
            ]
            whole = _span([each.whole for each in known if each.given == known[0].given])
            yield f"CKA of the last layers of two models: {whole}; {', '.join(rest)}."

    def _is_flat(self, model: str, tokens: str) -> bool:
        """Whether CKA cannot tell any of a model's layers apart, so that its curve says nothing."""
        if trainings := self.result.groups.get(model):
            return any(self._is_flat(each, tokens) for each in trainings)
        rows = self.result.rows(model, tokens=tokens)
        ends = self.result.layers[rows[0]], self.result.layers[rows[-1]]
        return self.result.same(model, tokens=tokens) == [ends] and len(rows) > 1

    def _is_told(self, comparison: Comparison) -> bool:
        """Whether two are compared: of a few all pairs, of many each with the next.

        Where there are groups, these take the place of their trainings.
        """
        groups = self.result.groups
        several = set(itertools.chain.from_iterable(groups.values()))
        alone = [model for model in self.result.models if model not in several]
        names = [*groups] if comparison.model in groups else alone
        pairs = (
            itertools.combinations(names, 2) if len(names) <= _FEW else itertools.pairwise(names)
        )
        return (comparison.model, comparison.other) in pairs


def _span(estimates: list[Estimate]) -> str:
    """Return the least and the greatest of some numbers; of one, that with its error."""
    if len(estimates) == 1:
        return told(estimates[0])
    values = [float(each.values) for each in estimates if np.isfinite(each.values)]
    return f"{min(values):.2f} to {max(values):.2f}" if values else "undefined"
