"""Layers of real networks, and what can be asked of a drawn figure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from refiner_cka.plots.labels import EndLabels

RESNET = [f"layer{s + 1}.{block}" for s, count in enumerate((3, 4, 6, 3)) for block in range(count)]
LEAVES = [
    "patch_embed.proj",
    *(
        f"blocks.{index}.{leaf}"
        for index in range(12)
        for leaf in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2")
    ),
    "norm",
]


def figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def end_labels(ax: Axes) -> EndLabels:
    (found,) = ax.findobj(EndLabels)
    assert isinstance(found, EndLabels)
    return found


def data_lines(ax: Axes) -> list[mpl.lines.Line2D]:
    return [line for line in ax.lines if line.get_marker() != "None"]


def bands(ax: Axes) -> list[PolyCollection]:
    """All that is filled between two curves, from the lowest to the uppermost."""
    found = [each for each in ax.collections if isinstance(each, PolyCollection)]
    return sorted(found, key=lambda band: band.get_zorder())


def corners(band: PolyCollection) -> set[tuple[float, float]]:
    return {tuple(point) for path in band.get_paths() for point in path.vertices}


def caption_of(drawn: Axes | Figure) -> str:
    """The caption of a figure on one line."""
    figure = drawn if isinstance(drawn, Figure) else figure_of(drawn)
    return " ".join(figure.get_supxlabel().split())


def note_of(ax: Axes) -> str:
    """The remarks above axes on one line."""
    return " ".join(ax.get_title(loc="left").split())


def legend_of(figure: Figure) -> list[str]:
    """The names in a figure's legend, above its panels or in an empty place of their grid."""
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    (legend,) = legends
    return [text.get_text() for text in legend.get_texts()]


def text_boxes(figure: Figure, texts: Sequence[mpl.text.Text]) -> list[Bbox]:
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts]


def overlapping(boxes: Sequence[Bbox]) -> int:
    return sum(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
