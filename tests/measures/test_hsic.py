"""HSIC against the textbook formula in float64.

Tolerances: a float32 Gram entry of p products carries a relative error of a few float32 eps (1.2e-7) of the
features' centred norm, and CKA is a ratio of sums of such entries: 1e-6 leaves a factor of a few.
"""

import numpy as np
import pytest
import torch

from refiner_cka.measures import hsic
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.sums import FOLDS
from tests import float64

CKA_TOLERANCE = 1e-6


def scaled_gram(features, dtype=torch.float64, chunk=None):
    out = torch.empty(len(features), len(features), dtype=dtype)
    scales = torch.empty(len(features), dtype=dtype)
    hsic.gram(features.split(chunk or len(features)), out, scales, hsic.Workspace())
    return out, scales


def gram(features, dtype=torch.float64, chunk=None):
    """The Gram matrix on its own scale, float64."""
    out, scales = (value.double() for value in scaled_gram(features, dtype, chunk))
    return scales[:, None] * out * scales


def stack_products(*features, dtype=torch.float64):
    grams, scales = zip(*(scaled_gram(value, dtype) for value in features), strict=True)
    folded = Folded(np.arange(len(features[0])) % FOLDS, torch.device("cpu"))
    return batch_sums(INDICES["cka"], torch.stack(grams), torch.stack(scales), folded)[
        "products"
    ].numpy()


@pytest.fixture(params=["plain", "scaled"])
def path(request, monkeypatch):
    """Both ways of `hsic.gram`: a CPU's, and the one that an accelerator always takes."""
    if request.param == "scaled":
        monkeypatch.setattr(hsic, "_is_sound", lambda _out, _first: False)


def measured_cka(x, y, dtype=torch.float32):
    products = stack_products(x, y, dtype=dtype)
    return products[0, 1] / np.sqrt(products[0, 0]) / np.sqrt(products[1, 1])


def exact_cka(x, y):
    return float64.minibatch_cka([float64.gram(x)], [float64.gram(y)])


def long_cka(x, y):
    """CKA in extended precision, whose range holds the products of any float32 or float64 features.

    Relative to one image, which is no outlier in these tests, instead of the mean: HSIC_1 is the same.
    """
    grams = []
    for value in (x, y):
        value = value.numpy().astype(np.longdouble)
        value = value - value[5]
        grams.append([value @ value.T])
    return float(float64.minibatch_cka(*grams))


def related(n, p, q, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, q, generator=generator, dtype=torch.float64)
    return x, x @ torch.randn(p, q, generator=generator, dtype=torch.float64) / p**0.5 + noise


@pytest.mark.parametrize("n", [4, 5, 32, 65])
def test_products_are_unbiased_hsic_times_n_n_minus_3(n, path):
    x, y = related(n, 37, 53)
    products = stack_products(x, y)
    expected = n * (n - 3) * float64.hsic_1((x @ x.T).numpy(), (y @ y.T).numpy())
    assert products[0, 1] == pytest.approx(expected, rel=1e-10)
    assert products[0, 1] == products[1, 0]


@pytest.mark.parametrize("width", [1, 2047, 2048, 2049, 70_001])
def test_every_column_counts_once_whatever_the_blocks(width, path):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(24, width, generator=generator, dtype=torch.float64)
    centred = (x - x.mean(0)).numpy()
    np.testing.assert_allclose(gram(x).numpy(), centred @ centred.T, rtol=0, atol=1e-12 * width)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_a_common_offset_costs_no_digits(offset, path):
    x, y = related(32, 5000, 4000)
    x32, y32 = (x + offset).float(), (y - offset).float()
    assert abs(measured_cka(x32, y32) - exact_cka(x32, y32)) < CKA_TOLERANCE


def test_an_outlier_as_first_image_costs_no_digits(path):
    """The mean takes 1/32 of it, so the others keep an offset of about their own size."""
    x, y = related(32, 5000, 4000)
    x[0] *= 30
    x, y = x.float(), y.float()
    assert abs(measured_cka(x, y) - exact_cka(x, y)) < CKA_TOLERANCE


@pytest.mark.parametrize("n", range(4, 130, 7))
def test_constant_features_are_exactly_zero(n, path):
    assert gram((torch.rand(1, 999) * 1e4).expand(n, -1), torch.float32).abs().max() == 0


