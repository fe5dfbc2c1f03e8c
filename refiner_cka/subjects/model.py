"""A model ready to be measured: a subject, and what a few forward passes showed of it, as one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import LayerError
from .locality import Reading
from .readout import Readout, TokenLayout
from .subject import Subject

Readings = Mapping[str, Reading | LayerError | None]
"""Of each layer how it is read, or why that cannot be said; `None`: it is one patch."""

Watch = Callable[[Sequence[str]], Mapping[str, Sequence[torch.Tensor | None]]]


@dataclass(frozen=True)
class Row:
    """A layer under one readout: a row of the similarity matrix.

    Attributes:
        position: in the matrix.
        path: of the layer's module.
        readout: what is read of its output.
        layout: how its tokens lie, where that matters.
    """

    position: int
    path: str
    readout: Readout
    layout: TokenLayout | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """One model of a prepared analysis.

    Attributes:
        subject: the network, its name, its preprocessing.
        number: its place among the models, from 0.
        shape: channels, height and width of its images.
        rows: its rows of the matrix.
        outputs: what each layer that can be read returns for the images of the probe, on the meta device.
        places: of each layer which tensor of its output stands for it; see `readout.place_of`.
        readings: how each layer's tokens are read; empty if none are.
        classes: the logit of each class of the data (-1: none), or `None` where classes are not known.
        logits_place: which tensor of the model's output holds the logits.
        whole: why a batch must go through it whole; empty where it may go in chunks.
        faint: which scales of its layers are nearly 0, in words; empty if none are.
        watch: from modules' paths to what they return in a pass over `probe_images`, on the meta device.
        probe_images: images of that pass.
    """

    subject: Subject
    number: int
    shape: tuple[int, ...]
    rows: tuple[Row, ...]
    outputs: Mapping[str, torch.Tensor]
    places: Mapping[str, int]
    readings: Readings
    classes: tuple[int, ...] | None
    logits_place: int
    whole: str
    faint: str
    watch: Watch
    probe_images: int

    @property
    def name(self) -> str:
        """How results call it."""
        return self.subject.name

    def rows_by_layer(self) -> dict[str, list[Row]]:
        """Return the rows of each layer, in the order of the layers."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.path, []).append(row)
        return found


def lines_left_out(model: str, reasons: Mapping[str, str], of: str = "") -> list[str]:
    """Return one line for a model's layers that are left out, `of` something or altogether; none without layers.

    `reasons` are words that follow the layer's path; those of the first are said.
    """
    if not reasons:
        return []
    first, *others = reasons
    shown = ", ".join(others if len(others) <= 4 else [*others[:2], "...", others[-1]])
    many = f"{len(others)} more: " if len(others) > 4 else ""
    also = f", and so for {many}{shown}" if others else ""
    return [f"{model}: layer {first} {reasons[first]}{also}; left out{of and f' of {of}'}"]
