"""Panels of lines over relative depth, as plotly draws them: bands, thin lines, and what each point says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..plots.bands import Chance, Curve, is_bounded, with_spread
from ..results.estimate import Estimate
from .looks import Look
from .texts import between, broken, lines, number, plain, rounded, with_error

Spec = dict[str, Any]
"""A figure in plotly's JSON. A colour is two, for a light and a dark ground, with a bar between."""

GREY = "#d8d8d8|#3a3d44"
"""Of the band of chance."""

_OPACITY = 0.2
"""Of a band for each layer, where there are few."""

_MARKED = 16
"""About how many layers of a deep model carry a marker; all of them say what they are."""


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        name: of the model or group, with the kind of its maps where that matters.
        look: its colour and marker.
        paths: of its layers.
        curve: its values and bands.
        chance: of each layer between what unrelated images would lie; nothing where it is not known.
    """

    name: str
    look: Look
    paths: Sequence[str]
    curve: Curve
    chance: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what is drawn upwards.
        spec: the figure.
        shape: `line` or `square`, for which the page leaves room.
        remark: what one has to know to read it.
        views: what a reader can choose to see of it.
    """

    title: str
    spec: Spec
    shape: str = "line"
    remark: str = ""
    views: tuple[str, ...] = ()


def panel(
    title: str,
    drawn: Sequence[Line],
    *,
    remark: str = "",
    span: tuple[float, float] | None = None,
    from_zero: bool = False,
    chance: Chance | None = None,
) -> Panel:
    """Return a panel of lines.

    Args:
        title: what they are.
        drawn: the lines.
        remark: what one has to know to read it.
        span: limits of the vertical axis; what the lines need by default.
        from_zero: whether the vertical axis begins at 0, where it has no `span`.
        chance: behind them, where unrelated images would lie.
    """
    data = [_grey(chance)] if chance is not None else []
    for line in drawn:
        data += _traces(title, line, len(drawn))
    vertical: Spec = {"rangemode": "tozero" if from_zero else "normal"}
    if span is not None:
        low = min(span[0], float(chance.lower.min())) if chance is not None else span[0]
        vertical["range"] = [low, span[1]]
    horizontal = {
        "title": {"text": "Relative depth (first to last layer)"},
        "range": [-0.03, 1.03],
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
    }
    return Panel(
        title, {"data": data, "layout": {"xaxis": horizontal, "yaxis": vertical}}, remark=remark
    )


def _traces(title: str, line: Line, of: int) -> Iterator[Spec]:
    """Yield a line with what surrounds it, from back to front."""
    curve, colour = line.curve, f"{line.look.light}|{line.look.dark}"
    # Many bands on one another would hide the lines.
    opacity = _OPACITY * min(1.0, 4 / of)
    if curve.whole is not None:
        yield from _band(curve.whole, line.name, colour, opacity / 2)
    yield from _band(with_spread(curve.each), line.name, colour, opacity)
    for thin in curve.thin:
        path = {"x": rounded(thin.depth), "y": rounded(thin.values)}
        look = {"color": colour, "width": 0.6}
        yield {**_trace(line.name, "lines"), **path, "line": look, "hoverinfo": "skip"}
    dash = "solid" if curve.each.resolved else "dash"
    yield {
        **_trace(line.name, "lines+markers"),
        "x": rounded(curve.each.depth),
        "y": rounded(curve.each.values),
        "line": {"color": colour, "width": 1.8, "dash": dash},
        "marker": {
            "symbol": line.look.symbol,
            "size": 6,
            "color": colour,
            "maxdisplayed": _MARKED,
        },
        "hovertext": [_told(title, line, place) for place in range(len(curve.each.values))],
        "hoverinfo": "text",
    }


def _trace(name: str, mode: str) -> Spec:
    """Return what all traces of one line have in common: by `meta` the page's legend finds them."""
    return {"type": "scatter", "mode": mode, "meta": plain(name), "showlegend": False}


def _band(estimate: Estimate, name: str, colour: str, opacity: float) -> Iterator[Spec]:
    """Yield a band, outlined where it is over trainings; nothing where there is none."""
    runs = [run for run in _runs(is_bounded(estimate)) if len(run) > 1]
    if not runs:
        return
    # Polygons one after the other, with a gap between them.
    ends = [
        (
            [*estimate.depth[run], *estimate.depth[run][::-1], np.nan],
            [*estimate.upper[run], *estimate.lower[run][::-1], np.nan],
        )
        for run in runs
    ]
    x, y = (
        np.array([*itertools.chain.from_iterable(part)])[:-1] for part in zip(*ends, strict=True)
    )
    band = {**_trace(name, "lines"), "x": rounded(x), "y": rounded(y), "hoverinfo": "skip"}
    over_trainings = estimate.over == "trainings"
    yield {
        **band,
        "fill": "toself",
        "fillcolor": colour,
        "line": {"color": colour, "width": 0},
        "opacity": opacity / 3 if over_trainings else opacity,
    }
    if over_trainings:
        yield {**band, "line": {"color": colour, "width": 1, "dash": "dot"}}


def _runs(bounded: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Return the positions of each run of places with a band."""
    places = np.flatnonzero(bounded)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


def _grey(chance: Chance) -> Spec:
    return {
        **_trace("", "lines"),
        "x": rounded(np.concatenate([chance.depth, chance.depth[::-1]])),
        "y": rounded(np.concatenate([chance.upper, chance.lower[::-1]])),
        "fill": "toself",
        "fillcolor": GREY,
        "line": {"color": GREY, "width": 0},
        "hoverinfo": "skip",
    }


def _told(title: str, line: Line, place: int) -> str:
    """Return what a point says when it is pointed at."""
    at = line.curve.each.at(place)
    whole = line.curve.whole.at(place) if line.curve.whole is not None else None
    over = f" over {at.trainings} trainings" if at.over == "trainings" else ""
    spread = number(at.spread) if over and at.spread is not None else ""
    return lines(
        f"<b>{broken(line.name)}</b>",
        f"{broken(line.paths[place])}, depth {float(at.depth):.2f}",
        f"{plain(title)}: {with_error(at.values, at.se)}{over}",
        _labelled("95 %", between(at.lower, at.upper)),
        _labelled("95 % for the whole curve", between(whole.lower, whole.upper) if whole else ""),
        _labelled("SD over trainings", spread),
        _labelled("unrelated images", line.chance[place] if line.chance else ""),
        "" if at.resolved else "unresolved: read the raw curve",
    )


def _labelled(label: str, text: str) -> str:
    return text and f"{label}: {text}"
