"""HSIC against the textbook formula in float64.

Tolerances: a float32 Gram entry of p products carries a relative error of a few float32 eps (1.2e-7) of the
features' centred norm, and CKA is a ratio of sums of such entries: 1e-6 leaves a factor of a few.
"""

import numpy as np
import pytest
import torch

from refiner_cka import hsic
from tests import float64

CKA_TOLERANCE = 1e-6


def gram(features, dtype=torch.float64):
    out = torch.empty(len(features), len(features), dtype=dtype)
    hsic.gram([features], out, hsic.Workspace())
    return out


def stack_products(*features, dtype=torch.float64):
    return hsic.products(
        hsic.u_centre(torch.stack([gram(value, dtype) for value in features]))
    ).numpy()


def exact_cka(x, y):
    return float64.minibatch_cka([float64.gram(x)], [float64.gram(y)])


def related(n, p, q, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, q, generator=generator, dtype=torch.float64)
    return x, x @ torch.randn(p, q, generator=generator, dtype=torch.float64) / p**0.5 + noise


@pytest.mark.parametrize("n", [4, 5, 32, 65])
def test_products_are_unbiased_hsic_times_n_n_minus_3(n):
    x, y = related(n, 37, 53)
    products = stack_products(x, y)
    expected = n * (n - 3) * float64.hsic_1((x @ x.T).numpy(), (y @ y.T).numpy())
    assert products[0, 1] == pytest.approx(expected, rel=1e-10)
    assert products[0, 1] == products[1, 0]


@pytest.mark.parametrize("width", [1, 2047, 2048, 2049, 70_001])
def test_every_column_counts_once_whatever_the_blocks(width):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(24, width, generator=generator, dtype=torch.float64)
    centred = (x - x.mean(0)).numpy()
    np.testing.assert_allclose(gram(x).numpy(), centred @ centred.T, rtol=0, atol=1e-12 * width)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_a_common_offset_costs_no_digits(offset):
    x, y = related(32, 5000, 4000)
    x32, y32 = (x + offset).float(), (y - offset).float()
    products = stack_products(x32, y32, dtype=torch.float32)
    measured = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    assert abs(measured - exact_cka(x32, y32)) < CKA_TOLERANCE


def test_an_outlier_as_first_image_costs_no_digits():
    """The mean takes 1/32 of it, so the others keep an offset of about their own size."""
    x, y = related(32, 5000, 4000)
    x[0] *= 30
    products = stack_products(x.float(), y.float(), dtype=torch.float32)
    measured = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    assert abs(measured - exact_cka(x.float(), y.float())) < CKA_TOLERANCE


@pytest.mark.parametrize("n", range(4, 130, 7))
def test_constant_features_are_exactly_zero(n):
    assert gram((torch.rand(1, 999) * 1e4).expand(n, -1), torch.float32).abs().max() == 0


def test_rounding_noise_of_constant_features_is_no_signal():
    constant = torch.randn(1, 4000)
    one_ulp = torch.where(torch.rand(32, 4000) < 0.3, 1 + torch.finfo(torch.float32).eps, 1.0)
    assert gram(constant * one_ulp, torch.float32).abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_features_spoil_their_own_row_only(bad):
    x, y = related(16, 40, 30)
    spoilt = x.clone()
    spoilt[3, 5] = bad
    products = stack_products(x, spoilt, y)
    assert np.isnan(products[1]).all()
    assert np.isnan(products[:, 1]).all()
    np.testing.assert_array_equal(products[::2, ::2], stack_products(x, y))


def test_half_precision_features_are_read_exactly():
    x = torch.randn(16, 3000).mul(300).half()
    np.testing.assert_array_equal(gram(x, torch.float32), gram(x.float(), torch.float32))


def test_chunks_of_a_batch_are_the_batch():
    x = torch.randn(21, 3000)
    whole, parts = torch.empty(21, 21), torch.empty(21, 21)
    hsic.gram([x], whole, hsic.Workspace())
    hsic.gram(list(x.split(4)), parts, hsic.Workspace())
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-6 * float(whole.diagonal().max()))


def test_a_large_offset_of_wide_features_stays_finite_in_half_precision():
    features = torch.ones(8, 75_648, dtype=torch.float16) * 100 + torch.randn(8, 75_648).half()
    assert torch.isfinite(gram(features, torch.float32)).all()


def test_half_precision_features_with_a_large_offset_are_no_constant():
    x = (torch.randn(32, 2000) + 100).bfloat16()
    y = (torch.randn(32, 2000) + 100).bfloat16()
    products = stack_products(x, y + x, dtype=torch.float32)
    measured = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    assert abs(measured - exact_cka(x.float(), (y + x).float())) < CKA_TOLERANCE
