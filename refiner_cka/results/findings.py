"""What a result says of its models, in numbers.

It rests on the raw curve, CKA(l, last): unlike the normalised one it does not divide by a number that may be close
to 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..sums import LAYERS
from .estimate import Estimate
from .result import Result

SIMILAR = 0.9
"""CKA with the last layer from which on a layer is called similar to it."""


@dataclass(frozen=True)
class Finding:
    """One model, or one group of trainings, under one readout.

    Attributes:
        model: its name; of a group every error is over trainings, but for that of the ceiling.
        tokens: the readout.
        layers: number of layers.
        first: path of the first layer.
        last: path of the last layer.
        first_last: CKA(first, last).
        s_last: 1 / CKA(first, last), the height of the normalised curve at its end. Unresolved unless
            CKA(first, last) is clearly above 0.
        similar_from: path of the first layer from which on every layer has CKA of at least `SIMILAR` with the
            last.
        similar_depth: its relative depth.
        top1: fraction of images whose class the model predicted, where classes are known; of a group the mean.
        ceiling: of a group, CKA of the same layer in different trainings at the first layer and at the last, with
            errors over images.
    """

    model: str
    tokens: str
    layers: int
    first: str
    last: str
    first_last: Estimate
    s_last: Estimate
    similar_from: str | None
    similar_depth: float | None
    top1: float | None
    ceiling: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Comparison:
    """First model minus second: of raw curves, or of a measure at the last layers.

    Of two models it is paired over images, of two groups the error is over trainings.

    Attributes:
        model: name of the first.
        other: name of the second.
        of: readout of the curves, or the measure.
        difference: with the relative depth at which it is.
    """

    model: str
    other: str
    of: str
    difference: Estimate


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


def findings(result: Result) -> tuple[Finding, ...]:
    """Return what is found of each model and then of each group, readout by readout."""
    present = [(layer.model, layer.tokens) for layer in result.layers]
    for group, (model, *_) in result.groups.items():
        present += [(group, tokens) for name, tokens in present if name == model]
    by_readout = sorted(dict.fromkeys(present), key=lambda of: result.tokens.index(of[1]))
    return tuple(_finding(result, *of) for of in by_readout)


def pairs(result: Result) -> list[tuple[str, str]]:
    """Return any two models, and any two groups: what can be compared."""
    return [*itertools.combinations(result.models, 2), *itertools.combinations(result.groups, 2)]


def comparisons(result: Result) -> tuple[Comparison, ...]:
    """Return the difference of the raw curves of any two models or groups at the depth nearest to the middle."""
    found = []
    for tokens in result.tokens:
        for model, other in pairs(result):
            contrast = result.contrast(model, other, tokens=tokens)
            middle = contrast.at(int(np.argmin(np.abs(contrast.depth - 0.5))))
            if np.isfinite(middle.values):
                found.append(Comparison(model, other, tokens, middle))
    return tuple(found)


def smoothing(result: Result) -> tuple[Smoothing, ...]:
    """Return the headline measure of every model and group that has it at two layers or more."""
    headline = [name for name in result.measures if result.quantity(name).axes == (LAYERS,)][:1]
    found = []
    for measure, model in itertools.product(headline, [*result.models, *result.groups]):
        training = _training(result, model)
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
    result: Result, smoothed: tuple[Smoothing, ...]
) -> tuple[Comparison, ...]:
    """Return the difference of the headline measure at the last layers of any two models or groups."""
    found, comparable = [], set(pairs(result))
    for one, two in itertools.combinations(smoothed, 2):
        if (one.model, two.model) not in comparable:
            continue
        contrast = result.smoothing_contrast(one.measure, one.model, two.model)
        found.append(Comparison(one.model, two.model, one.measure, contrast.at(-1)))
    return tuple(found)


def _training(result: Result, name: str) -> str:
    """Return a model that has the layers of a model or group: itself, or the first training."""
    return result.groups.get(name, (name,))[0]


def _finding(result: Result, model: str, tokens: str) -> Finding:
    raw = result.curve(model, normalize="none", tokens=tokens)
    rows = result.rows(_training(result, model), tokens=tokens)
    paths = [result.layers[row].path for row in rows]
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
        s_last=result.curve(model, tokens=tokens).at(-1),
        similar_from=None if similar is None else paths[similar],
        similar_depth=None if similar is None else float(raw.depth[similar]),
        top1=top1(result, model),
        ceiling=_ceiling(result, model, tokens),
    )


def top1(result: Result, name: str) -> float | None:
    """Return the top-1 accuracy of a model, or the mean of a group's trainings, where classes are known."""
    found = [result.top1(model) for model in result.groups.get(name, (name,))]
    known = [accuracy for accuracy in found if accuracy is not None]
    return float(np.mean(known)) if len(known) == len(found) else None


def _ceiling(result: Result, name: str, tokens: str) -> tuple[Estimate, Estimate] | None:
    if name not in result.groups:
        return None
    found = result.ceiling(name, tokens=tokens)
    return found.at(0), found.at(-1)