def test_rounding_noise_of_constant_features_is_no_signal(path):
    constant = torch.randn(1, 4000)
    one_ulp = torch.where(torch.rand(32, 4000) < 0.3, 1 + torch.finfo(torch.float32).eps, 1.0)
    assert gram(constant * one_ulp, torch.float32).abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_features_spoil_their_own_row_only(bad, path):
    x, y = related(16, 40, 30)
    spoilt = x.clone()
    spoilt[3, 5] = bad
    products = stack_products(x, spoilt, y)
    assert np.isnan(products[1]).all()
    assert np.isnan(products[:, 1]).all()
    np.testing.assert_array_equal(products[::2, ::2], stack_products(x, y))


def test_half_precision_features_are_read_exactly(path):
    x = torch.randn(16, 3000).mul(300).half()
    np.testing.assert_array_equal(gram(x, torch.float32), gram(x.float(), torch.float32))


def test_chunks_of_a_batch_are_the_batch(path):
    x = torch.randn(21, 3000)
    whole, parts = gram(x, torch.float32), gram(x, torch.float32, chunk=4)
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-6 * float(whole.diagonal().max()))


def test_a_large_offset_of_wide_features_stays_finite_in_half_precision(path):
    features = torch.ones(8, 75_648, dtype=torch.float16) * 100 + torch.randn(8, 75_648).half()
    assert torch.isfinite(gram(features, torch.float32)).all()


def test_half_precision_features_with_a_large_offset_are_no_constant(path):
    x = (torch.randn(32, 2000) + 100).bfloat16()
    y = (torch.randn(32, 2000) + 100).bfloat16()
    expected = exact_cka(x.float(), (y + x).float())
    assert abs(measured_cka(x, y + x) - expected) < CKA_TOLERANCE


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 3e-23, 1e-22, 1e-10, 1e10, 1e20, 8e37])
def test_features_of_any_size(scale, path):
    """Denormal features are whole numbers of 1.4e-45 (few of them: a different CKA, and the same truth)."""
    x, y = related(16, 60, 50)
    x32 = (x * scale).float()
    assert abs(measured_cka(x32, y.float()) - long_cka(x32, y.float())) < CKA_TOLERANCE
    assert abs(measured_cka(x32, x32) - 1) < CKA_TOLERANCE


def test_the_largest_features_of_both_signs(path):
    """Their differences, sums and squares are beyond float32."""
    x, y = related(16, 60, 50)
    x32 = torch.where(x > 0, 3.4e38, -3.4e38).float() * (1 - y[:, :1].float().abs() / 100)
    assert abs(measured_cka(x32, y.float()) - long_cka(x32, y.float())) < CKA_TOLERANCE


@pytest.mark.parametrize("columns", [1, 60])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e8, 1e20, 1e30])
@pytest.mark.parametrize("image", [0, 8, 15])
def test_one_outlier_wherever_it_stands(size, image, columns):
    """Whether it shares features with the others or its own one stands out: the diagonal has no part in CKA."""
    x, y = (value.float() for value in related(16, 60, 50))
    if columns == 1:
        x[:, 0] = 0.5
    x[image, :columns] *= size
    assert abs(measured_cka(x, y) - long_cka(x, y)) < CKA_TOLERANCE


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_blocks_of_columns_of_different_size(size):
    """The scale grows from block to block, or what comes later is small."""
    x, y = (value.float() for value in related(16, 300_000, 50))
    x[:, : 200_000 if size > 1 else 100_000] *= size
    assert abs(measured_cka(x, y) - exact_cka(x, y)) < CKA_TOLERANCE


@pytest.mark.parametrize("constant", [1e3, 1e8, 1e20, 3e38])
@pytest.mark.parametrize("spread", [1e-30, 1.0])
def test_constant_features_hide_no_others(constant, spread, path):
    """However many and large: what does not vary at all says nothing about what does."""
    x, y = (value.float() for value in related(16, 4, 50))
    x = torch.cat([torch.full((16, 20_000), constant), x * spread], 1)
    expected = long_cka(x[:, -4:], y)
    assert abs(measured_cka(x, y) - expected) < CKA_TOLERANCE


