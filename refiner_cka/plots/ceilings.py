"""How alike the trainings of one recipe are: a ceiling for what may be expected of other networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from ..results.estimate import Estimate
from ..results.result import Result
from .labels import EndLabels
from .lines import depth_axis, draw_line, draw_thin
from .style import COLUMN, NothingToDraw, new_figure, note, palette, paper, shortened


def ceiling(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
    ax: Axes | None = None,
) -> Axes:
    """Draw the similarity of the same layer in different trainings over relative depth, one line per group.

    The line is the mean over pairs of trainings, its band the 95 % interval over images; thin lines are the pairs.

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
    drawn = [result.ceiling(group, tokens=tokens, index=index) for group in groups]
    with paper():
        ax = new_figure(COLUMN, 2.3).subplots() if ax is None else ax
        lines = []
        for number, (group, mean, look) in enumerate(
            zip(groups, drawn, palette(result, groups), strict=True)
        ):
            draw_thin(ax, _pairs(result, group, tokens, index, mean), look)
            lines.append(draw_line(ax, mean, look, number, len(drawn)))
        depth_axis(ax)
        low = min(float(np.nanmin(line.get_ydata(), initial=0.0)) for line in ax.get_lines())
        ax.set_ylim(low - 0.04, 1.04)
        ax.set_ylabel(f"{result.quantity(index).label or index} between trainings")
        EndLabels(ax, lines, shortened(groups, 18))
        note(ax, "thin: pairs of trainings; 95 % bands over images")
    return ax


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
