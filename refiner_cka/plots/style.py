"""How figures look: sizes, fonts and colours for print, and saving them; no global setting is touched."""

from __future__ import annotations

import contextlib
import io
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError
from ..results.atomic import write_whole
from ..results.result import Result

COLUMN, PAGE = 3.25, 6.75
"""Widths of a figure in inches: one column of a two-column paper, and the whole page."""

SMALL = 7.0
"""Points, of the smallest text in a figure."""

PER_INCH = 19.5
"""Characters of the smallest text in an inch, on average."""

GREY = "0.35"
"""Notes, and the zero line."""

COLOURS = (
    "#4f24c3",
    "#eeb51e",
    "#3ca276",
    "#411d47",
    "#97a7d0",
    "#b93406",
    "#b7b962",
    "#0f2a02",
    "#813da0",
    "#5c5046",
)
"""Searched for: far apart in CIELAB also with simulated protanopia, deuteranopia and tritanopia (Machado et
al. 2009), and the first four far apart in lightness for grey print. Markers tell the rest apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "*")

SEQUENTIAL = ("viridis_r", "magma_r", "cividis_r")
"""Colour maps for the states of one training, light to dark; one for each training in a figure."""

STATES = 3
"""So many states of one training are drawn as its trajectory."""


class NothingToDraw(ResultError):
    """A result holds nothing that a plot shows."""


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Apply the style to what is drawn inside the block, and to nothing else."""
    with mpl.rc_context(
        {
            "font.size": SMALL + 1,
            "axes.labelsize": SMALL + 1,
            "axes.titlesize": SMALL,
            "axes.linewidth": 0.6,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "lines.linewidth": 1.2,
            "lines.markersize": 3.2,
            "hatch.linewidth": 0.5,
            "figure.constrained_layout.w_pad": 0.03,
            "figure.constrained_layout.h_pad": 0.03,
            # TrueType: text in the PDF stays text, which publishers ask for.
            "pdf.fonttype": 42,
        }
    ):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure in inches that pyplot knows nothing of, so nobody has to close it."""
    return Figure(figsize=(width, height), layout="constrained")


def series(number: int) -> dict[str, Any]:
    """Return colour and marker of line `number`; beyond ten, other pairs of the two."""
    shift = number // len(COLOURS)
    marker = MARKERS[(number + shift) % len(MARKERS)]
    return {"color": COLOURS[number % len(COLOURS)], "marker": marker}


def palette(result: Result, models: Sequence[str]) -> list[dict[str, Any]]:
    """Return colour and marker of the line of each model or group, the same in all figures of a result.

    Three or more states of one network along one training share a marker and go from light to dark, the earliest
    first. The trainings of a group have its colour and markers of their own. All others get a colour and a marker.

    Args:
        result: whose provenance says which models are states of one training, and which form groups.
        models: a model or group for each line; one that comes again has the same colour and another marker,
            hollow.
    """
    looks = {name: series(number) for number, name in enumerate(entries(result, result.models))}
    for group, trainings in result.groups.items():
        start = MARKERS.index(looks[group]["marker"])
        for number, model in enumerate(trainings, start + 1):
            looks[model] = looks[group] | {"marker": MARKERS[number % len(MARKERS)]}
    for family, states in enumerate(_trajectories(result)):
        shades = mpl.colormaps[SEQUENTIAL[family % len(SEQUENTIAL)]]
        for share, model in zip(np.linspace(0.1, 1.0, len(states)), states, strict=True):
            looks[model] = {"color": shades(share), "marker": MARKERS[family % len(MARKERS)]}
    found = [looks[model] for model in models]
    for number, model in enumerate(models):
        if model in models[:number]:
            following = MARKERS[(MARKERS.index(looks[model]["marker"]) + 1) % len(MARKERS)]
            found[number] = looks[model] | {"marker": following, "markerfacecolor": "white"}
    return found


def _trajectories(result: Result) -> list[list[str]]:
    """Return the models that are states of one training, earliest first, for each training with enough of them."""
    moments = result.provenance.get("training", {})
    trainings: dict[str, dict[str, tuple[int, ...]]] = {}
    for model in result.provenance.get("models", []):
        if moment := moments.get(model["name"]):
            # What two states of one network have in common.
            network = [
                model.get("origin", {}).get(name) for name in ("model", "arguments", "image_size")
            ]
            training = json.dumps([moment["run"], *network], sort_keys=True)
            trainings.setdefault(training, {})[model["name"]] = tuple(moment["time"])
    return [
        sorted(times, key=times.__getitem__)
        for times in trainings.values()
        if len(set(times.values())) >= STATES
    ]


def note(ax: Axes, text: str) -> None:
    """Write small remarks above the axes, broken where they are wider than these."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    lines = wrapped(text.splitlines(), ax.get_window_extent().width / figure.dpi)
    ax.set_title(lines, loc="left", fontsize=SMALL, color=GREY, parse_math=False)


