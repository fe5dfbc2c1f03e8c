"""How many kernels a GPU starts for an analysis and what is copied to it, counted on fake `cuda` tensors.

A GPU takes about as long to be told of a kernel, 5 to 10 microseconds, as for all that a small one does: where
kernels are many and small, their number is the time. What the counts mean is in docs/performance.md.

    python -m pytest -rP tests/analysis/test_launches.py    # prints what was counted
"""

import numpy as np
import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import refiner_cka as rc
from refiner_cka.measures import hsic, smoothing
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.measures.tally import marked
from refiner_cka.measures.tokens import Tokens
from refiner_cka.sums import FOLDS
from tests.analysis import fake_cuda
from tests.analysis.fake_cuda import CUDA, Dispatched

GRAM, FURTHER_BLOCK = {64: 56, 256: 59}, 55
"""Kernels of the Gram matrix of a layer whose batch, of so many images, fits one block of 256 MB, and at most of
each block more. In a large batch a quarter of the product is left out, which takes three more."""

DEFAULT_MEASURES, ALL_MEASURES = 153, 325
"""Kernels of the token measures of a layer, where none of its images is one for effective rank."""

GRAM_TRAFFIC, DEFAULT_TRAFFIC, ALL_TRAFFIC = 12, 30, 58.5
"""How often the features of a layer, in float32, are read or written at most, if no cache holds them."""

DEFAULT_PUTS = 5
"""Kernels that keep a layer's values of the default measures, one for each."""

PAIRS = 134
"""Kernels of U-centring and of the products of all pairs of layers, once in a batch. 40 of them add the transpose
of each fold's products, one fold at a time, to save memory."""

STAGED = 1 << 16
"""Bytes of ordinary memory that are copied to a GPU without waiting for it (CUDA programming guide)."""


@pytest.fixture
def fake():
    """Fake tensors, and no gradients, as in a session."""
    with torch.no_grad(), FakeTensorMode():
        yield


def counted(run):
    """The number of kernels that a call starts, and the bytes that they read and write."""
    with Dispatched() as seen:
        run()
    assert not seen.copies
    return seen.launches.total(), seen.traffic


def gram(features):
    images = len(features)
    out, scales = torch.empty(images, images, device=CUDA), torch.empty(images, device=CUDA)
    hsic.gram([features.flatten(1)], out, scales, hsic.Workspace())


def token_measures(features, names):
    tokens = Tokens([features[:, 1:]], (14, 14), 0, features[:, 0])
    for name in smoothing.choose(names):
        marked(smoothing.MEASURES[name].function(tokens), tokens.finite)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("images", [64, 256])
@pytest.mark.parametrize(
    ("features", "blocks"),
    [
        ((197, 384), (1, 1)),  # a block of DeiT-S
        ((197, 192), (1, 1)),  # of DeiT-Ti
        ((197, 768), (1, 1)),  # the MLP of DeiT-Ti
        ((256, 56, 56), (1, 4)),  # the first stage of ResNet-50
    ],
)
def test_the_gram_matrix_of_a_layer(images, features, blocks):
    layer = torch.empty(images, *features, device=CUDA)
    count, traffic = counted(lambda: gram(layer))
    more = blocks[images == 256] - 1
    print(
        f"Gram of {images} x {features}: {count} kernels, {traffic / layer.nbytes:.1f} times the layer"
    )
    assert GRAM[images] <= count <= GRAM[images] + more * FURTHER_BLOCK
    assert traffic <= GRAM_TRAFFIC * layer.nbytes


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("images", [64, 256])
@pytest.mark.parametrize(
    ("names", "kernels", "times"),
    [(None, DEFAULT_MEASURES, DEFAULT_TRAFFIC), ("all", ALL_MEASURES, ALL_TRAFFIC)],
)
def test_the_token_measures_of_a_layer(images, names, kernels, times):
    """As many for any batch whose layer fits one block."""
    layer = torch.empty(images, 197, 384, device=CUDA)
    count, traffic = counted(lambda: token_measures(layer, names))
    which = names or "default"
    print(
        f"{which} measures, {images} images: {count} kernels, {traffic / layer.nbytes:.1f} times the layer"
    )
    assert count == kernels
    assert traffic <= times * layer.nbytes


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("images", [64, 256])
@pytest.mark.parametrize("layers", [12, 86])
def test_the_pairs_at_the_end_of_a_batch(images, layers):
    """As many for any number of layers: all are centred at once."""
    grams = torch.empty(layers, images, images, device=CUDA)
    scales = torch.empty(layers, images, device=CUDA)
    folded = Folded(np.arange(images) % FOLDS, CUDA)
    count, traffic = counted(lambda: batch_sums(INDICES["cka"], grams, scales, folded))
    print(f"pairs of {layers} layers, {images} images: {count} kernels, {traffic / 1e6:.0f} MB")
    assert count == PAIRS


@pytest.mark.parametrize("images", [64, 256])
@pytest.mark.parametrize(
    ("names", "measures", "once"),
    [("none", 0, PAIRS + 26), (None, DEFAULT_MEASURES + DEFAULT_PUTS, PAIRS + 82)],
)
def test_a_batch_of_deit_s_in_the_loop(images, names, measures, once):
    """What comes to the model's own kernels is what the parts above add up to, and a little once in a batch.

    Nothing is copied from the device (`Dispatched`), and to it only the pictures, from page-locked memory, and
    which image is in which fold, few enough bytes that copying them does not wait.
    """
    subject = rc.Subject.from_module(timm.create_model("deit_small_patch16_224"))
    # The first `FOLDS` batches of a run may have an image for effective rank, at which a GPU waits.
    pictures = torch.zeros((FOLDS + 1) * images, 8, 8, 3, dtype=torch.uint8)
    analysis = rc.prepare(
        subject, pictures, batch_size=images, workers=0, device="cpu", smoothing=names
    )
    with fake_cuda.measurement(analysis) as measurement:
        with Dispatched() as bare:
            analysis.models[0].subject.module(torch.empty(images, 3, 224, 224, device=CUDA))
        batch = fake_cuda.batch(analysis, FOLDS)
        with Dispatched() as seen:
            measurement.add(batch)
    of_model, in_all = bare.launches.total(), seen.launches.total()
    print(
        f"DeiT-S, {images} images: {of_model} kernels bare, which move {bare.traffic / 1e9:.1f} GB"
    )
    print(
        f"with measures {names or 'default'}: {in_all} kernels; copied to the device: {seen.copies}"
    )
    assert in_all - of_model - 12 * (GRAM[images] + measures) == once
    pixels = 3 * 224 * 224 * images
    assert sorted(seen.copies)[-1] == pixels
    assert sum(seen.copies) - pixels <= STAGED
