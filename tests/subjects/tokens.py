"""Tiny networks, their outputs and how they are read, for the tests of layouts.

Tolerances: a cosine of float32 tokens carries a few eps (1.2e-7) for each of up to 3,136 tokens' sums, whose
errors add up as a random walk: 1e-5. A Dirichlet energy is a ratio of sums of so many squares: as much,
relatively.
"""

import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects.hooks import first_outputs
from refiner_cka.subjects.layouts import readings_of
from refiner_cka.subjects.readout import tensor_of
from refiner_cka.subjects.timm_attributes import layout as layout_of

TOLERANCE = 1e-5


def seeded(factory, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory(*args, **kwargs).eval()


SMALL_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def hugging_face(kind, config, **kwargs):
    transformers = pytest.importorskip("transformers")
    return seeded(getattr(transformers, kind), getattr(transformers, config)(**kwargs))


def images(count, *shape, seed=1):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def cosine(tokens):
    """Mean cosine of pairs of different tokens, from all pairs, `(images,)`."""
    x = tokens.double()
    x = x / x.norm(dim=2, keepdim=True)
    pairs = x @ x.mT
    count = x.shape[1]
    return (pairs.sum((1, 2)) - count) / (count * (count - 1))


def energy(grid):
    """Dirichlet energy of maps `(images, channels, rows, columns)`."""
    x = grid.double()
    edges = x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))
    return edges / x.square().sum((1, 2, 3))


def subject(module, layers="block", size=32, **kwargs):
    preprocessing = Preprocessing(input_size=(3, size, size))
    return rc.Subject.from_module(
        module, layers, name="model", preprocessing=preprocessing, **kwargs
    )


def run(model, data, **kwargs):
    kwargs.setdefault("smoothing", "patch_cosine,dirichlet_energy")
    return rc.analyze(model, data, workers=0, device="cpu", **kwargs)


def outputs_of(module, paths, data):
    """What modules return, by path; those whose first axis is not the images, or of several calls, left out."""

    def kept(output):
        tensor = tensor_of(output)
        return None if tensor is None else tensor.clone()

    with torch.inference_mode():
        calls, _ = first_outputs(module, paths, lambda: module(data), kept)
    return {
        path: found[0]
        for path, found in calls.items()
        if len(found) == 1 and found[0] is not None and len(found[0]) == len(data)
    }


def readings(module, paths, size, known=None, on_grid=True):
    outputs = outputs_of(module, paths, images(3, 3, size, size))
    known = layout_of(module) if known is None else known
    with torch.inference_mode():
        return readings_of(module, outputs, known, module, (3, size, size), on_grid=on_grid)


class Views(nn.Module):
    """Features seen as asked, after a convolution with as many channels as positions in a row."""

    def __init__(self, view, channels=8, part=nn.Identity):
        super().__init__()
        self.embed = nn.Conv2d(3, channels, 4, 4)
        self.norm = part()
        self.view = view

    def forward(self, x):
        x = self.embed(x)
        self.norm(self.view(x))
        return x.mean((2, 3))
