"""Token-similarity maps of one image: how alike its patches are to a chosen one, at a few depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DataError, LayerError, warn
from ..images import ImageSource, UnreadableImage, open_source
from ..measures.tokens import has_tokens
from ..options import Options
from ..results.maps import TokenMaps
from ..subjects import Subject, resolve
from ..subjects.hooks import first_outputs
from ..subjects.layers import choose_layers
from ..subjects.locality import Reading
from ..subjects.readout import patches_of, tensor_of
from . import runtime
from .preparation import read_tokens

DEPTHS = 4
"""Layers shown if none are named: the first, the last and what lies evenly between."""


def token_maps(
    model: str | Subject,
    data: Any,
    *,
    image: int = 0,
    patch: tuple[float, float] = (0.5, 0.5),
    layers: Sequence[str] | None = None,
    image_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> TokenMaps:
    """Return the cosine of every patch of an image with a chosen patch, layer by layer.

    Args:
        model: a name as in `--model`, or a `Subject`.
        data: images, as `analyze` takes them.
        image: which image, in the source's own order.
        patch: place of the chosen patch in the image, from the top and from the left, 0 to 1.
        layers: layers to show; `DEPTHS` of the model's by default.
        image_size: side of the input in pixels; the model's own by default.
        device: where to run; the best there is by default.
        seed: of untrained weights.

    Raises:
        DataError: no such image, or it cannot be read; `patch` is not within the image.
        LayerError: no such layer, or one without tokens on a grid.
    """
    Options(image_size=image_size, device=device, seed=seed)  # refuses what cannot work
    size = None if image_size is None else (image_size, image_size)
    subject = model if isinstance(model, Subject) else resolve(model, image_size=size, seed=seed)[0]
    if not all(0 <= place <= 1 for place in patch):
        raise DataError(f"the patch lies at {patch}; both numbers go from 0 to 1")
    source = open_source(data)
    if not 0 <= image < len(source.ids):
        raise DataError(f"there is no image {image}; {source.description} has {len(source.ids)}")
    named = choose_layers(subject.module, layers)[0] if layers else ()
    if line := subject.assumption(source.input_shape):
        warn(line)
    here = runtime.detect(device, "fp32")
    pixels = _pixels(source, image, subject)
    inputs = subject.preprocessing.normalize(pixels.unsqueeze(0).to(here.device))
    with here.hosting(subject.module), here.session():
        outputs, _ = first_outputs(
            subject.module, named or subject.layers, lambda: subject.module(inputs), _kept
        )
    tensors = {path: calls[0] for path, calls in outputs.items() if calls[0] is not None}
    readings: dict[str, Reading | None] = {}
    for path, reading in read_tokens(subject, tensors, inputs.shape[1:], here, "grid").items():
        if isinstance(reading, LayerError):
            raise LayerError(f"{subject.name}: layer {path} {reading}")
        readings[path] = reading if has_tokens(tensors[path], reading) else None
    shown = list(named or (path for path, reading in readings.items() if reading is not None))
    if not named and len(shown) > DEPTHS:
        shown = [shown[k] for k in np.linspace(0, len(shown) - 1, DEPTHS).round().astype(int)]
    cosines = []
    for path in shown:
        reading = readings.get(path)
        if reading is None or reading.grid is None:
            raise LayerError(f"{subject.name}: layer {path} has no tokens on a grid to show")
        cosines.append(_cosines(reading, reading.grid, tensors[path], patch))
    if not cosines:
        raise LayerError(f"{subject.name} has no layer with tokens on a grid to show")
    return TokenMaps(subject.name, tuple(shown), _picture(pixels), patch, tuple(cosines))


def _pixels(source: ImageSource, image: int, subject: Subject) -> torch.Tensor:
    """Return one image as the model's preprocessing leaves it, `(channels, height, width)`."""
    try:
        found = source.read(image)
    except UnreadableImage as error:
        raise DataError(
            f"{source.ids[image]} cannot be read: {error}; choose another image"
        ) from error
    return found if isinstance(found, torch.Tensor) else subject.preprocessing.transform()(found)


def _kept(output: Any) -> torch.Tensor | None:
    """Return a copy: in-place operations may overwrite an output."""
    tensor = tensor_of(output, images=1)
    return None if tensor is None else tensor.clone()


def _cosines(
    reading: Reading, grid: tuple[int, int], output: torch.Tensor, patch: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Return the cosine of every patch with the one at a place of the image, `(rows, columns)`."""
    tokens = patches_of(output, reading.layout)[0].double().cpu().numpy().reshape(*grid, -1)
    row, column = (
        min(int(place * side), side - 1) for place, side in zip(patch, grid, strict=True)
    )
    lengths = np.linalg.norm(tokens, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: npt.NDArray[np.float64] = (tokens @ tokens[row, column]) / (
            lengths * lengths[row, column]
        )
    return cosines


def _picture(pixels: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return `(height, width, 3)` from 0 to 1; what was normalised is stretched to that."""
    picture = pixels.permute(1, 2, 0).double().cpu().numpy()
    low, high = (picture.min(), picture.max()) if pixels.is_floating_point() else (0.0, 255.0)
    grey = picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1].repeat(3, axis=2)
    result: npt.NDArray[np.float64] = (grey - low) / ((high - low) or 1.0)
    return result
