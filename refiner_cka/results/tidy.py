"""A result as tidy tables: one number a row, with its error, where it was measured and what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import printable
from ..sums import LAYERS, MODELS, REFERENCE, Layer, Quantity
from .estimate import Estimate
from .measured import Measured

Row = Mapping[str, Any]

_NUMBER = (
    *("what", "value", "se", "lower", "upper", "error_over"),
    *("sd", "sd_over", "trainings", "images", "resolved"),
)

COLUMNS = ("model", "layer", "readout", "index", "depth", *_NUMBER)
"""Of the table of layers, see docs/tables.md."""

PAIR_COLUMNS = (
    *("model", "layer", "readout", "other_model", "other_layer", "other_readout"),
    *_NUMBER,
)
"""Of the table of pairs of layers."""


def rows(result: Measured) -> Iterator[Row]:
    """Yield a row with `COLUMNS` for every number along depth: of each model, then of each group of trainings.

    These are CKA with the last layer and s(l), the same of every other index, similarity to references, the
    ceiling of a group, every measure of over-smoothing and of attention; and of a model as a whole, without a
    layer, its top-1 accuracy. What does not apply is NaN, or an empty text.
    """
    for name in (*result.models, *result.groups):
        for tokens in _readouts(result, LAYERS, name):
            layers = _entries(result, LAYERS, name, tokens)
            for what, estimate in curves(result, name, tokens):
                yield from _along(result, name, [*layers.values()], what, estimate)
        for measure in map(result.quantity, result.measures):
            if len(measure.axes) == 1:
                yield from _measure(result, name, measure)
        if (accuracy := result.top1(name)) is not None:
            yield {
                **_place(name, None),
                **_number("top1", _bare(accuracy, len(result.trainings(name))), 0, result.images),
                "error_over": "",
            }


def pair_rows(result: Measured) -> Iterator[Row]:
    """Yield a row with `PAIR_COLUMNS` for every similarity of an ordered pair of layers, references included.

    After the indices of all pairs follow measures of pairs, such as that of attention maps of two blocks, of those
    pairs that were measured.
    """
    stack = [(layer.model, layer) for layer in result.stack]
    for index in result.indices:
        everywhere = np.ones((len(stack), len(stack)), bool)
        yield from _pairs(result, stack, index, result.similarity(index), everywhere)
    for measure in map(result.quantity, result.measures):
        if len(measure.axes) == 2:
            yield from _measure_of_pairs(result, measure)


def curves(result: Measured, name: str, tokens: str) -> Iterator[tuple[str, Estimate]]:
    """Yield what there is along the layers of a model or a group under one readout, but measures, by its name.

    Of CKA these are `cka_last`, `s`, `cka_labels` (of a model, where that is a reference) and `ceiling` (of a
    group); of another index `rsa_last`, `rsa_s`, `rsa_labels` and `rsa_ceiling`.
    """
    for index in result.indices:
        short = "" if index == "cka" else f"{index}_"
        raw = result.curve(name, normalize="none", tokens=tokens, index=index)
        yield f"{index}_last", raw
        yield f"{short}s", result.curve(name, tokens=tokens, index=index)
        if name in result.groups:
            yield f"{short}ceiling", result.ceiling(name, tokens=tokens, index=index)
            continue
        for reference in result.references:
            found = result.similarity(index, name, reference, tokens=tokens)
            yield f"{index}_{reference}", found.block((slice(None), 0), found.depth)


def _measure(result: Measured, name: str, measure: Quantity) -> Iterator[Row]:
    """Yield the rows of a measure of a model or a group."""
    (axis,) = measure.axes
    if axis == MODELS:
        yield from _along(result, name, [None], measure.name, result.smoothing(measure.name, name))
        return
    for kind in _readouts(result, axis, name):
        entries = _entries(result, axis, name, kind)
        estimate = result.smoothing(measure.name, name, tokens=kind, maps=kind)
        found = _along(result, name, [*entries.values()], measure.name, estimate)
        yield from (
            row
            for position, row in zip(entries, found, strict=True)
            if position not in measure.absent
        )


def _measure_of_pairs(result: Measured, measure: Quantity) -> Iterator[Row]:
    """Yield the rows of a measure of pairs: of all entries of its axis, then of each group."""
    axis = measure.axes[0]
    sides = [(entry.model, entry) for entry in result.axes.get(axis, ())]
    if sides:
        estimate = result.smoothing(measure.name)
        yield from _pairs(result, sides, measure.name, estimate, estimate.images)
    for group in result.groups:
        for kind in _readouts(result, axis, group):
            own = [(group, entry) for entry in _entries(result, axis, group, kind).values()]
            estimate = result.smoothing(measure.name, group, tokens=kind, maps=kind)
            yield from _pairs(result, own, measure.name, estimate, estimate.images)


def _readouts(result: Measured, axis: str, name: str) -> list[str]:
    """Return the readouts, or kinds of maps, that a model or a group has on an axis."""
    model = result.trainings(name)[0]
    entries = (entry for entry in result.axes.get(axis, ()) if entry.model == model)
    return [*dict.fromkeys(entry.tokens for entry in entries if entry.tokens != REFERENCE)]


def _entries(result: Measured, axis: str, name: str, tokens: str) -> dict[int, Layer]:
    """Return the entries of an axis of a model, or of the first training of a group, by their positions."""
    model = result.trainings(name)[0]
    return {
        position: entry
        for position, entry in enumerate(result.axes[axis])
        if (entry.model, entry.tokens) == (model, tokens)
    }


def _along(
    result: Measured, name: str, places: Sequence[Layer | None], what: str, estimate: Estimate
) -> Iterator[Row]:
    for position, layer in enumerate(places):
        yield {**_place(name, layer), **_number(what, estimate, position, result.images)}


def _pairs(
    result: Measured,
    sides: Sequence[tuple[str, Layer]],
    what: str,
    estimate: Estimate,
    wanted: npt.NDArray[Any] | None,
) -> Iterator[Row]:
    """Yield a row for each pair that is wanted, of a square estimate."""
    assert wanted is not None
    for i, j in np.argwhere(wanted).tolist():
        (model, layer), (other_model, other) = sides[i], sides[j]
        names = (model, layer.path, layer.tokens, other_model, other.path, other.tokens)
        yield {
            **dict(zip(PAIR_COLUMNS, map(printable, names), strict=False)),
            **_number(what, estimate, (i, j), result.images),
        }


def _place(name: str, layer: Layer | None) -> dict[str, Any]:
    if layer is None:
        return {
            "model": printable(name),
            "layer": "",
            "readout": "",
            "index": math.nan,
            "depth": math.nan,
        }
    return {
        "model": printable(name),
        "layer": printable(layer.path),
        "readout": printable(layer.tokens),
        "index": layer.index,
        "depth": layer.depth,
    }


def _number(
    what: str, estimate: Estimate, place: int | tuple[int, int], images: int
) -> dict[str, Any]:
    """Return a number with what has to be known of it."""
    spread = estimate.spread
    over = "trainings" if estimate.over == "trainings" else "pairs of trainings"
    return {
        "what": what,
        "value": float(estimate.values[place]),
        "se": float(estimate.se[place]),
        "lower": float(estimate.lower[place]),
        "upper": float(estimate.upper[place]),
        "error_over": estimate.over,
        "sd": math.nan if spread is None else float(spread[place]),
        "sd_over": "" if spread is None else over,
        "trainings": estimate.trainings,
        "images": images if estimate.images is None else int(estimate.images[place]),
        "resolved": estimate.resolved,
    }


def _bare(value: float, trainings: int) -> Estimate:
    """Return a number without an error."""
    unknown = np.full(1, math.nan)
    return Estimate(np.full(1, value), unknown, unknown, unknown, unknown, 0, trainings=trainings)
