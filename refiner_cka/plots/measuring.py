"""Texts measured once: matplotlib measures each about ten times for two files, which is a fifth of the time."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.text import Text

from .patching import ALONE, replaced

_MEASURE = "_get_layout"
"""What matplotlib's texts call for their size, and where their lines are in it: from where they stand."""

_PRIVATE = (_MEASURE, "_get_multialignment", "_linespacing")


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Measure texts that look the same once inside the block, in which all are drawn with the same settings.

    As often as ever where a matplotlib to come keeps them otherwise.
    """
    with ALONE, contextlib.ExitStack() as stack:
        has_all = all(hasattr(Text(), name) for name in _PRIVATE)
        if has_all and not hasattr(measure := getattr(Text, _MEASURE), "known"):
            stack.enter_context(replaced(Text, _MEASURE, _remembering(measure)))
        yield


def _remembering(measure: Any) -> Any:
    """Return `measure` that is asked once for each look."""
    known: dict[Hashable, Any] = {}

    def measured(text: Any, renderer: RendererBase) -> Any:
        if text.get_wrap():  # lines end where the figure does
            return measure(text, renderer)
        look = _look(text, renderer)
        if look not in known:
            known[look] = measure(text, renderer)
        return known[look]

    # So that a block inside of another is known.
    vars(measured)["known"] = known
    return measured


def _look(text: Any, renderer: RendererBase) -> Hashable:
    return (
        type(renderer),
        text.get_figure(root=True).dpi,
        text.get_text(),
        # By its value: a font can be changed.
        hash(text.get_fontproperties()),
        text.get_horizontalalignment(),
        text.get_verticalalignment(),
        text._get_multialignment(),
        text.get_rotation(),
        text.get_rotation_mode(),
        text._linespacing,
        text.get_parse_math(),
        text.get_usetex(),
    )
