"""References: rows of the matrix that are of no model, such as the labels and the pixels. One table.

At which depth does class information arise, and how much do two models have in common beyond it? A row that every
layer is compared with, on the same images, answers both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import DataError, LayerError
from ..images import Batch, ImageSource, Preprocessing
from ..sums import REFERENCE, Layer

PIXELS = Preprocessing((3, 64, 64), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0, crop_mode="squash")
"""How pictures become pixels to compare with: whole, in colour, resized to 64 x 64 whatever their sides are."""


@dataclass(frozen=True)
class Reference:
    """A reference.

    Attributes:
        about: what it is, JSON types by name, for a source of images.
        inputs: how it needs pictures to be prepared, if it needs them at all.
        features: from a batch to features, `(n, p)` on the CPU.
        missing: why a source has none, in words that follow its name; empty if it has.
    """

    about: Callable[[ImageSource], Mapping[str, Any]]
    inputs: Preprocessing | None
    features: Callable[[Batch], torch.Tensor]
    missing: Callable[[ImageSource], str] = lambda _source: ""


def _classes(batch: Batch) -> torch.Tensor:
    """Return the labels, one-hot."""
    assert batch.labels is not None  # a source without labels is refused
    return torch.nn.functional.one_hot(batch.labels).to(torch.float32)


def _pixels(batch: Batch) -> torch.Tensor:
    """Return the pixels in a row; of floating inputs, which are fed as they are, all values."""
    inputs = batch.inputs.get(PIXELS, next(iter(batch.inputs.values())))
    return inputs.flatten(1).to(torch.float32)


def _about_pixels(source: ImageSource) -> Mapping[str, Any]:
    if source.input_shape is not None:
        return {"inputs": "floating, as they are"}
    stated = asdict(PIXELS)
    return {name: stated[name] for name in ("input_size", "interpolation", "crop_pct", "crop_mode")}


REFERENCES: dict[str, Reference] = {
    "labels": Reference(
        about=lambda source: {"features": "one-hot", "classes": len(source.classes or ())},
        inputs=None,
        features=_classes,
        missing=lambda source: "" if source.labels is not None else "has no labels",
    ),
    "pixels": Reference(about=_about_pixels, inputs=PIXELS, features=_pixels),
}
"""Name -> reference."""


def choose(names: str | None, source: ImageSource) -> dict[str, Reference]:
    """Return the references that `--against` names, with commas.

    Raises:
        LayerError: an unknown name, or one that comes twice.
        DataError: the images have none.
    """
    wanted = [] if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in REFERENCES:
            raise LayerError(f"unknown --against {name!r}; choose from {', '.join(REFERENCES)}")
        if wanted.count(name) > 1:
            raise LayerError(f"--against names {name} twice")
        if missing := REFERENCES[name].missing(source):
            raise DataError(f"--against {name}: {source.description} {missing}; leave it out")
    return {name: REFERENCES[name] for name in wanted}


def row_of(name: str) -> Layer:
    """Return the row of a reference."""
    return Layer(name, name, REFERENCE, 0, 1.0)
