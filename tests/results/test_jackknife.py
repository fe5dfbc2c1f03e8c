"""Errors from leaving out folds of images, against deleting these; quantiles against drawing."""

import numpy as np
import pytest
from scipy import optimize, stats
from threadpoolctl import threadpool_info, threadpool_limits

from refiner_cka.errors import ResultError
from refiner_cka.results import jackknife
from refiner_cka.results.jackknife import (
    CONFIDENCE,
    MIN_FOLDS,
    Products,
    covariance,
    critical,
    errors,
    t_p_value,
    t_quantile,
)
from refiner_cka.sums import cosine
from tests.results.made import grams, left_out, products
from tests.results.made import jackknife as by_leaving_out


@pytest.mark.parametrize("images", [12, 13, 30, 60])
def test_replicates_are_those_of_the_remaining_images(images):
    stack = grams(images)
    found = products(stack).replicates(cosine)
    assert len(found) == 1 + min(images, 20)
    np.testing.assert_allclose(found[1:], left_out(stack, cosine), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found[0], cosine(products(stack).total))


@pytest.mark.parametrize("images", [12, 30, 60])
def test_errors_are_the_jackknife_whichever_way_they_are_taken(images):
    stack = grams(images)
    expected = by_leaving_out(left_out(stack, cosine))
    sums = products(stack)
    np.testing.assert_allclose(sums.se(cosine), expected, rtol=1e-6, atol=1e-9)
    replicates = sums.replicates(cosine)[1:]
    np.testing.assert_allclose(errors(replicates), expected, rtol=1e-6, atol=1e-9)
    rows = np.array([2, 0])
    own = sums.of(rows).se(cosine)
    np.testing.assert_allclose(own, expected[np.ix_(rows, rows)], rtol=1e-6, atol=1e-9)


def test_the_covariance_has_the_squared_errors_on_its_diagonal():
    replicates = products(grams()).replicates(lambda total: cosine(total)[:3, -1])[1:]
    found = covariance(replicates)
    np.testing.assert_allclose(np.sqrt(np.diagonal(found)), errors(replicates), rtol=1e-12)
    g = len(replicates)
    np.testing.assert_allclose(found, (g - 1) ** 2 / g * np.cov(replicates.T), rtol=1e-12)


def test_with_fewer_than_twelve_folds_there_is_no_error():
    assert MIN_FOLDS == 12
    few, enough = (products(grams(images)) for images in (11, 12))
    assert np.isnan(few.se(cosine)).all()
    assert np.isnan(errors(few.replicates(cosine)[1:])).all()
    assert np.isnan(covariance(np.ones((11, 2)))).all()
    assert np.isfinite(enough.se(cosine)).all()
    assert np.isfinite(covariance(enough.replicates(cosine)[1:, 0])).all()


def test_nothing_measured_has_no_error():
    nothing = Products(np.zeros((2, 2)), np.zeros((0, 2, 2)))
    assert nothing.folds == 0
    assert np.isnan(nothing.se(cosine)).all()
    assert np.isnan(critical(np.zeros((0, 2)), "simultaneous"))


def test_the_quantile_and_p_values_are_students():
    assert t_quantile(20) == pytest.approx(stats.t.ppf(0.975, 19))
    assert np.isnan(t_quantile(np.array([0, 1]))).all()
    assert critical(np.zeros((13, 3)), "pointwise") == pytest.approx(stats.t.ppf(0.975, 12))
    found = t_p_value(np.array([-1.5, 0.0, 3.0, 1.0]), np.array([1.0, 1.0, 1.0, np.nan]), 20)
    np.testing.assert_allclose(found, [*2 * stats.t.sf([1.5, 0, 3], 19), np.nan], rtol=1e-9)


@pytest.mark.parametrize("folds", [12, 20])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_a_simultaneous_band_is_left_as_often_as_it_may_be(folds, spread):
    """Straightforward drawing of max |t|: normal numbers of that correlation over one chi.

    Both draws are finite: the share beyond the critical value is 0.05 within four of its standard deviations,
    sqrt(0.05 x 0.95 (1/20,000 + 1/200,000)) at most.
    """
    rng = np.random.default_rng(1)
    replicates = rng.standard_normal((folds, 1)) + spread * rng.standard_normal((folds, 6))
    reach = critical(replicates, "simultaneous")
    draws = 200_000
    normal = rng.multivariate_normal(np.zeros(6), np.corrcoef(replicates.T), draws)
    chi = np.sqrt(rng.chisquare(folds - 1, draws) / (folds - 1))
    beyond = (np.abs(normal).max(1) / chi > reach).mean()
    sd = np.sqrt(CONFIDENCE * (1 - CONFIDENCE) * (1 / 20_000 + 1 / draws))
    assert abs(beyond - (1 - CONFIDENCE)) < 4 * sd
    assert reach == critical(replicates.copy(), "simultaneous")


