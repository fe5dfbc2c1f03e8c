"""The page's figures of lines: curves, references, trainings, over-smoothing, attention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..plots.bands import Chance, Curve
from ..plots.lines import limits
from ..results import jackknife, means, trainings
from ..results.chance import Null
from ..results.estimate import Estimate
from ..results.jackknife import CONFIDENCE
from ..results.result import Result
from ..results.statistics import Normalize
from ..sums import LAYERS, Quantity
from . import captions
from .captions import sentences
from .looks import Look, checked_names, entries, looks
from .panels import Line, Panel, panel
from .texts import between

Legend = Sequence[tuple[str, Look]]
"""Name and look of each line."""


@dataclass(frozen=True)
class Figure:
    """Panels that belong together.

    Attributes:
        title: above them.
        panels: the panels.
        caption: below them: what they are, and what they rest on.
        legend: of the lines.
    """

    title: str
    panels: Sequence[Panel]
    caption: str
    legend: Legend = ()


def kinds(result: Result) -> Iterator[tuple[str, str, str]]:
    """Yield readout, index and a title for each similarity that is drawn."""
    for tokens, index in itertools.product(result.tokens, result.indices):
        label = result.quantity(index).label or index
        yield tokens, index, label + (f", readout {tokens}" if len(result.tokens) > 1 else "")


def similarity(result: Result) -> Iterator[Figure]:
    """Yield the curves of each readout and index: the raw ones and, beside them, the normalised ones."""
    for tokens, index, title in kinds(result):
        legend, label = _legend(result, tokens), captions.name_of(result, index)
        raw = f"{label}(l, last)"
        shown: dict[Normalize, str] = {"none": raw, "first-last": "s(l)"}
        panels, grey = [], ""
        for normalize, what in shown.items():
            ask = partial(result.curve, normalize=normalize, tokens=tokens, index=index)
            drawn = [_curve(result, name, ask) for name, _ in legend]
            nulls = _nulls(result, legend, tokens, index) if normalize == "none" else []
            lines, chance = _lines(result, legend, tokens, drawn, nulls), _around(nulls)
            panels.append(panel(what, lines, span=limits(drawn, normalize), chance=chance))
            grey = grey or captions.grey(chance)
        caption = sentences(
            f"Similarity of each layer to the last, over relative depth: {raw}, and s(l), which divides it by "
            f"{label}(first, last)",
            captions.rests(result),
            captions.bands(result, drawn, jackknife.MIN_FOLDS),
            grey,
            captions.unresolved(result, label, [curve.each for curve in drawn]),
        )
        yield Figure(title, panels, caption, legend)


def references(result: Result) -> Iterator[Figure]:
    """Yield how similar layers are to the labels and the pixels, for each readout and index."""
    for tokens, index, title in kinds(result) if result.references else ():
        legend, panels, grey = _legend(result, tokens), [], ""
        for reference in result.references:
            drawn = [_against(result, name, reference, tokens, index) for name, _ in legend]
            nulls = _nulls(result, legend, tokens, index, reference)
            lines, chance = _lines(result, legend, tokens, drawn, nulls), _around(nulls)
            what = f"{captions.name_of(result, index)}(l, {reference})"
            panels.append(panel(what, lines, span=limits(drawn), chance=chance))
            grey = grey or captions.grey(chance)
        caption = sentences(
            f"Similarity of each layer to the {' and to the '.join(result.references)}",
            captions.rests(result),
            captions.bands(result, drawn, jackknife.MIN_FOLDS),
            grey,
        )
        yield Figure(title, panels, caption, legend)


def ceilings(result: Result) -> Iterator[Figure]:
    """Yield how alike the trainings of each recipe are, for each readout and index."""
    for tokens, index, title in kinds(result):
        legend = [of for of in _legend(result, tokens) if of[0] in result.groups]
        if not legend:
            continue
        drawn = [_ceiling(result, group, tokens, index) for group, _ in legend]
        lines = _lines(result, legend, tokens, drawn)
        what = f"{captions.name_of(result, index)} between trainings"
        caption = sentences(
            "The ceiling: similarity of the same layer in two trainings of one recipe",
            captions.rests(result),
            captions.bands(result, drawn, jackknife.MIN_FOLDS),
        )
        yield Figure(title, [panel(what, lines, span=limits(drawn))], caption, legend)


def smoothing(result: Result) -> Iterator[Figure]:
    """Yield the measures of tokens, a panel each."""
    names = entries(result, result.models)
    first = {layer.model: layer.tokens for layer in reversed(result.layers)}
    lines = [(name, first[result.trainings(name)[0]]) for name in names]
    legend = list(zip(names, looks(result, names), strict=True))
    yield from _means(result, "Tokens", (LAYERS,), lines, legend)


def attention(result: Result) -> Iterator[Figure]:
    """Yield the measures of attention maps, a panel each; refined maps are lines of their own."""
    shown_as = {
        model: name for name in entries(result, result.models) for model in result.trainings(name)
    }
    lines = list(dict.fromkeys((shown_as[at.model], at.tokens) for at in result.attention))
    names = [name if maps == "softmax" else f"{name} ({maps})" for name, maps in lines]
    legend = list(zip(names, looks(result, [name for name, _ in lines]), strict=True))
    yield from _means(result, "Attention maps", ("attention",), lines, legend)


def _means(
    result: Result,
    title: str,
    axes: tuple[str, ...],
    lines: Sequence[tuple[str, str]],
    legend: Legend,
) -> Iterator[Figure]:
    """Yield the means over images along an axis; nothing where none is defined.

    Args:
        result: what was measured.
        title: of the figure.
        axes: of the measures.
        lines: name, and readout or kind of maps, of each line.
        legend: of each line.
    """
    panels, every = [], list[Curve]()
    for quantity in (result.quantity(name) for name in result.measures):
        # Row sums and negative shares of softmax maps are 1 and 0.
        idle = (
            axes != (LAYERS,)
            and not quantity.smoother
            and {kind for _, kind in lines} <= {"softmax"}
        )
        if quantity.axes != axes or idle:
            continue
        drawn = [
            Curve(result.smoothing(quantity.name, name, tokens=kind, maps=kind))
            for name, kind in lines
        ]
        if any(np.isfinite(curve.each.values).any() for curve in drawn):
            named = zip(lines, legend, drawn, strict=True)
            own = [
                Line(*of, _paths(result, quantity, name, kind), curve)
                for (name, kind), of, curve in named
            ]
            panels.append(_of_measure(quantity, own))
            every += drawn
    if panels:
        bands = captions.bands(result, every, means.MIN_FOLDS)
        yield Figure(
            title, panels, sentences(f"means over {captions.rests(result)}", bands), legend
        )


def _of_measure(quantity: Quantity, lines: Sequence[Line]) -> Panel:
    """Return a panel on a scale that does not make much of little."""
    least, most = quantity.range
    remarks = [f"{quantity.smoother}: smoother"] if quantity.smoother else []
    if quantity.few:
        remarks.append(f"on {_images(lines)} images")
    span = limits([line.curve for line in lines]) if most == 1.0 else None
    return panel(
        quantity.label or quantity.name,
        lines,
        remark=", ".join(remarks),
        span=span,
        from_zero=least is not None,
    )


def _images(lines: Sequence[Line]) -> int:
    """Return on how many images means rest; where features are not finite, all of the run count."""
    known = [
        line.curve.each.images[np.isfinite(line.curve.each.values)]
        for line in lines
        if line.curve.each.images is not None
    ]
    return int(np.concatenate(known).max(initial=0))


def _legend(result: Result, tokens: str) -> Legend:
    names = checked_names(result, None, tokens)
    return list(zip(names, looks(result, names), strict=True))


def _lines(
    result: Result,
    legend: Legend,
    tokens: str,
    drawn: Sequence[Curve],
    nulls: Sequence[Sequence[Null]] = (),
) -> list[Line]:
    """Return lines along the layers of a readout, with what their points say of chance."""
    cka = result.quantity("cka")
    return [
        Line(*of, _paths(result, cka, of[0], tokens), curve, _chance(null))
        for of, curve, null in zip(legend, drawn, nulls or [()] * len(legend), strict=True)
    ]


def _paths(result: Result, quantity: Quantity, name: str, kind: str) -> list[str]:
    """Return the layers of a model, or of the first training of a group, along the axis of a quantity."""
    model = result.trainings(name)[0]
    return [
        entry.path
        for entry in result.axes[quantity.axes[0]]
        if (entry.model, entry.tokens) == (model, kind)
    ]


def _nulls(
    result: Result, legend: Legend, tokens: str, index: str, other: str | None = None
) -> list[list[Null]]:
    """Return chance of each model's layers, of a group that of each training."""
    return [
        [result.null(model, other, tokens=tokens, index=index) for model in result.trainings(name)]
        for name, _ in legend
    ]


