"""Similarity of each layer to what is no model: the labels, the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from ..results.result import Result
from . import captions
from .bands import Chance, curve_of
from .labels import EndLabels
from .lines import HEIGHT, draw_curves, labels, limits
from .style import COLUMN, PAGE, NothingToDraw, checked_names, new_figure, palette, paper


def against(
    result: Result,
    *,
    models: Sequence[str] | None = None,
    tokens: str | None = None,
    index: str = "cka",
) -> Figure:
    """Draw the similarity of each layer to the references over relative depth, a panel for each of them.

    With the labels it says at which depth class information arises. Lines, bands and the grey of chance are those
    of raw curves in `curves`.

    Args:
        result: what was measured.
        models: the models and groups to draw; see `curves`.
        tokens: readout; the first of the run if none is named.
        index: one of the similarity indices of the result.

    Raises:
        ResultError: no such model, readout or index; no references in this result.
    """
    if not result.references:
        raise NothingToDraw("no references in this result: analyse again with --against labels")
    names = checked_names(result, models, tokens)
    columns = min(2, len(result.references))
    rows = -(-len(result.references) // columns)
    looks, remarks = palette(result, names), dict[str, None]()
    with paper():
        figure = new_figure(PAGE if columns == 2 else COLUMN, HEIGHT * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(result.references) :]:
            ax.set_axis_off()
        for place, (ax, reference) in enumerate(zip(axes, result.references, strict=False)):
            ask = partial(result.against, reference=reference, tokens=tokens, index=index)
            drawn = [curve_of(result, name, ask) for name in names]
            chance = _chance(result, names, reference, tokens, index)
            lines, grey = draw_curves(ax, drawn, looks, limits(drawn), chance)
            ax.set_ylabel(f"{captions.named(result, index)}($l$, {reference})")
            estimates = [curve.each for curve in drawn]
            remarks |= dict.fromkeys([captions.outlined(estimates), grey])
            if place % columns == columns - 1 or reference == result.references[-1]:
                EndLabels(ax, lines, labels(names, estimates, 18))
        rests = captions.of_similarity(result, index, drawn)
        captions.write(axes[0], [rests, captions.joined(*remarks)])
    return figure


def _chance(
    result: Result, names: Sequence[str], reference: str, tokens: str | None, index: str
) -> Chance | None:
    return Chance.around(
        result.null(model, reference, tokens=tokens, index=index)
        for name in names
        for model in result.trainings(name)
    )
