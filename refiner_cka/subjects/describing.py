"""What a model's layers are, and the shapes of their outputs, without weights or network."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..errors import ModelError
from .failing import why_it_fails
from .families import family_of
from .hooks import first_outputs
from .provenance import seeded
from .readout import tensor_of
from .spec import Size, parse


def describe(
    text: str, *, layers: str = "block", image_size: Size | None = None
) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """Return `(path, class name, output shape)` of each layer of one `--model`, weights ignored.

    A timm model is built and run on the meta device: no numbers, no memory, no network. One's own
    factory is called as it is. Shapes are without the batch axis; `None` for a layer that is not
    called or returns no tensor.

    Raises:
        ModelError: an unknown model, or one that does not run on an image of its size.
        LayerError: a pattern that matches nothing.
    """
    spec = replace(parse(text)[0], weights="random")
    family = family_of(spec.name)
    with seeded(0), torch.device(family.describes_on):
        subject, _ = family.make(spec, layers, image_size)
        image = torch.zeros(1, *subject.preprocessing.input_size)
    module = subject.module.eval()

    def shape_of(output: object) -> tuple[int, ...] | None:
        found = tensor_of(output, images=1)
        return None if found is None else tuple(found.shape[1:])

    try:
        with torch.no_grad():
            calls, _ = first_outputs(module, subject.layers, lambda: module(image), shape_of)
    except Exception as error:
        # A forward pass on an image that does not suit may raise anything.
        size = " x ".join(map(str, image.shape[1:]))
        raise ModelError(
            f"{text} does not run on an image of {size}: {why_it_fails(module, error)}"
        ) from error
    return [
        (name, type(module.get_submodule(name)).__name__, calls.get(name, [None])[0])
        for name in subject.layers
    ]