def test_one_feature_of_many_that_varies(path):
    """By 10^-4 of itself, a thousand times its rounding, while the norm of 10^6 features rounds by more."""
    x, y = (value.float() for value in related(16, 1, 50))
    x = torch.cat([torch.full((16, 10**6), 10.0), 10 + 1e-3 * x], 1)
    assert abs(measured_cka(x, y) - long_cka(x[:, -1:], y)) < CKA_TOLERANCE


def test_one_feature_that_varies_among_the_rounding_of_many(path):
    """The root mean square is that of rounding, but no rounding is so large."""
    x, _ = (value.float() for value in related(16, 1, 50))
    noise = torch.where(torch.rand(16, 10**6) < 0.3, 1 + torch.finfo(torch.float32).eps, 1.0)
    assert gram(torch.cat([10 * noise, 10 + 1e-2 * x], 1), torch.float32).diagonal().min() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_rounding_is_no_signal_at_any_scale(scale, path):
    constant = torch.randn(1, 4000) * scale
    rounding = 1 + torch.randn(32, 4000) * torch.finfo(torch.float32).eps
    assert gram(constant * rounding, torch.float32).abs().max() == 0


@pytest.mark.parametrize("first", [0.0, 1e30])
def test_a_first_image_of_nothing_or_of_large_numbers_makes_no_constant(first, path):
    x, y = (value.float() for value in related(16, 60, 50))
    x[0] = first
    assert abs(measured_cka(x, y) - long_cka(x, y)) < CKA_TOLERANCE


def test_the_two_ways_agree(monkeypatch):
    x = torch.randn(64, 20_000).relu() + 3
    plain = gram(x, torch.float32)
    monkeypatch.setattr(hsic, "_is_sound", lambda _out, _first: False)
    scaled = gram(x, torch.float32)
    torch.testing.assert_close(plain, scaled, rtol=0, atol=2e-6 * float(plain.diagonal().max()))


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("n", [4, 5, 7, 32, 65])
@pytest.mark.parametrize("width", [1, 2047, 2048, 5000])
def test_a_product_whichever_library_takes_it(n, width, has_onednn, monkeypatch):
    """To the rounding of a float32 sum of so many products, relative to the images' energies."""
    monkeypatch.setattr(hsic, "_HAS_ONEDNN", has_onednn and hsic._HAS_ONEDNN)
    block = torch.randn(n, width, generator=torch.Generator().manual_seed(n))
    out = torch.zeros(n, n)
    hsic._add_product(block, out)
    hsic._mirror(out)
    truth = block.double() @ block.double().T
    tolerance = 4 * torch.finfo(torch.float32).eps * width**0.5 * float(truth.diagonal().max())
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [4, 5, 32])
@pytest.mark.parametrize("width", [1, 2047, 2048, 2049, 3 * 2048, 4099, 197 * 64])
def test_the_product_of_an_accelerator(n, width):
    """As above: widths that equal slices hold, and that they do not (2,049 is odd, 4,099 prime)."""
    block = torch.randn(n, width, generator=torch.Generator().manual_seed(n))
    truth = block.double() @ block.double().T
    tolerance = 4 * torch.finfo(torch.float32).eps * width**0.5 * float(truth.diagonal().max())
    found = hsic._sliced_product(block, block[1:]).double()
    torch.testing.assert_close(found, truth[:, 1:], rtol=0, atol=tolerance)


def test_ordinary_features_are_not_scaled(monkeypatch):
    """The fast way of a CPU stays the fast way."""
    monkeypatch.setattr(hsic, "_scaled_gram", lambda *_: pytest.fail("scaled"))
    for x in (torch.randn(4, 100), torch.randn(64, 5000).relu() * 1e-6, torch.randn(32, 9) + 1e3):
        gram(x, torch.float32)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_float64_features_are_centred_before_they_are_rounded(offset, path):
    """A float64 model's, and the mean readout's, which varies by less than a single token does."""
    x, y = related(16, 60, 50)
    x = x / 14 + offset * torch.linspace(0.5, 1.5, 60, dtype=torch.float64)
    assert abs(measured_cka(x, y) - exact_cka(x, y)) < CKA_TOLERANCE
