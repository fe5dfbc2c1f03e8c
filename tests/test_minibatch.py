"""The plain function `cka(x, y)`."""

import math

import numpy as np
import pytest
import torch

import refiner_cka as rc
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
