"""What a model's layers are, and the shapes of their outputs, without weights or network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..errors import ModelError
from . import catalogue, factories, timm_models
from .failing import why_it_fails
from .hooks import first_outputs
from .layers import choose_layers
from .provenance import seeded
from .readout import tensor_of
from .spec import parse
from .subject import Subject

Size = tuple[int, int]


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
    with seeded(0):
        module, input_size, chosen, device = _build(text, layers, image_size)

    def shape_of(output: object) -> tuple[int, ...] | None:
        found = tensor_of(output, images=1)
        return None if found is None else tuple(found.shape[1:])

    module.eval()
    image = torch.zeros(1, *input_size, device=device)
    try:
        with torch.no_grad():
            calls, _ = first_outputs(module, chosen, lambda: module(image), shape_of)
    except Exception as error:
        # A forward pass on an image that does not suit may raise anything.
        size = " x ".join(map(str, input_size))
        raise ModelError(
            f"{text} does not run on an image of {size}: {why_it_fails(module, error)}"
        ) from error
    return [
        (name, type(module.get_submodule(name)).__name__, calls.get(name, [None])[0])
        for name in chosen
    ]


def _build(
    text: str, layers: str, image_size: Size | None
) -> tuple[nn.Module, tuple[int, int, int], tuple[str, ...], str]:
    """Return the network, its `(channels, height, width)`, the layers and the device it is on."""
    spec = replace(parse(text)[0], weights="random")
    if catalogue.is_factory(spec.name):
        made = factories.call(spec.name, spec.arguments)
        subject = made if isinstance(made, Subject) else Subject.from_module(made, layers)
        channels, height, width = subject.preprocessing.input_size
        return subject.module, (channels, *(image_size or (height, width))), subject.layers, "cpu"
    with torch.device("meta"):
        built = timm_models.build(spec, image_size)
    input_size = timm_models.preprocessing(built.module, built.image_size).input_size
    return built.module, input_size, choose_layers(built.module, layers)[0], "meta"
