"""How alike the trainings of one recipe are: a ceiling for what may be expected of other networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from ..results.estimate import Estimate
from ..results.result import Result
from . import captions
from .bands import Curve
from .labels import EndLabels
from .lines import HEIGHT, draw_curves, labels, limits
from .style import COLUMN, NothingToDraw, new_figure, note, palette, paper


def ceiling(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
    ax: Axes | None = None,
) -> Axes:
    """Draw the similarity of the same layer in different trainings over relative depth, one line per group.

    The line is the mean over pairs of trainings, its 95 % bands are over images, dark for each layer and light for
    the whole curve; thin lines are the pairs.

    Args:
        result: what was measured.
        models: the groups to draw; all if none are named.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no groups in this result; no such group, readout or index.
    """
    groups = list(result.groups if models is None else dict.fromkeys(models))
    if not groups:
        raise NothingToDraw("no groups of trainings in this result: name them with group=")
    drawn = [_curve(result, group, tokens, index) for group in groups]
    with paper():
        shown = new_figure(COLUMN, HEIGHT).subplots() if ax is None else ax
        lines, _ = draw_curves(shown, drawn, palette(result, groups), limits(drawn), None)
        shown.set_ylabel(f"{captions.named(result, index)} between trainings")
        EndLabels(shown, lines, labels(groups, [curve.each for curve in drawn], 18))
        note(shown, "thin: pairs of trainings")
        if ax is None:
            captions.write(shown, [captions.of_similarity(result, index, drawn)])
    return shown


def _curve(result: Result, group: str, tokens: str | None, index: str) -> Curve:
    """Return the mean over pairs of trainings with both bands, and the pairs."""
    ask = partial(result.ceiling, group, tokens=tokens, index=index)
    mean = ask()
    pairs = _pairs(result, group, tokens, index, mean)
    return Curve(mean, ask(band="simultaneous"), tuple(pairs))


def _pairs(
    result: Result, group: str, tokens: str | None, index: str, mean: Estimate
) -> list[Estimate]:
    """Return the similarity of the same layer in any two trainings, where there is more than one pair."""
    pairs = list(itertools.combinations(result.groups[group], 2))
    if len(pairs) == 1:
        return []
    return [
        replace(mean, values=np.diagonal(result.similarity(index, *pair, tokens=tokens).values))
        for pair in pairs
    ]
