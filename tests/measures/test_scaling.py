"""Scales and lengths against float64, over the whole range of float32.

Tolerance of lengths: each of up to 1000 squares and their sum round by eps/2 (6e-8), the root halves it: pairwise
sums keep it below 1e-6.
"""

import numpy as np
import pytest
import torch

from refiner_cka.measures import scaling

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_of_two_is_the_largest_below(dtype):
    exponents = torch.arange(-121, 124)
    powers = torch.tensor([2.0 ** int(k) for k in exponents], dtype=dtype)
    for factor in (1.0, 1.5, 2.0 - torch.finfo(dtype).eps):
        assert torch.equal(scaling.power_of_two(powers * factor), powers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_of_extremes_bring_them_where_squares_are(dtype):
    info = torch.finfo(dtype)
    for value in (info.tiny, info.smallest_normal * 2**-20, info.max, 0.0):
        scale = scaling.power_of_two(torch.tensor(value, dtype=dtype))
        scaled = value * float(scale.reciprocal())
        assert scaled == 0 or 2.0**-30 < scaled < 16
    least, most = scaling.limits(dtype)
    bad = torch.tensor([float("inf"), float("nan")], dtype=dtype)
    assert scaling.power_of_two(bad).tolist() == [most, most]
    assert scaling.power_of_two(torch.zeros(1, dtype=dtype)).tolist() == [least]


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 3e-23, 1e-10, 1.0, 1e10, 1e20, 1e36])
def test_lengths_of_any_size(scale, layout):
    x = torch.randn(5, 7, 300, generator=torch.Generator().manual_seed(0)) * scale
    x[1, 2], x[3, 4] = 0.0, 1.0
    x[2, 2, :3] = float("nan")
    if layout == "columns":
        x = x.mT.contiguous().mT
    expected = np.linalg.norm(x.double().numpy(), axis=2)
    for found in (scaling.lengths(x), scaling._scaled_lengths(x)):
        # A length below the normal numbers has the spacing of denormal ones.
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=2e-45)


def test_a_common_scale_is_of_the_finite_images():
    x = torch.randn(4, 3, 5)
    assert scaling.common_scale([x[:2], x[2:]]) is None
    x[1, 0, 0], x[2, 0, 0] = float("inf"), float("nan")
    peak = x[[0, 3]].abs().max()
    assert scaling.common_scale([x[:2], x[2:]]) == scaling.power_of_two(peak)
    assert scaling.common_scale([x[[0]] * 1e-20]) == scaling.power_of_two(x[0].abs().max() * 1e-20)
    assert scaling.common_scale([torch.zeros(2, 3)]) == scaling.limits(torch.float32)[0]


def test_a_median_of_three():
    a, b, c = torch.randn(3, 100).unbind()
    expected = torch.stack([a, b, c]).median(0).values
    assert torch.equal(scaling.median_of_three(a, b, c), expected)
