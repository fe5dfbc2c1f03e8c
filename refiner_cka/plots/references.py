"""Similarity of each layer to what is no model: the labels, the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError, known_names
from ..results.result import Result
from . import captions
from .bands import Axis, Bands, Chance, curve_of
from .layout import grid, on
from .lines import draw_curves, limits, tell_curves
from .models import cast
from .style import COLUMN, PAGE, NothingToDraw

_ABSENT = "no references in this result: analyse again with --against labels"


def reference(
    result: Result,
    name: str,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
    band: Bands = "both",
    x: Axis = "depth",
    ax: Axes | None = None,
) -> Axes:
    """Draw the similarity of each layer to a reference over relative depth.

    With the labels it says at which depth class information arises. Lines, bands and the grey of chance are those
    of raw curves in `curves`.

    Args:
        result: what was measured.
        name: of the reference, such as `labels`.
        models: the models and groups to draw; see `curves`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.
        band: `both`, `pointwise`, `simultaneous` or `none`.
        x: `depth`, relative, or `block`, the number of the layer.
        ax: where to draw; a new figure of one column's width if not given.

    Raises:
        ResultError: no such model, readout, index or reference.
    """
    lines = cast(result, models, tokens)
    label = captions.same_everywhere(lines, index, tokens)
    for line in lines:
        if not line.result.references:
            raise NothingToDraw(_ABSENT)
        if name not in line.result.references:
            known = known_names(name, line.result.references)
            raise ResultError(f"no reference {name!r} in this result: {known}")
    drawn = [
        curve_of(line, partial(line.result.against, reference=name, tokens=tokens, index=index))
        .within(band)
        .along(x)
        for line in lines
    ]

    def draw(ax: Axes) -> None:
        chance = Chance.of(lines, name, tokens=tokens, index=index, x=x)
        artists, grey = draw_curves(ax, lines, drawn, limits(drawn), chance, x)
        ax.set_ylabel(f"{label.partition(' (')[0]}($l$, {name})")
        outlined = captions.outlined([curve.each for curve in drawn])
        tell_curves(ax, artists, lines, index, drawn, [outlined, grey])

    return on(draw, ax)


def against(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
) -> Figure:
    """Draw the similarity of each layer to the references, a panel for each; see `reference`.

    Args:
        result: what was measured.
        models: the models and groups to draw; see `curves`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.

    Raises:
        ResultError: no such model, readout or index; no references in this result.
    """
    if not result.references:
        raise NothingToDraw(_ABSENT)

    def panel(name: str, ax: Axes) -> Axes:
        return reference(result, name, models=models, tokens=tokens, index=index, ax=ax)

    draws = [partial(panel, name) for name in result.references]
    return grid(draws, PAGE if len(draws) > 1 else COLUMN, square=[False] * len(draws))
