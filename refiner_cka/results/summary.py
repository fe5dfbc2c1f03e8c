"""What was found, in short tables and in few words; `as_dict` has everything."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import some
from ..sums import MIN_BATCH
from . import findings
from .chance import ALPHA
from .estimate import Estimate, as_json
from .findings import Beyond, Comparison, Finding, Reference, Smoothing, WithinChance
from .jackknife import MIN_FOLDS
from .measured import Measured
from .wording import difference, listed, pair, told

OVER = "Errors over images: how well these networks are known; over trainings: how recipes vary on these images."
"""Printed wherever there are both."""

FEW_IMAGES = 100
"""With fewer images a normalised curve may mislead even where it is resolved."""

_FEW = 4
"""So many models are compared pair by pair, more each with the one before. The data hold all pairs of any."""

_HALF_WAY, _ABOVE = "CKA(half way, last)", "less the one above"


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
        """Of the models, and of the differences of any two of a few; groups take the place of their trainings."""
        return [
            self._models(),
            *(self._matrix(names) for names in self._kinds if self._are_few(names)),
        ]

    @property
    def sentences(self) -> list[str]:
        """What the numbers rest on, and what has to be known to read them."""
        return [
            *self._images(),
            *self._diagonal(),
            *([OVER] if self.result.groups else []),
            *self._weights(),
            *self._undefined(),
            *self._chance(),
            *self._beyond(),
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
    def _kinds(self) -> list[list[str]]:
        """The models that are no training of a group, and the groups: each is compared with its kind."""
        trainings = {*itertools.chain.from_iterable(self.result.groups.values())}
        alone = [name for name in self.result.models if name not in trainings]
        return [alone, [*self.result.groups]]

    @property
    def _headline(self) -> str:
        """The measure of over-smoothing that is told; nothing where none was measured."""
        return self.smoothing[0].measure if self.smoothing else ""

    def _models(self) -> Table:
        """Return a row for each model and readout, without the columns of which nothing is known."""
        label = self.result.quantity(self._headline).label if self._headline else ""
        columns: list[tuple[str, Callable[[Finding], str]]] = [
            ("Model", self._named),
            ("CKA(first, last)", lambda of: told(of.first_last)),
            (_HALF_WAY, lambda of: told(of.half_way)),
            (_ABOVE, lambda of: self._step(of.model, of.tokens)),
            (f"{label}, last", self._smoothed),
            (_ABOVE, lambda of: self._step(of.model, self._headline)),
            ("Top-1", lambda of: "" if of.top1 is None else f"{100 * of.top1:.1f} %"),
            *(
                (f"CKA(last, {name})", functools.partial(self._against, name))
                for name in self.result.references
            ),
            ("Ceiling, last", lambda of: told(of.ceiling[1]) if of.ceiling else ""),
            ("Errors over", self._over),
        ]
        names = [*itertools.chain.from_iterable(self._kinds)]
        shown = [finding for finding in self.findings if finding.model in names]
        cells = [(head, [cell(finding) for finding in shown]) for head, cell in columns]
        known = [(head, column) for head, column in cells if any(column)]
        rows = zip(*(column for _, column in known), strict=True)
        return Table([head for head, _ in known], [[cell or "-" for cell in row] for row in rows])

    def _matrix(self, names: Sequence[str]) -> Table:
        """Return row minus column: half way below the diagonal, and the headline measure above it."""
        rows = [[name] for name in names]
        for row, column in itertools.product(range(len(names)), repeat=2):
            of = self.result.tokens[0] if row > column else self._headline
            rows[row].append(self._less(of, names[row], names[column]) or "-")
        if not self._headline:
            rows = [row[:-1] for row in rows[1:]]
        return Table(["Row - column", *names][: len(rows[0])], rows)

    def _are_few(self, names: Sequence[str]) -> bool:
        return 2 <= len(names) <= _FEW

    def _step(self, name: str, of: str) -> str:
        """Return the difference of one of many from the one before."""
        kind = next(names for names in self._kinds if name in names)
        place = kind.index(name)
        return self._less(of, name, kind[place - 1]) if place and len(kind) > _FEW else ""

    def _less(self, of: str, name: str, other: str) -> str:
        """Return one minus another, of curves half way or of a measure; nothing where they were not compared."""
        for each in (*self.comparisons, *self.smoothing_comparisons):
            if each.of == of and {each.model, each.other} == {name, other}:
                return difference(each, reverse=each.model == other)
        return ""

    def _smoothed(self, of: Finding) -> str:
        return next((told(each.at_last) for each in self.smoothing if each.model == of.model), "")

    def _against(self, reference: str, of: Finding) -> str:
        found = (each for each in self.references if each.reference == reference)
        return next(
            (
                told(each.last)
                for each in found
                if (each.model, each.tokens) == (of.model, of.tokens)
            ),
            "",
        )

    def _over(self, of: Finding) -> str:
        """Return what the errors of a row are over, where there is a choice."""
        over = of.first_last.over
        told_over = f"{of.first_last.trainings} trainings" if over == "trainings" else over
        return told_over if self.result.groups else ""

    def _readout(self, tokens: str) -> str:
        return f" ({tokens})" if len(self.result.tokens) > 1 else ""

    def _named(self, of: Finding) -> str:
        return of.model + self._readout(of.tokens)

    def _listed(self, models: list[str]) -> str:
        """Return names of models as one enumerates them, and of all, if they are several, that it is all."""
        return "All" if len(models) == len(self.result.models) > 1 else listed(models)

    def _images(self) -> Iterator[str]:
        """Yield what the numbers rest on, and what the marks mean."""
        result = self.result
        count = len(result.batches)
        counted = f"{result.images} images in {count} {'batch' if count == 1 else 'batches'}"
        errors = f"too few for errors, which take at least {MIN_FOLDS} images"
        if result.folds >= MIN_FOLDS:
            errors = f"+-: standard error{'' if result.groups else ' over images'}"
        yield f"{'; '.join([counted, errors, *self._marks()])}."
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

    def _marks(self) -> Iterator[str]:
        """Yield what the mark of differences says, if any have a p-value."""
        kinds = [{*names} for names in self._kinds]
        tested = [each for each in self.comparisons if np.isfinite(each.p)]
        shown = [each for each in tested if any({each.model, each.other} <= kind for kind in kinds)]
        if shown:
            same = Counter(each.difference.over for each in tested if each.of == shown[0].of)
            pairs = [same[over] for over in dict.fromkeys(each.difference.over for each in shown)]
            counted = f" (Holm, {' and '.join(map(str, pairs))} pairs)" if max(pairs) > 1 else ""
            yield f"*: p < {ALPHA}{counted}"

    def _diagonal(self) -> Iterator[str]:
        """Yield what lies above and below the diagonal of differences."""
        if any(map(self._are_few, self._kinds)):
            label = self.result.quantity(self._headline).label if self._headline else ""
            above = f" below the diagonal, {label}, last, above it" if label else ""
            yield f"Row - column: {_HALF_WAY}{self._readout(self.result.tokens[0])}{above}."

    def _weights(self) -> Iterator[str]:
        """Yield what is known of the models' weights."""
        provenance = self.result.provenance
        untrained = [
            str(model["name"])
            for model in provenance.get("models", [])
            if model.get("origin", {}).get("weights") == "random"
        ]
        if untrained:
            names, verb = self._listed(untrained), "is" if len(untrained) == 1 else "are"
            yield f"{names} {verb} untrained: random weights, so the numbers describe architecture."
        notes: dict[str, str] = provenance.get("notes", {})
        for note in dict.fromkeys(notes.values()):
            yield f"{self._listed([name for name, of in notes.items() if of == note])}: {note}."

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
                f"beyond the {name} {_span([each.rest for each in known if each.given == name])}"
                for name in self.result.references
            ]
            whole = _span([each.whole for each in known if each.given == known[0].given])
            yield f"CKA of two models' last layers: {'; '.join([whole, *rest])}."

    def _is_flat(self, model: str, tokens: str) -> bool:
        """Whether CKA cannot tell any of a model's layers apart, so that its curve says nothing."""
        if trainings := self.result.groups.get(model):
            return any(self._is_flat(each, tokens) for each in trainings)
        rows = self.result.rows(model, tokens=tokens)
        ends = self.result.layers[rows[0]], self.result.layers[rows[-1]]
        return self.result.same(model, tokens=tokens) == [ends] and len(rows) > 1


def _span(estimates: list[Estimate]) -> str:
    """Return the least and the greatest of some numbers with their errors; of one, that."""
    defined = [each for each in estimates if np.isfinite(each.values)] or estimates
    ends = sorted(defined, key=lambda each: float(each.values))
    return " to ".join(dict.fromkeys(map(told, (ends[0], ends[-1]))))