def _around(nulls: Sequence[Sequence[Null]]) -> Chance | None:
    return Chance.around(itertools.chain.from_iterable(nulls))


def _chance(nulls: Sequence[Null]) -> list[str]:
    """Return between what a model's layers would lie by chance; of the mean over trainings it is not known."""
    if len(nulls) != 1:
        return []
    tail = (1 - CONFIDENCE) / 2
    ends = (nulls[0].quantile(share)[:, -1] for share in (tail, 1 - tail))
    return [between(low, high) for low, high in zip(*ends, strict=True)]


def _curve(result: Result, name: str, ask: Callable[..., Estimate]) -> Curve:
    """Return the curve of a model with both of its bands, or that of a group with its trainings."""
    if group := result.groups.get(name, ()):
        return Curve(ask(name), thin=tuple(map(ask, group)))
    return Curve(ask(name), ask(name, band="simultaneous"))


def _against(result: Result, name: str, reference: str, tokens: str, index: str) -> Curve:
    pairs = [
        result.similarity(index, model, reference, tokens=tokens)
        for model in result.trainings(name)
    ]
    each = tuple(found.block((slice(None), 0), found.depth) for found in pairs)
    return Curve(trainings.mean(each), thin=each) if name in result.groups else Curve(each[0])


def _ceiling(result: Result, group: str, tokens: str, index: str) -> Curve:
    ask = partial(result.ceiling, group, tokens=tokens, index=index)
    return Curve(ask(), ask(band="simultaneous"))
