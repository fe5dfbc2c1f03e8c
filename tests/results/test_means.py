"""Means over images and their errors, against the images themselves."""

import numpy as np
import pytest
from scipy import stats

from refiner_cka.results.means import mean_contrast, means

DEPTH = np.array([0.0, 0.5, 1.0])


def by_fold(values, folds, count=20):
    """Sums of `(images, L)` values in each fold, and how many there are; NaN is no value."""
    total, images = np.zeros((2, count, values.shape[1]))
    for value, fold in zip(values, folds, strict=True):
        total[fold] += np.where(np.isnan(value), 0.0, value)
        images[fold] += ~np.isnan(value)
    return total, images


def brute(values, folds):
    """Error of the mean of the values that are there, from leaving out each fold that has one."""
    values, folds = values[~np.isnan(values)], folds[~np.isnan(values)]
    left = np.array([values[folds != fold].mean() for fold in np.unique(folds)])
    return np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())


def test_means_and_errors_where_some_folds_have_no_image():
    rng = np.random.default_rng(0)
    values, folds = rng.normal(size=(70, 3)), rng.integers(0, 15, 70)
    values[folds < 9, 1] = np.nan
    values[rng.random(70) < 0.3, 2] = np.nan
    found = means(*by_fold(values, folds), DEPTH)
    np.testing.assert_allclose(found.values, np.nanmean(values, 0), rtol=1e-12)
    expected = [brute(column, folds) for column in values.T]
    np.testing.assert_allclose(found.se, expected, rtol=1e-10)
    counts = [len(np.unique(folds[~np.isnan(column)])) for column in values.T]
    margin = stats.t.ppf(0.975, np.array(counts) - 1) * expected
    np.testing.assert_allclose(found.upper - found.values, margin, rtol=1e-9)
    np.testing.assert_allclose(found.values - found.lower, margin, rtol=1e-9)
    assert found.images.tolist() == (~np.isnan(values)).sum(0).tolist()
    assert found.folds == max(counts)


@pytest.mark.parametrize("images", [2, 7, 20])
def test_with_a_fold_for_each_image_the_error_is_the_usual_one(images):
    values = np.random.default_rng(1).normal(size=(images, 3))
    found = means(*by_fold(values, np.arange(images)), DEPTH)
    np.testing.assert_allclose(found.se, values.std(0, ddof=1) / np.sqrt(images), rtol=1e-10)


def test_two_folds_have_an_error_and_one_or_none_has_none():
    values = np.array([[1.0, 1.0, np.nan], [3.0, np.nan, np.nan]])
    found = means(*by_fold(values, np.array([4, 17])), DEPTH)
    assert found.se[0] == pytest.approx(1.0)
    assert found.upper[0] == pytest.approx(2 + stats.t.ppf(0.975, 1))
    assert found.values[:2].tolist() == [2.0, 1.0]
    assert np.isnan([found.values[2], *found.se[1:], *found.lower[1:], *found.upper[1:]]).all()


def test_a_band_for_the_whole_curve_reaches_as_far_as_correlated_errors_do():
    """All layers at once: as often as not the largest of many t-distributed errors, drawn by NumPy, is inside."""
    rng = np.random.default_rng(5)
    shared, folds = rng.normal(size=(80, 1)), np.arange(80) % 20
    values = shared + rng.normal(size=(80, 6))
    sums = by_fold(values, folds)
    depth = np.linspace(0, 1, 6)
    narrow, whole = means(*sums, depth), means(*sums, depth, "simultaneous")
    np.testing.assert_array_equal(whole.se, narrow.se)
    reach = (whole.upper - whole.values) / whole.se
    np.testing.assert_allclose(reach, reach[0], rtol=1e-9)
    left = np.array([values[folds != fold].mean(0) for fold in range(20)])
    normal = rng.multivariate_normal(np.zeros(6), np.corrcoef(left.T), 200_000)
    largest = np.abs(normal / np.sqrt(rng.chisquare(19, (200_000, 1)) / 19)).max(1)
    assert reach[0] == pytest.approx(np.quantile(largest, 0.95), abs=0.03)
    assert (whole.lower < narrow.lower).all()
    assert (whole.upper > narrow.upper).all()


def test_a_band_for_the_whole_curve_where_some_layers_have_no_value():
    values = np.random.default_rng(6).normal(size=(60, 3))
    values[:, 1] = np.nan
    values[10:, 2] = np.nan  # few folds: their own quantile is larger
    sums = by_fold(values, np.arange(60) % 20)
    narrow, whole = means(*sums, DEPTH), means(*sums, DEPTH, "simultaneous")
    assert np.isnan([whole.lower[1], whole.upper[1]]).all()
    assert (whole.upper - narrow.upper)[[0, 2]].min() >= 0
    assert whole.upper[0] > narrow.upper[0]


def test_a_mean_of_what_is_not_finite_is_undefined_at_its_layer_only():
    values = np.random.default_rng(2).normal(size=(40, 3))
    total, images = by_fold(values, np.arange(40) % 20)
    total[3, 1] = np.nan
    found = means(total, images, DEPTH)
    assert np.isnan([found.values[1], found.se[1]]).all()
    assert np.isfinite(found.se[[0, 2]]).all()


def test_means_of_pairs_keep_their_shape():
    values = np.random.default_rng(3).normal(size=(20, 4))
    total, images = (each.reshape(20, 2, 2) for each in by_fold(values, np.arange(20)))
    found = means(total, images, DEPTH[:2])
    np.testing.assert_allclose(found.values, values.mean(0).reshape(2, 2), rtol=1e-12)
    usual = (values.std(0, ddof=1) / np.sqrt(20)).reshape(2, 2)
    np.testing.assert_allclose(found.se, usual, rtol=1e-10)


def test_a_contrast_of_means_is_paired():
    """Over the union of depths; what both share of an image cancels."""
    rng = np.random.default_rng(4)
    shared, folds = rng.normal(size=(60, 1)), np.arange(60) % 20
    one = shared + 0.1 * rng.normal(size=(60, 3))
    two = shared + 0.1 * rng.normal(size=(60, 2))
    sums = [np.stack(by_fold(values, folds), 1) for values in (one, two)]
    found = mean_contrast((sums[0], DEPTH), (sums[1], DEPTH[::2]), "simultaneous")
    difference = one - np.column_stack([two[:, 0], two.mean(1), two[:, 1]])
    np.testing.assert_allclose(found.values, difference.mean(0), rtol=1e-9)
    expected = [brute(column, folds) for column in difference.T]
    np.testing.assert_allclose(found.se, expected, rtol=1e-8)
    assert (found.se < 0.3 * means(*by_fold(one, folds), DEPTH).se).all()
    pointwise = mean_contrast((sums[0], DEPTH), (sums[1], DEPTH[::2]))
    assert (found.lower < pointwise.lower).all()
    assert (found.upper > pointwise.upper).all()
    margin = stats.t.ppf(0.975, 19) * np.array(expected)
    np.testing.assert_allclose(pointwise.upper - pointwise.values, margin, rtol=1e-8)
