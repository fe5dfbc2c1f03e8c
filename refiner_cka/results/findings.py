"""What a result says of its models, in numbers.

It rests on the raw curve, CKA(l, last): unlike the normalised one it does not divide by a number that may be close
to 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..sums import LAYERS
from .chance import ALPHA, corrected
from .estimate import Estimate, nearest
from .jackknife import t_p_value
from .measured import Measured

SIMILAR = 0.9
"""CKA with the last layer from which on a layer is called similar to it."""


@dataclass(frozen=True)
class Finding:
    """One model, or one group of trainings, under one readout.

    Attributes:
        model: its name; of a group errors are over trainings, but for those of the ceiling.
        tokens: the readout.
        layers: number of layers.
        first: path of the first layer.
        last: path of the last layer.
        first_last: CKA(first, last).
        half_way: CKA with the last layer of the layer nearest to the middle, the earlier of two.
        s_last: 1 / CKA(first, last), the height of the normalised curve at its end. Unresolved unless
            CKA(first, last) is clearly above 0.
        similar_from: path of the first layer from which on every layer has CKA of at least `SIMILAR` with the
            last.
        similar_depth: its relative depth.
        top1: fraction of images whose class the model predicted, where classes are known; of a group the mean.
        ceiling: of a group CKA of the same layer in two trainings, at the first layer and at the last, with errors
            over images.
    """

    model: str
    tokens: str
    layers: int
    first: str
    last: str
    first_last: Estimate
    half_way: Estimate
    s_last: Estimate
    similar_from: str | None
    similar_depth: float | None
    top1: float | None
    ceiling: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Comparison:
    """First model minus second: of raw curves, or of a measure at the last layers.

    Of two models it is paired over images; of two groups errors are over trainings.

    Attributes:
        model: name of the first.
        other: name of the second.
        of: readout of the curves, or the measure.
        difference: with the relative depth at which it is.
        p: two-sided probability of such a difference where there is none, corrected for the number of pairs of
            models, or of groups (Holm); NaN without an error.
    """

    model: str
    other: str
    of: str
    difference: Estimate
    p: float = math.nan


@dataclass(frozen=True)
class Smoothing:
    """A measure of over-smoothing at a model's first and last layer with tokens.

    Attributes:
        model: its name.
        measure: which measure.
        first: path of the first layer where it is defined.
        last: path of the last.
        at_first: the measure at the first.
        at_last: the measure at the last.
        change: last minus first, paired over images; of a group with the error over trainings.
    """

    model: str
    measure: str
    first: str
    last: str
    at_first: Estimate
    at_last: Estimate
    change: Estimate


@dataclass(frozen=True)
class WithinChance:
    """How many pairs of layers are no more alike than unrelated images make them.

    Attributes:
        model: whose layers they are.
        other: whose the other ones are; of one model each pair counts once, and no layer with itself.
        tokens: the readout.
        pairs: how many are within chance: p of at least `ALPHA` after Holm's correction.
        of: how many there are.
        approximate: whether some p-values of them are approximate, few images carrying them.
    """

    model: str
    other: str
    tokens: str
    pairs: int
    of: int
    approximate: bool


@dataclass(frozen=True)
class Reference:
    """Similarity of the layers of one model, or one group of trainings, to the labels or the pixels.

    Attributes:
        model: its name; of a group errors are over trainings.
        tokens: the readout.
        reference: which reference.
        first: CKA of the first layer with it.
        highest: of the layer where it is highest.
        last: of the last layer.
        highest_at: path of the layer where it is highest.
    """

    model: str
    tokens: str
    reference: str
    first: Estimate
    highest: Estimate
    last: Estimate
    highest_at: str


@dataclass(frozen=True)
class Beyond:
    """CKA of two models' last layers, and what is left of it beyond what both share with a reference.

    Attributes:
        model: name of the first.
        other: name of the second.
        tokens: the readout.
        given: the reference.
        whole: CKA of the last layers.
        rest: partial CKA given the reference.
    """

    model: str
    other: str
    tokens: str
    given: str
    whole: Estimate
    rest: Estimate


def findings(result: Measured) -> tuple[Finding, ...]:
    """Return what is found of each model and then of each group, readout by readout."""
    return tuple(_finding(result, *of) for of in _told_of(result))


def _told_of(result: Measured) -> list[tuple[str, str]]:
    """Return every model and then every group with a readout of its layers, readout by readout."""
    present = list(dict.fromkeys((layer.model, layer.tokens) for layer in result.layers))
    for group, (training, *_) in result.groups.items():
        present += [(group, tokens) for model, tokens in present if model == training]
    return sorted(present, key=lambda of: result.tokens.index(of[1]))


def comparisons(result: Measured) -> tuple[Comparison, ...]:
    """Return the difference of the raw curves of any two models, or groups, at the layer nearest to the middle."""
    found: list[Comparison] = []
    for tokens, names in itertools.product(result.tokens, (result.models, result.groups)):
        of_readout = []
        for model, other in itertools.combinations(names, 2):
            contrast = result.contrast(model, other, tokens=tokens)
            middle = contrast.at(nearest(contrast.depth, 0.5))
            if np.isfinite(middle.values):
                of_readout.append(Comparison(model, other, tokens, middle))
        found += _corrected(of_readout)
    return tuple(found)


def _corrected(comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """Yield comparisons with p-values corrected for their number."""
    p_values = []
    for difference in (each.difference for each in comparisons):
        over = difference.folds if difference.freedom is None else difference.freedom + 1.0
        p_values.append(float(t_p_value(difference.values, difference.se, over)))
    for each, p in zip(comparisons, corrected(np.array(p_values), "holm"), strict=True):
        yield replace(each, p=float(p))


def smoothing(result: Measured) -> tuple[Smoothing, ...]:
    """Return the headline measure of every model and group that has it at two layers or more."""
    headline = [name for name in result.measures if result.quantity(name).axes == (LAYERS,)][:1]
    found = []
    for measure, model in itertools.product(headline, [*result.models, *result.groups]):
        training = result.trainings(model)[0]
        tokens = next(layer.tokens for layer in result.layers if layer.model == training)
        means = result.smoothing(measure, model, tokens=tokens)
        paths = [result.layers[row].path for row in result.rows(training, tokens=tokens)]
        defined = np.flatnonzero(np.isfinite(means.values))
        if len(defined) >= 2:
            first, last = int(defined[0]), int(defined[-1])
            change = result.smoothing_change(measure, model, tokens=tokens).at(0)
            ends = (paths[first], paths[last], means.at(first), means.at(last))
            found.append(Smoothing(model, measure, *ends, change))
    return tuple(found)


def smoothing_comparisons(
    result: Measured, smoothed: tuple[Smoothing, ...]
) -> tuple[Comparison, ...]:
    """Return the difference of the headline measure at the last layers of any two models and any two groups."""
    found: list[Comparison] = []
    for names in (result.models, result.groups):
        of_kind = []
        for one, two in itertools.combinations(
            [each for each in smoothed if each.model in names], 2
        ):
            contrast = result.smoothing_contrast(one.measure, one.model, two.model)
            of_kind.append(Comparison(one.model, two.model, one.measure, contrast.at(-1)))
        found += _corrected(of_kind)
    return tuple(found)


def within_chance(result: Measured) -> tuple[WithinChance, ...]:
    """Return how many pairs of layers of each model, and of each two, are no more alike than by chance."""
    found = []
    for tokens in result.tokens:
        names = dict.fromkeys(layer.model for layer in result.layers if layer.tokens == tokens)
        for model, other in itertools.combinations_with_replacement(names, 2):
            null = result.null(model, other, tokens=tokens)
            p_values = null.p_values("holm")
            # Of one model each pair is there twice.
            times = 2 if model == other else 1
            chance, pairs = p_values >= ALPHA, int(np.isfinite(p_values).sum()) // times
            rough = bool(null.rough[chance].any())
            count = int(chance.sum()) // times
            found.append(WithinChance(model, other, tokens, count, pairs, rough))
    return tuple(found)


def references(result: Measured) -> tuple[Reference, ...]:
    """Return how similar the layers of each model and group are to each reference."""
    found = []
    for reference, (model, tokens) in itertools.product(result.references, _told_of(result)):
        along = result.against(model, reference, tokens=tokens)
        rows = result.rows(result.trainings(model)[0], tokens=tokens)
        paths = [result.layers[row].path for row in rows]
        if np.isfinite(along.values).any():
            highest = int(np.nanargmax(along.values))
            ends = along.at(0), along.at(highest), along.at(-1)
            found.append(Reference(model, tokens, reference, *ends, paths[highest]))
    return tuple(found)


def beyond(result: Measured) -> tuple[Beyond, ...]:
    """Return what the last layers of any two models have in common, and how much of it beyond each reference."""
    found = []
    for given, tokens in itertools.product(result.references, result.tokens):
        for model, other in itertools.combinations(result.models, 2):
            whole = result.similarity("cka", model, other, tokens=tokens).at(-1, -1)
            rest = result.partial(model, other, given=given, tokens=tokens).at(-1, -1)
            found.append(Beyond(model, other, tokens, given, whole, rest))
    return tuple(found)


def too_small(result: Measured) -> int:
    """Return how many readable images were in batches too small for the estimator; 0 while a run is incomplete."""
    planned = int(result.batch_planned.sum()) + int(result.provenance.get("left_out", 0))
    return planned - len(result.unreadable) - result.images if result.complete else 0


def _finding(result: Measured, model: str, tokens: str) -> Finding:
    raw = result.curve(model, normalize="none", tokens=tokens)
    rows = result.rows(result.trainings(model)[0], tokens=tokens)
    paths = [result.layers[row].path for row in rows]
    ceiling = result.ceiling(model, tokens=tokens) if model in result.groups else None
    # The first layer from which on every defined value is at least `SIMILAR`.
    below = np.flatnonzero(raw.values < SIMILAR)
    start = int(below[-1]) + 1 if len(below) else 0
    similar = start if start < len(paths) and np.isfinite(raw.values[-1]) else None
    return Finding(
        model=model,
        tokens=tokens,
        layers=len(paths),
        first=paths[0],
        last=paths[-1],
        first_last=raw.at(0),
        half_way=raw.at(nearest(raw.depth, 0.5)),
        s_last=result.curve(model, tokens=tokens).at(-1),
        similar_from=None if similar is None else paths[similar],
        similar_depth=None if similar is None else float(raw.depth[similar]),
        top1=result.top1(model),
        ceiling=None if ceiling is None else (ceiling.at(0), ceiling.at(-1)),
    )