def wrapped(parts: Iterable[str], width: float) -> str:
    """Return small text in lines of at most so many inches, each part on lines of its own."""
    return "\n".join(line for part in parts for line in textwrap.wrap(part, int(width * PER_INCH)))


def shortened(names: Sequence[str], limit: int) -> list[str]:
    """Return names of at most `limit` characters with their middles left out; longer if two became equal."""
    if limit >= max(map(len, names), default=0):
        return list(names)
    short = [
        name if len(name) <= limit else f"{name[: limit // 2]}…{name[-(limit - limit // 2 - 1) :]}"
        for name in names
    ]
    return short if len(set(short)) == len(set(names)) else shortened(names, limit + 4)


def plural(count: int, noun: str) -> str:
    """Return a count and its noun, `1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def save_figure(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as `stem.pdf` and `stem.png`, each whole or not at all; equal figures, equal bytes.

    Raises:
        ResultFileError: a file cannot be written.
    """
    # Without dates, versions of matplotlib or anything else that changes from run to run.
    changing = {"pdf": ("Creator", "Producer", "CreationDate"), "png": ("Software",)}
    for kind, names in changing.items():
        buffer = io.BytesIO()
        with paper():
            figure.savefig(buffer, format=kind, dpi=300, metadata=dict.fromkeys(names))
        write_whole(f"{stem}.{kind}", buffer.getvalue())
    return Path(f"{stem}.pdf"), Path(f"{stem}.png")


def entries(result: Result, models: Sequence[str]) -> list[str]:
    """Return the models with each group in the place of its trainings."""
    group_of = {each: group for group in result.groups for each in result.trainings(group)}
    return list(dict.fromkeys(group_of.get(model, model) for model in models))


def checked_names(result: Result, models: Sequence[str] | None, tokens: str | None) -> list[str]:
    """Return the models and groups to draw: those named, or all, groups in the place of their trainings.

    Raises:
        ResultError: none named; a name or readout that the result does not hold.
    """
    if models is None:
        return entries(result, checked_models(result, None, tokens))
    checked_models(result, [each for name in models for each in result.trainings(name)], tokens)
    return list(dict.fromkeys(models))


def checked_models(result: Result, models: Sequence[str] | None, tokens: str | None) -> list[str]:
    """Return the models to draw: those named, or all that have the readout, the first of the run by default.

    Raises:
        ResultError: none named; a model or readout that the result does not hold.
    """
    if models is None:
        rows = result.rows(tokens=tokens or result.tokens[0])
        return list(dict.fromkeys(result.layers[row].model for row in rows))
    if not models:
        raise ResultError("no model to draw: name at least one of " + ", ".join(result.models))
    for model in models:
        if model in result.references:
            raise ResultError(
                f"{model!r} is no model but a reference: draw it with the plot against"
            )
        result.rows(model, tokens=tokens)
    return list(dict.fromkeys(models))