def test_the_critical_value_is_exact_for_its_draws(monkeypatch):
    """But for draws that stand for one another, at most half of 0.01 apart from their mean.

    The share that lies beyond is then wrong by half its curvature times 0.005^2, at most; against its slope that
    is 1e-5 of the value here.
    """
    rng = np.random.default_rng(0)
    for folds in (2, 12, 20):
        for layers in (1, 12, 300):
            draws = rng.standard_normal((1000, folds))
            monkeypatch.setattr(jackknife, "_normal", lambda _, draws=draws: draws)
            replicates = rng.standard_normal((folds, layers))
            centred = replicates - replicates.mean(0)
            largest = np.abs(draws @ (centred / np.linalg.norm(centred, axis=0))).max(1)

            def excess(reach, folds=folds, largest=largest):
                beyond = stats.chi2.cdf((folds - 1) * (largest / reach) ** 2, folds - 1)
                return beyond.mean() - (1 - CONFIDENCE)

            least = float(t_quantile(folds))
            expected = optimize.brentq(excess, least, 1e6) if excess(least) > 0 else least
            assert critical(replicates, "simultaneous") == pytest.approx(expected, rel=1e-5)


def test_one_varying_layer_has_the_pointwise_quantile():
    """Up to drawing: the tail is known to 0.0015 and falls by 0.1 with each unit of t there."""
    one = np.random.default_rng(0).standard_normal((20, 1))
    found = critical(one, "simultaneous")
    pointwise = critical(one, "pointwise")
    assert pointwise <= found < pointwise + 4 * 0.0015 / (2 * stats.t.pdf(pointwise, 19))
    assert critical(np.hstack([one, -3 * one, one]), "simultaneous") == pytest.approx(found)


def test_layers_that_do_not_vary_or_are_undefined_widen_no_band():
    one = np.random.default_rng(0).standard_normal((20, 2))
    constant, undefined = np.full((20, 1), 0.1), np.full((20, 1), np.nan)
    assert (constant.mean(0) != constant[0]).all(), "the mean of equal numbers rounds"
    more = np.hstack([constant, one[:, :1], undefined, one[:, 1:]])
    assert critical(more, "simultaneous") == critical(one, "simultaneous")
    for nothing in (constant, undefined):
        assert critical(nothing, "simultaneous") == critical(nothing, "pointwise")
    assert np.isnan(errors(more)[2])
    assert errors(more)[0] == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e200, 1e307])
def test_a_band_does_not_depend_on_the_size_of_what_it_is_of(size):
    """Down to where numbers have three digits left."""
    replicates = np.random.default_rng(0).uniform(-10, 10, (20, 4))
    found = critical(size * replicates, "simultaneous")
    assert found == pytest.approx(critical(replicates, "simultaneous"), rel=1e-3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_layer_that_is_not_finite_widens_no_band(value):
    replicates = np.random.default_rng(0).standard_normal((20, 3))
    expected = critical(replicates[:, 1:], "simultaneous")
    replicates[5, 0] = value
    assert critical(replicates, "simultaneous") == expected


def test_the_product_of_a_band_takes_one_thread(monkeypatch):
    """More wait busily for the next product, on the core of another process that draws."""
    threads, normal = [], jackknife._normal

    def seen(folds):
        threads.extend(
            each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"
        )
        return normal(folds)

    monkeypatch.setattr(jackknife, "_normal", seen)
    with threadpool_limits(2, "blas"):
        critical(np.random.default_rng(0).normal(size=(20, 3)), "simultaneous")
    assert set(threads) == {1}


def test_an_unknown_band_is_refused_by_name():
    with pytest.raises(ResultError, match="unknown band 'wide'; choose pointwise or simultaneous"):
        critical(np.ones((20, 2)), "wide")
