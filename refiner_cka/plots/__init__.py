"""Figures of a result, fit for a paper as they come: functions of a `Result` that neither save nor show."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError
from ..results.result import Result
from ..results.statistics import Normalize
from ..sums import LAYERS
from .heatmaps import heatmap as heatmap
from .lines import compare as compare
from .lines import contrast as contrast
from .lines import curves as curves
from .smoothing import attention as attention
from .smoothing import attention_blocks as attention_blocks
from .smoothing import measured
from .smoothing import smoothing as smoothing
from .smoothing import token_maps as token_maps
from .style import holders
from .style import save_figure as save_figure

__all__ = [
    "PLOTS",
    "Plot",
    "attention",
    "attention_blocks",
    "compare",
    "contrast",
    "curves",
    "draw",
    "figures",
    "heatmap",
    "save_figure",
    "smoothing",
    "token_maps",
]


@dataclass(frozen=True)
class Plot:
    """One kind of figure and what it asks for.

    Attributes:
        function: takes a result and, by keyword, `tokens`; returns axes or a figure.
        about: what it shows, in one line.
        models: fewest and most models it takes; `None` is any number, given by keyword as `models`.
        normalize: whether it takes the keyword `normalize`.
    """

    function: Callable[..., Axes | Figure]
    about: str
    models: tuple[int, int] | None
    normalize: bool


PLOTS: dict[str, Plot] = {
    "compare": Plot(compare, "raw and normalised curve of all models, side by side", None, True),
    "curves": Plot(curves, "similarity to the last layer over relative depth", None, True),
    "contrast": Plot(
        contrast, "difference of two models' curves, with its paired error", (2, 2), True
    ),
    "heatmap": Plot(
        heatmap, "CKA between the layers of one model, of two, or of all", (0, 2), False
    ),
    "smoothing": Plot(smoothing, "over-smoothing of the tokens over relative depth", None, False),
    "attention": Plot(attention, "attention measures over relative depth", None, False),
    "attention_blocks": Plot(
        attention_blocks, "similarity of attention maps between blocks", (1, 1), False
    ),
}
"""Name -> plot."""


def draw(result: Result, name: str, models: Sequence[str] = (), **options: str | None) -> Figure:
    """Return the figure of a plot by its name.

    Args:
        result: what was measured.
        name: a key of `PLOTS`.
        models: the models it is of; what no models mean is up to the plot.
        options: keywords of the plot, such as `tokens`; `None` leaves the plot its own choice.

    Raises:
        ResultError: no such plot; too few or too many models; an option it does not take.
    """
    if name not in PLOTS:
        raise ResultError(f"no plot {name!r}; choose one of {', '.join(PLOTS)}")
    plot = PLOTS[name]
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if "normalize" in given and not plot.normalize:
        raise ResultError(f"the plot {name} takes no normalisation")
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

    `curves` compares the models, `cka_<model>` and `cka_<model>_<other>` are heatmaps, and likewise of any other
    index; with several readouts each once per readout, which the stem names at its end. `smoothing`, and where
    it was measured `attention` and `attention_<model>`, are over-smoothing.

    Args:
        result: what was measured.
        normalize: of the curve beside the raw one; see `compare`.
    """
    taken: set[str] = set()
    for tokens in result.tokens:
        ending = f"_{tokens}" if len(result.tokens) > 1 else ""
        models = holders(result, tokens)
        yield _stem("curves" + ending, taken), compare(result, normalize=normalize, tokens=tokens)
        pairs = [*((model,) for model in models), *itertools.combinations(models, 2)]
        for index, pair in itertools.product(result.indices, pairs):
            stem = _stem("_".join([index, *map(_safe, pair)]) + ending, taken)
            yield stem, draw(result, "heatmap", pair, tokens=tokens, index=index)
    yield from ((_stem(stem, taken), figure) for stem, figure in _smoothing_figures(result))


def _smoothing_figures(result: Result) -> Iterator[tuple[str, Figure]]:
    of_tokens = measured(result, LAYERS)
    if any(np.isfinite(result.smoothing(each.name).values).any() for each in of_tokens):
        yield "smoothing", smoothing(result)
    if not result.attention:
        return
    yield "attention", attention(result)
    for model, maps in dict.fromkeys((block.model, block.tokens) for block in result.attention):
        ending = "" if maps == "softmax" else f"_{maps}"
        figure = attention_blocks(result, model, maps=maps).get_figure(root=True)
        assert isinstance(figure, Figure)
        yield f"attention_{_safe(model)}{ending}", figure


def _safe(name: str) -> str:
    """Return a model's name for use in a file name, also in LaTeX and on any file system."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "model"


def _stem(stem: str, taken: set[str]) -> str:
    """Return the stem, or one with a number if a file system that ignores case would find it taken."""
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    free = next(one for one in itertools.chain([stem], numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free
