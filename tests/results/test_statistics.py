"""Estimates and errors from sums, against brute force and against simulation."""

import numpy as np
import pytest
from scipy import stats

from refiner_cka.results import statistics as estimate
from refiner_cka.sums import cosine
from tests.synthetic import u_centred_gram


def sums(folds=20, layers=4, n=24, seed=0):
    """Fold sums of HSIC products of layers that turn from one random map into another."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, 10, 40))
    total = []
    for _ in range(folds):
        images = rng.standard_normal((n, 10))
        stack = [
            u_centred_gram(images @ ((1 - turn) * maps[0] + turn * maps[1])).ravel()
            for turn in np.arange(layers) / max(layers - 1, 1)
        ]
        total.append(np.array(stack) @ np.array(stack).T)
    return np.array(total)


def brute_se(folds, statistic):
    g = len(folds)
    values = np.array([statistic(np.delete(folds, k, axis=0).sum(0)) for k in range(g)])
    return np.sqrt((g - 1) / g * ((values - values.mean(0)) ** 2).sum(0))


def test_cka_is_symmetric_with_ones_and_not_clamped():
    products = np.array([[4.0, -1.0], [-1.0, 9.0]])
    np.testing.assert_array_equal(cosine(products), [[1, -1 / 6], [-1 / 6, 1]])


@pytest.mark.parametrize("own", [0.0, -1e-3, np.nan, np.inf])
def test_a_degenerate_layer_is_nan_in_its_row_and_column_only(own):
    products = np.array([[4.0, 1.0, 1.0], [1.0, own, 1.0], [1.0, 1.0, 9.0]])
    values = cosine(products)
    assert np.isnan(values[1]).all()
    assert np.isnan(values[:, 1]).all()
    assert values[0, 2] == pytest.approx(1 / 6)


@pytest.mark.parametrize("folds", [5, 6, 20])
def test_the_jackknife_is_leave_one_group_out(folds):
    products = sums(folds)
    found = estimate.jackknife_se(products, cosine)
    np.testing.assert_allclose(found, brute_se(products, cosine), rtol=1e-9, atol=1e-12)


def test_with_few_folds_errors_and_intervals_are_nan_and_s_is_unresolved():
    products = sums(4)
    assert np.isnan(estimate.jackknife_se(products, cosine)).all()
    for normalize in estimate.NORMALIZATIONS:
        curve = estimate.curve(products, normalize)
        assert np.isfinite(curve.values).all()
        assert np.isnan(curve.se).all()
        assert np.isnan(curve.lower).all()
    assert not estimate.curve(products, "first-last").resolved


def test_curves():
    products = sums()
    matrix = cosine(products.sum(0))
    raw, ratio, scaled = (
        estimate.curve(products, name) for name in ("none", "first-last", "min-max")
    )
    np.testing.assert_array_equal(raw.values, matrix[:, -1])
    np.testing.assert_allclose(ratio.values, matrix[:, -1] / matrix[0, -1])
    assert (scaled.values.min(), scaled.values.max()) == (0, 1)
    np.testing.assert_allclose(raw.depth, [0, 1 / 3, 2 / 3, 1])
    assert ratio.values[0] == 1
    assert ratio.se[0] == pytest.approx(0, abs=1e-12)
    assert raw.values[-1] == 1
    assert raw.se[-1] == pytest.approx(0, abs=1e-12)


def test_the_normalised_curve_has_its_own_jackknife():
    products = sums()
    expected = brute_se(products, lambda total: cosine(total)[:, -1] / cosine(total)[0, -1])
    np.testing.assert_allclose(
        estimate.curve(products, "first-last").se, expected, rtol=1e-6, atol=1e-12
    )


def test_fieller_solves_its_definition():
    """At both ends the linear combination n - r d lies exactly t standard errors from 0."""
    n, var_n, cov = np.array([0.8]), np.array([0.002]), np.array([0.0005])
    d, var_d, t = 0.5, 0.001, 2.1
    for end in estimate.fieller(n, d, var_n, var_d, cov, t):
        deviation = (n - end * d) ** 2
        assert deviation == pytest.approx(t**2 * (var_n - 2 * end * cov + end**2 * var_d))


def test_fieller_is_unbounded_when_the_denominator_may_be_zero():
    lower, upper = estimate.fieller(np.ones(2), 0.1, np.ones(2), 1.0, np.zeros(2), 2.1)
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()


def test_a_curve_is_unresolved_when_its_denominator_is_noise():
    rng = np.random.default_rng(3)
    products = sums(layers=2)
    noise = rng.standard_normal(len(products)) * np.sqrt(products[:, 0, 0] * products[:, 1, 1])
    products[:, 0, 1] = products[:, 1, 0] = 0.3 * noise
    assert not estimate.curve(products, "first-last").resolved
    assert estimate.curve(sums(), "first-last").resolved


def test_a_single_layer_is_its_own_last():
    curve = estimate.curve(sums(layers=1), "first-last")
    assert curve.values.tolist() == [1.0]
    assert curve.depth.tolist() == [1.0]


def test_a_degenerate_layer_leaves_the_rest_of_the_curve():
    products = sums()
    products[:, 1, :] = products[:, :, 1] = 0
    for normalize in estimate.NORMALIZATIONS:
        values = estimate.curve(products, normalize).values
        assert np.isnan(values[1])
        assert np.isfinite(values[[0, 2, 3]]).all()


def test_a_contrast_of_equal_models_is_zero_with_zero_error():
    contrast = estimate.contrast(sums(), sums(), "none")
    assert np.abs(contrast.values).max() == 0
    assert np.abs(contrast.se).max() == 0


def test_a_contrast_is_paired_and_interpolates_over_the_union_of_depths():
    first, second = sums(layers=4), sums(layers=3)
    contrast = estimate.contrast(first, second, "none")
    np.testing.assert_allclose(contrast.depth, [0, 1 / 3, 0.5, 2 / 3, 1])

    def by_hand(keep):
        a, b = (cosine(sums[keep].sum(0))[:, -1] for sums in (first, second))
        return np.array(
            [
                a[0] - b[0],
                a[1] - (b[0] + 2 * b[1]) / 3,
                (a[1] + a[2]) / 2 - b[1],
                a[2] - (2 * b[1] + b[2]) / 3,
                a[3] - b[2],
            ]
        )

    everything = np.arange(20)
    np.testing.assert_allclose(contrast.values, by_hand(everything), atol=1e-12)
    left_out = np.array([by_hand(np.delete(everything, k)) for k in range(20)])
    expected = np.sqrt(19 / 20 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(contrast.se, expected, rtol=1e-8, atol=1e-12)


def test_the_quantile_is_students():
    assert estimate.t_quantile(20) == pytest.approx(stats.t.ppf(0.975, 19))


def test_intervals_cover_the_truth():
    """95 % intervals of CKA(first, last) over 200 runs of 20 folds.

    The number that cover is binomial: below 181 with probability 0.4 % if coverage is 95 %.
    """
    pool = sums(folds=4000, seed=1)
    truth = cosine(pool.sum(0))[0, -1]
    covered = 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        curve = estimate.curve(pool[rng.choice(4000, 20, replace=False)], "none")
        covered += curve.lower[0] <= truth <= curve.upper[0]
    assert covered >= 181


@pytest.mark.parametrize("normalize", estimate.NORMALIZATIONS)
def test_nothing_measured_is_undefined_not_an_error(normalize):
    nothing = np.zeros((0, 3, 3))
    curve = estimate.curve(nothing, normalize)
    assert np.isnan(curve.values).all()
    assert np.isnan(curve.lower).all()
    assert np.isnan(estimate.contrast(nothing, nothing, normalize).se).all()
