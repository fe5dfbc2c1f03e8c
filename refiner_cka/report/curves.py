"""The page's figures of lines: curves, references, trainings, over-smoothing, attention."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..plots.bands import Chance, Curve, curve_of
from ..plots.captions import bands_of, fewest, named, of_similarity, outlined, unresolved
from ..plots.ceilings import THIN
from ..plots.ceilings import between as between_trainings
from ..plots.lines import limits
from ..plots.models import Line as Shown
from ..plots.models import cast
from ..plots.style import plural
from ..results import means
from ..results.chance import Null
from ..results.jackknife import CONFIDENCE
from ..results.result import Result
from ..results.statistics import Normalize
from ..sums import LAYERS, Quantity
from . import captions
from .captions import sentences
from .looks import Look, entries, look_of, looks
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
        shown, label = cast(result, None, tokens), named(result, index)
        raw = f"{label}(l, last)"
        whats: dict[Normalize, str] = {"none": raw, "first-last": "s(l)"}
        panels, grey = [], ""
        for normalize, what in whats.items():
            ask = partial(result.curve, normalize=normalize, tokens=tokens, index=index)
            drawn = [curve_of(line, ask) for line in shown]
            nulls = _nulls(shown, tokens, index) if normalize == "none" else []
            lines, chance = _lines(shown, tokens, drawn, nulls), _around(nulls)
            panels.append(panel(what, lines, span=limits(drawn, normalize), chance=chance))
            grey = grey or captions.grey(chance)
        caption = sentences(
            f"Similarity of each layer to the last, over relative depth: {raw}, and s(l), which divides it by "
            f"{label}(first, last)",
            *_rests(shown, index, drawn),
            grey,
            unresolved(shown, index, [curve.each for curve in drawn]),
        )
        yield Figure(title, panels, caption, _legend(shown))


def references(result: Result) -> Iterator[Figure]:
    """Yield how similar layers are to the labels and the pixels, for each readout and index."""
    for tokens, index, title in kinds(result) if result.references else ():
        shown, panels, grey = cast(result, None, tokens), [], ""
        for reference in result.references:
            ask = partial(result.against, reference=reference, tokens=tokens, index=index)
            drawn = [curve_of(line, ask) for line in shown]
            nulls = _nulls(shown, tokens, index, reference)
            lines, chance = _lines(shown, tokens, drawn, nulls), _around(nulls)
            what = f"{named(result, index)}(l, {reference})"
            panels.append(panel(what, lines, span=limits(drawn), chance=chance))
            grey = grey or captions.grey(chance)
        caption = sentences(
            f"Similarity of each layer to the {' and to the '.join(result.references)}",
            *_rests(shown, index, drawn),
            grey,
        )
        yield Figure(title, panels, caption, _legend(shown))


def ceilings(result: Result) -> Iterator[Figure]:
    """Yield how alike the trainings of each recipe are, for each readout and index."""
    for tokens, index, title in kinds(result):
        shown = [line for line in cast(result, None, tokens) if line.name in result.groups]
        if not shown:
            continue
        drawn = [between_trainings(result, line.name, tokens, index) for line in shown]
        lines = _lines(shown, tokens, drawn)
        what = f"{named(result, index)} between trainings"
        caption = sentences(
            "The ceiling: similarity of the same layer in two trainings of one recipe",
            *_rests(shown, index, drawn),
            THIN if any(curve.thin for curve in drawn) else "",
        )
        yield Figure(title, [panel(what, lines, span=limits(drawn))], caption, _legend(shown))


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
        size = result.provenance.get("batch_size")
        batches = f" in batches of {size}" if size else ""
        bands = bands_of(every, result.folds, means.MIN_FOLDS)
        outer = outlined([curve.each for curve in every])
        rests = f"means over {plural(result.images, 'image')}{batches}"
        yield Figure(title, panels, sentences(rests, bands, outer), legend)


def _of_measure(quantity: Quantity, lines: Sequence[Line]) -> Panel:
    """Return a panel on a scale that does not make much of little."""
    least, most = quantity.range
    remarks = [f"{quantity.smoother}: smoother"] if quantity.smoother else []
    if quantity.few:
        remarks.append(f"on {fewest([line.curve for line in lines], 0)} images")
    span = limits([line.curve for line in lines]) if most == 1.0 else None
    return panel(
        quantity.label or quantity.name,
        lines,
        remark=", ".join(remarks),
        span=span,
        from_zero=least is not None,
    )


def _legend(shown: Sequence[Shown]) -> Legend:
    return [(line.label, look_of(**line.look)) for line in shown]


def _rests(shown: Sequence[Shown], index: str, drawn: Sequence[Curve]) -> list[str]:
    """Return what similarities rest on, and what their bands are."""
    return [*of_similarity(shown, index, drawn), outlined([curve.each for curve in drawn])]


def _lines(
    shown: Sequence[Shown],
    tokens: str,
    drawn: Sequence[Curve],
    nulls: Sequence[Sequence[Null]] = (),
) -> list[Line]:
    """Return lines along the layers of a readout, with what their points say of chance."""
    return [
        Line(
            line.label,
            look_of(**line.look),
            _paths(line.result, line.result.quantity("cka"), line.name, tokens),
            curve,
            _chance(null),
        )
        for line, curve, null in zip(shown, drawn, nulls or [()] * len(shown), strict=True)
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
    shown: Sequence[Shown], tokens: str, index: str, other: str | None = None
) -> list[list[Null]]:
    """Return chance of each model's layers, of a group that of each training."""
    return [
        [line.result.null(model, other, tokens=tokens, index=index) for model in line.trainings]
        for line in shown
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
