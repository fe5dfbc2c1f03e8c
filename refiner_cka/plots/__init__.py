"""Figures of a result, fit for a paper as they come: functions of a `Result` that neither save nor show."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError
from ..results.result import Result
from ..results.statistics import Normalize
from .ceilings import ceiling as ceiling
from .heatmaps import heatmap as heatmap
from .lines import compare as compare
from .lines import contrast as contrast
from .lines import curves as curves
from .references import against as against
from .smoothing import attention as attention
from .smoothing import attention_blocks as attention_blocks
from .smoothing import smoothing as smoothing
from .smoothing import token_maps as token_maps
from .style import NothingToDraw as NothingToDraw
from .style import checked_names
from .style import save_figure as save_figure


class Case(NamedTuple):
    """One figure of a run.

    Attributes:
        models: the models it is of.
        options: keywords that its plot takes.
        stem: of its file, before the models; that of its plot if empty.
        ending: of its file's stem, after the models.
    """

    models: Sequence[str] = ()
    options: Mapping[str, str] = MappingProxyType({})
    stem: str = ""
    ending: str = ""


def once(result: Result) -> Iterator[Case]:
    """One figure of all models."""
    yield Case()


def each_readout(result: Result) -> Iterator[Case]:
    """One figure of all models, for each readout."""
    several = len(result.tokens) > 1
    for tokens in result.tokens:
        yield Case(options={"tokens": tokens}, ending=tokens if several else "")


def each_index(result: Result) -> Iterator[Case]:
    """One figure of all models, for each readout and similarity index."""
    for readout, index in itertools.product(each_readout(result), result.indices):
        ending = "_".join(filter(None, ["" if index == "cka" else index, readout.ending]))
        yield Case(options={**readout.options, "index": index}, ending=ending)


def each_pair(result: Result) -> Iterator[Case]:
    """One figure of each model and of each two, for each readout and similarity index.

    Of a group of trainings the first stands for all.
    """
    for readout in each_readout(result):
        models = [
            result.trainings(name)[0]
            for name in checked_names(result, None, readout.options["tokens"])
        ]
        pairs = [*((model,) for model in models), *itertools.combinations(models, 2)]
        for index, pair in itertools.product(result.indices, pairs):
            yield Case(pair, {**readout.options, "index": index}, index, readout.ending)


def each_kind_of_maps(result: Result) -> Iterator[Case]:
    """One figure of each model, for each kind of its attention maps."""
    for model, maps in dict.fromkeys((block.model, block.tokens) for block in result.attention):
        yield Case((model,), {"maps": maps}, ending="" if maps == "softmax" else maps)


@dataclass(frozen=True)
class Plot:
    """One kind of figure and what it asks for.

    Attributes:
        function: takes a result and, by keyword, `tokens`; returns axes or a figure, or raises `NothingToDraw`.
        models: fewest and most models it takes; `None` is any number, given by keyword as `models`.
        stem: of its files among the figures of a run; its name if not given.
        cases: which figures of it a run has; `None` for none.
    """

    function: Callable[..., Axes | Figure]
    models: tuple[int, int] | None = None
    stem: str | None = None
    cases: Callable[[Result], Iterable[Case]] | None = once

    def takes(self, option: str) -> bool:
        """Return whether its function has such a keyword."""
        return option in inspect.signature(self.function).parameters


PLOTS: dict[str, Plot] = {
    "compare": Plot(compare, stem="curves", cases=each_index),
    "curves": Plot(curves, cases=None),
    "contrast": Plot(contrast, models=(2, 2), cases=None),
    "heatmap": Plot(heatmap, models=(0, 2), cases=each_pair),
    "against": Plot(against, cases=each_index),
    "ceiling": Plot(ceiling, cases=each_index),
    "smoothing": Plot(smoothing),
    "attention": Plot(attention),
    "attention_blocks": Plot(
        attention_blocks, models=(1, 1), stem="attention", cases=each_kind_of_maps
    ),
}
"""Name -> plot, in the order in which a run's figures are drawn."""


def draw(result: Result, name: str, models: Sequence[str] = (), **options: str | None) -> Figure:
    """Return the figure of a plot by its name.

    Args:
        result: what was measured.
        name: a key of `PLOTS`.
        models: the models it is of; what no models mean is up to the plot.
        options: keywords of the plot, such as `tokens`; `None` leaves the plot its own choice.

    Raises:
        ResultError: no such plot; too few or too many models; an option it does not take; nothing to draw.
    """
    if name not in PLOTS:
        raise ResultError(f"no plot {name!r}; choose one of {', '.join(PLOTS)}")
    plot = PLOTS[name]
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if unknown := [option for option in given if not plot.takes(option)]:
        raise ResultError(f"the plot {name} has no option {unknown[0]!r}: leave it out")
    if plot.models is None:
        drawn = plot.function(result, models=models or None, **given)
    else:
        fewest, most = plot.models
        if not fewest <= len(models) <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise ResultError(f"the plot {name} takes {wanted} models, not {len(models)}")
        drawn = plot.function(result, *models, **given)
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def figures(result: Result, *, normalize: Normalize = "first-last") -> Iterator[tuple[str, Figure]]:
    """Yield every figure of a run with the stem of its file, one at a time.

    `curves` compares the models, `cka_<model>` and `cka_<model>_<other>` are heatmaps; of any other index it is
    `curves_<index>` and `<index>_<model>`. With several readouts there is one of each per readout, which the stem
    names at its end. `against` is there where layers were compared with the labels or the pixels, and `ceiling`
    where models are groups of trainings. `smoothing`, and where it was measured `attention` and
    `attention_<model>`, are over-smoothing.

    Args:
        result: what was measured.
        normalize: of the curve beside the raw one; see `compare`.
    """
    taken: set[str] = set()
    for name, plot in PLOTS.items():
        scale = normalize if plot.takes("normalize") else None
        for case in plot.cases(result) if plot.cases else ():
            try:
                figure = draw(result, name, case.models, normalize=scale, **case.options)
            except NothingToDraw:
                continue
            parts = [case.stem or plot.stem or name, *map(_safe, case.models), case.ending]
            yield _stem("_".join(filter(None, parts)), taken), figure


def _safe(name: str) -> str:
    """Return a model's name for use in a file name, also in LaTeX and on any file system."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "model"


def _stem(stem: str, taken: set[str]) -> str:
    """Return the stem, or one with a number if a file system that ignores case would find it taken."""
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    free = next(one for one in itertools.chain([stem], numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free
