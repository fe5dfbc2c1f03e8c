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
from .bands import Axis, Bands, Curve
from .layout import on
from .lines import draw_curves, limits, tell_curves
from .models import Model, lines_of
from .style import NothingToDraw

THIN = "thin: pairs of trainings"
"""What is said of the thin lines."""


def ceiling(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
    band: Bands = "both",
    x: Axis = "depth",
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
        band: `both`, `pointwise`, `simultaneous` or `none`.
        x: `depth`, relative, or `block`, the number of the layer.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no groups in this result; no such group, readout or index.
    """
    groups = [*result.groups] if models is None else [*models]
    if not groups:
        raise NothingToDraw("no groups of trainings in this result: name them with group=")
    of = [group if isinstance(group, Model) else Model(group) for group in groups]
    found = [between(group.result or result, group, tokens, index) for group in of]
    drawn = [curve.within(band).along(x) for curve in found]
    lines = lines_of(result, of)
    label = captions.same_everywhere(lines, index, tokens)

    def draw(ax: Axes) -> None:
        artists, _ = draw_curves(ax, lines, drawn, limits(drawn), None, x)
        ax.set_ylabel(f"{label.partition(' (')[0]} between trainings")
        tell_curves(ax, artists, lines, index, drawn, [THIN])

    return on(draw, ax)


def between(result: Result, group: str, tokens: str | None, index: str) -> Curve:
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
