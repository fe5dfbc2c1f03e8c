"""The plain function `cka(x, y)`."""

import math

import numpy as np
import pytest
import torch

import refiner_cka as rc
from refiner_cka.measures import hsic
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.sums import FOLDS, cosine
from tests import float64


def test_agrees_with_the_formula():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 30))
    y = x @ rng.standard_normal((30, 20)) + rng.standard_normal((50, 20))
    assert rc.cka(x, y) == pytest.approx(float64.minibatch_cka([x @ x.T], [y @ y.T]), abs=1e-12)


def test_is_one_under_rotation_scale_and_shift():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 12))
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    assert rc.cka(x, 3 * x @ rotation + 7) == pytest.approx(1, abs=1e-12)


def test_is_unbiased_for_unrelated_features():
    """Biased CKA gives 0.96 here. Each estimate scatters by about 0.03, the mean of 40 by 0.005."""
    rng = np.random.default_rng(2)
    values = [
        rc.cka(rng.standard_normal((32, 768)), rng.standard_normal((32, 768))) for _ in range(40)
    ]
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0 < max(values)


def test_takes_tensors_integers_and_further_axes():
    x = torch.arange(5 * 2 * 3).reshape(5, 2, 3) ** 2
    assert rc.cka(x, x.numpy().reshape(5, 6) * 2) == pytest.approx(1)


def test_constant_features_are_nan():
    assert math.isnan(rc.cka(np.ones((8, 3)), np.random.default_rng(0).standard_normal((8, 3))))


@pytest.mark.parametrize(
    ("rows", "message"),
    [((5, 6), "5 and 6 rows"), ((3, 3), "at least 4 rows")],
)
def test_refuses_what_has_no_estimate(rows, message):
    with pytest.raises(rc.DataError, match=message):
        rc.cka(np.ones((rows[0], 2)), np.ones((rows[1], 2)))


@pytest.mark.parametrize("n", [4, 5, 9, 32, 64])
@pytest.mark.parametrize("p", [1, 3, 50, 3000])
def test_equal_features_give_exactly_one(n, p):
    x = np.random.default_rng(n * p).standard_normal((n, p))
    for value in (x, x.astype(np.float32), 1e200 * x, 1e-200 * x, x + 1e6):
        assert rc.cka(value, value.copy()) == 1
    assert rc.cka(torch.from_numpy(x), torch.from_numpy(x)) == 1


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-100, 1e100, 1e200, 1e307])
def test_float64_features_of_any_size(scale):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20, 12))
    y = x @ rng.standard_normal((12, 9)) + rng.standard_normal((20, 9))
    # Denormal numbers hold fewer digits; the truth is that of what they hold.
    held = (x * scale) / scale
    assert rc.cka(x * scale, y) == pytest.approx(rc.cka(held, y), abs=1e-12)
    assert rc.cka(y * 1e200, x * scale) == pytest.approx(rc.cka(y, held), abs=1e-12)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((8, 3)) + 1j, "complex"),
        (torch.ones(8, 3, dtype=torch.complex64), "complex"),
        (np.full((8, 3), "a"), "arrays of numbers, got one of <U1"),
        (np.full((8, 3), None), "arrays of numbers, got one of object"),
        ([[1.0, 2.0], [3.0]], "arrays of numbers; this is none"),
        (np.ones((8, 0)), r"shape \(8, 0\) holds no features"),
        ([], r"shape \(0,\) holds no features"),
        (3.0, "a single number"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused_in_one_line(value, message):
    for arguments in ((value, np.ones((8, 3))), (np.ones((8, 3)), value)):
        with pytest.raises(rc.DataError, match=message) as caught:
            rc.cka(*arguments)
        assert "\n" not in str(caught.value)


def products(*layers):
    """Of layers' features, each in chunks."""
    images = sum(map(len, layers[0]))
    grams, scales = torch.zeros(len(layers), images, images), torch.ones(len(layers), images)
    workspace = hsic.Workspace()
    for chunks, gram, scale in zip(layers, grams, scales, strict=True):
        hsic.gram(chunks, gram, scale, workspace)
    folded = Folded(np.arange(images) % FOLDS, torch.device("cpu"))
    return batch_sums(INDICES["cka"], grams, scales, folded)["products"]


@pytest.mark.parametrize("common", [1e-42, 1e-25, 1.0, 1e18, 1e36])
def test_batches_keep_their_weight_whatever_their_size(common):
    """A batch with features twice as large has four times the weight, at any common size."""
    generator = torch.Generator().manual_seed(0)
    sizes, batches = [(16, 1.0), (16, 2.0), (10, 0.5)], []
    for images, size in sizes:
        x = torch.randn(images, 40, generator=generator)
        y = x @ torch.randn(40, 30, generator=generator) / 6 + torch.randn(images, 30)
        batches.append([x * (size * common), y])
    total = torch.zeros(2, 2, dtype=torch.float64)
    for features in batches:
        total += products(*([layer] for layer in features))
    # Up to 1e36 and down to denormal numbers their squares are well within float64.
    grams = [[float64.gram(features[row]) for features in batches] for row in range(2)]
    measured = cosine(total.numpy())[0, 1]
    assert measured == pytest.approx(float64.minibatch_cka(*grams), abs=1e-6)


def test_a_batch_far_larger_than_the_others_decides():
    """As in float64: nothing else is left of the sum."""
    x = [torch.randn(12, 30, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    total = torch.zeros(2, 2, dtype=torch.float64)
    for first, second, size in ((x[0], x[1], 1e-20), (x[2], x[3], 1e20)):
        total += products([first * size], [(first + second) * size])
    expected = float64.minibatch_cka([float64.gram(x[2])], [float64.gram(x[2] + x[3])])
    assert cosine(total.numpy())[0, 1] == pytest.approx(expected, abs=1e-6)


def test_features_in_chunks_are_those_of_the_batch():
    for images in (16, 7, 12):
        x = torch.randn(images, 30) * 1e25
        found = products([x], list(x.split(3))).numpy()
        assert cosine(found)[0, 1] == pytest.approx(1, abs=1e-6)
        assert found[0, 0] == pytest.approx(_exact(x).square().sum().item(), rel=1e-5, abs=0)


def _exact(x):
    return hsic.u_centre(torch.from_numpy(float64.gram(x)), torch.ones(len(x)))
