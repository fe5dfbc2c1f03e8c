"""The kinds of panels, and which figures of each a run has."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from ..results.result import Result
from ..results.statistics import Normalize
from ..sums import LAYERS
from .ceilings import ceiling
from .heatmaps import heatmap
from .lines import ALONE, contrast, curves
from .models import checked_names
from .panels import Panel
from .references import reference
from .smoothing import attention_blocks, measure, telling
from .style import COLUMN, PAGE


@dataclass(frozen=True)
class Case:
    """One figure of a run.

    Attributes:
        stem: of its file.
        panels: what it shows.
        width: in inches.
    """

    stem: str
    panels: Sequence[Panel]
    width: float = COLUMN


Cases = Callable[[Result, Sequence[str], Normalize], Iterable[Case]]
"""Which figures of a kind a run has: of a result, the models and groups that are shown, and a normalisation."""


def curves_of_run(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
    """One figure for each readout and index: raw curves and, beside them, normalised ones."""
    scales = dict.fromkeys(["none", normalize])
    for tokens, index, ending in _each(result):
        panels = [Panel("curve", normalize=each, tokens=tokens, index=index) for each in scales]
        yield Case(_joined("curves", ending), panels, PAGE if len(panels) > 1 else ALONE)


def heatmaps_of_run(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
    """One figure of all models and one of each, for each readout and index.

    Of a group of trainings the first stands for all.
    """
    for tokens, index, _ in _each(result):
        options = {"tokens": tokens, "index": index}
        readout = tokens if len(result.tokens) > 1 else ""
        there = [name for name in models if name in checked_names(result, None, tokens)]
        if len(there) > 1:
            yield Case(_joined(index, readout), [Panel("heatmap", **options)])
        for name in there:
            first = result.trainings(name)[0]
            yield Case(
                _joined(index, safe(first), readout), [Panel("heatmap", of=[first], **options)]
            )


def references_of_run(
    result: Result, models: Sequence[str], normalize: Normalize
) -> Iterator[Case]:
    """One figure with a panel for each reference, for each readout and index."""
    for tokens, index, ending in _each(result) if result.references else ():
        options = {"tokens": tokens, "index": index}
        panels = [Panel("against", of=[name], **options) for name in result.references]
        yield Case(_joined("against", ending), panels, PAGE if len(panels) > 1 else COLUMN)


def ceilings_of_run(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
    """One figure of all groups that are shown, for each readout and index."""
    groups = [name for name in models if name in result.groups]
    for tokens, index, ending in _each(result) if groups else ():
        panel = Panel("ceiling", of=groups, tokens=tokens, index=index)
        yield Case(_joined("ceiling", ending), [panel])


def measures_of_run(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
    """One figure of the token measures, and one of those of attention maps."""
    for axis, stem in ((LAYERS, "smoothing"), ("attention", "attention")):
        if panels := [Panel("measure", of=[name]) for name in telling(result, axis, models)]:
            yield Case(stem, panels, PAGE)


def blocks_of_run(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
    """One figure of each model and kind of its attention maps."""
    if not any(
        result.quantity(name).axes == ("attention", "attention") for name in result.measures
    ):
        return
    shown = {model for name in models for model in result.trainings(name)}
    for model, maps in dict.fromkeys((block.model, block.tokens) for block in result.attention):
        if model in shown:
            ending = "" if maps == "softmax" else maps
            panel = Panel("blocks", of=[model], maps=maps)
            yield Case(_joined("attention", safe(model), ending), [panel])


def _each(result: Result) -> Iterator[tuple[str, str, str]]:
    """Yield readout, index, and how stems end that tell them apart."""
    for tokens, index in itertools.product(result.tokens, result.indices):
        readout = tokens if len(result.tokens) > 1 else ""
        yield tokens, index, _joined("" if index == "cka" else index, readout)


def _joined(*parts: str) -> str:
    return "_".join(filter(None, parts))


def safe(name: str) -> str:
    """Return a model's name for use in a file name, also in LaTeX and on any file system."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "model"


@dataclass(frozen=True)
class Kind:
    """One kind of panel and what it asks for.

    Attributes:
        function: takes a result and, by keyword, `ax`; returns these axes, or raises `NothingToDraw`.
        of: fewest and most names it takes after the result; `None` for any number of models, given by keyword as
            `models`.
        defaults: options of its function, where a panel has other ones.
        square: whether it is a matrix.
        cases: which figures of it a run has; `None` for none, one of all models if not given.
    """

    function: Callable[..., Axes]
    of: tuple[int, int] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    square: bool = False
    cases: Cases | None = None

    @property
    def options(self) -> list[str]:
        """The keywords of its function that a panel may have."""
        parameters = inspect.signature(self.function).parameters.values()
        names = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        return [name for name in names if name not in ("ax", "models")]

    @property
    def takes_models(self) -> bool:
        """Whether its function takes `models`."""
        return "models" in inspect.signature(self.function).parameters


def once(name: str) -> Cases:
    """Return the cases of a kind of which a run has one figure, of all models."""

    def cases(result: Result, models: Sequence[str], normalize: Normalize) -> Iterator[Case]:
        yield Case(name, [Panel(name)])

    return cases


PLOTS: dict[str, Kind] = {
    "curve": Kind(curves, defaults={"normalize": "none"}, cases=curves_of_run),
    "contrast": Kind(contrast, of=(2, 2)),
    "heatmap": Kind(heatmap, of=(0, 2), square=True, cases=heatmaps_of_run),
    "against": Kind(reference, of=(1, 1), cases=references_of_run),
    "ceiling": Kind(ceiling, cases=ceilings_of_run),
    "measure": Kind(measure, of=(1, 1), cases=measures_of_run),
    "blocks": Kind(attention_blocks, of=(1, 1), square=True, cases=blocks_of_run),
}
"""Name -> kind of panel, in the order in which a run's figures are drawn."""
