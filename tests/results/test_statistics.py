"""Estimates and errors from sums, against brute force and against simulation."""

import numpy as np
import pytest
from scipy import stats

from refiner_cka.results import statistics as estimate
from refiner_cka.results.jackknife import Products, critical
from refiner_cka.sums import cosine
from tests.results.made import grams, jackknife, left_out, products, without
from tests.synthetic import u_centred_gram

T = stats.t.ppf(0.975, 19)


def raw_curve(total):
    """CKA with the last layer by its formula."""
    own = np.sqrt(np.diagonal(total))
    return total[:, -1] / own / own[-1]


def with_noise_for_first():
    """Layers of which the first has nothing to do with the others."""
    stack = grams()
    features = np.random.default_rng(3).standard_normal((stack.shape[1], 40))
    stack[0] = u_centred_gram(features)
    return products(stack)


def covariance(x, y):
    """Jackknife covariance `(2, 2)` of two numbers without each fold."""
    g = len(x)
    return (g - 1) ** 2 / g * np.cov(x, y)


def fieller_by_hand(values, x, y, reach):
    """Ends of the set of r with |x - r y| within `reach` standard errors: the roots of a quadratic."""
    (var_x, cov), (_, var_y) = covariance(x, y)
    roots = np.roots(
        [
            values[1] ** 2 - reach**2 * var_y,
            -2 * (values[0] * values[1] - reach**2 * cov),
            values[0] ** 2 - reach**2 * var_x,
        ]
    )
    return sorted(roots.real)


def test_cka_is_symmetric_with_ones_and_not_clamped():
    given = np.array([[4.0, -1.0], [-1.0, 9.0]])
    np.testing.assert_array_equal(cosine(given), [[1, -1 / 6], [-1 / 6, 1]])


@pytest.mark.parametrize("own", [0.0, -1e-3, np.nan, np.inf])
def test_a_degenerate_layer_is_nan_in_its_row_and_column_only(own):
    given = np.array([[4.0, 1.0, 1.0], [1.0, own, 1.0], [1.0, 1.0, 9.0]])
    values = cosine(given)
    assert np.isnan(values[1]).all()
    assert np.isnan(values[:, 1]).all()
    assert values[0, 2] == pytest.approx(1 / 6)


def test_an_interval_of_similarity_is_students_on_the_scale_of_artanh():
    stack = grams()
    found = estimate.similarity(products(stack))
    at = 0, 2
    value = cosine(without(stack, -1))[at]
    left = left_out(stack, lambda total: cosine(total)[at])
    margin = T * jackknife(np.arctanh(left))
    assert found.values[at] == pytest.approx(value, abs=1e-12)
    assert found.se[at] == pytest.approx(jackknife(left), rel=1e-6)
    assert found.lower[at] == pytest.approx(np.tanh(np.arctanh(value) - margin), abs=1e-8)
    assert found.upper[at] == pytest.approx(np.tanh(np.arctanh(value) + margin), abs=1e-8)
    assert (found.folds, found.over, found.band) == (20, "images", "pointwise")


def test_identical_layers_have_the_interval_of_1_and_none_goes_beyond():
    """Layers that hardly differ, few images, one of them far out."""
    stack = grams(images=24, layers=5)
    stack[1] = stack[0]
    stack[2] = (1 - 1e-9) * stack[0] + 1e-9 * stack[4]
    stack[:, 3] *= 30
    stack[:, :, 3] *= 30
    found = estimate.similarity(products(stack))
    for pair in ((0, 1), (0, 0), (4, 4)):
        assert (found.values[pair], found.lower[pair], found.upper[pair]) == (1.0, 1.0, 1.0)
    assert (found.upper <= 1).all()
    assert (found.lower >= -1).all()
    assert (found.lower <= found.values).all()
    assert (found.values <= found.upper).all()


def test_with_few_folds_errors_and_intervals_are_nan_and_s_is_unresolved():
    few = products(grams(images=11))
    assert np.isnan(estimate.similarity(few).se).all()
    assert np.isnan(estimate.similarity(few).lower).all()
    for normalize in estimate.NORMALIZATIONS:
        for band in ("pointwise", "simultaneous"):
            curve = estimate.curve(few, normalize, band)
            assert np.isfinite(curve.values).all()
            assert np.isnan(curve.se).all()
            assert np.isnan(curve.lower).all()
            assert np.isnan(estimate.contrast(few, few, normalize, band).upper).all()
    assert not estimate.curve(few, "first-last").resolved


def test_curves():
    sums = products(grams())
    matrix = cosine(sums.total)
    raw, ratio, scaled = (estimate.curve(sums, name) for name in ("none", "first-last", "min-max"))
    np.testing.assert_array_equal(raw.values, matrix[:, -1])
    np.testing.assert_allclose(ratio.values, matrix[:, -1] / matrix[0, -1])
    assert (scaled.values.min(), scaled.values.max()) == (0, 1)
    np.testing.assert_allclose(raw.depth, [0, 1 / 3, 2 / 3, 1])
    assert ratio.values[0] == 1
    assert ratio.se[0] == pytest.approx(0, abs=1e-12)
    assert raw.values[-1] == 1
    assert raw.se[-1] == pytest.approx(0, abs=1e-12)
    assert (raw.lower[-1], raw.upper[-1]) == (1, 1)


@pytest.mark.parametrize("band", ["pointwise", "simultaneous"])
def test_the_interval_of_a_raw_curve_by_hand(band):
    stack = grams()
    found = estimate.curve(products(stack), "none", band)
    left = np.arctanh(left_out(stack, raw_curve)[:, :-1])
    reach = T if band == "pointwise" else critical(left, band)
    middle, margin = np.arctanh(raw_curve(without(stack, -1))[:-1]), reach * jackknife(left)
    np.testing.assert_allclose(found.lower[:-1], np.tanh(middle - margin), atol=1e-8)
    np.testing.assert_allclose(found.upper[:-1], np.tanh(middle + margin), atol=1e-8)
    assert found.band == band


def test_the_normalised_curve_has_its_own_jackknife_and_fiellers_interval():
    stack = grams()
    found = estimate.curve(products(stack), "first-last")
    left, value = left_out(stack, raw_curve), raw_curve(without(stack, -1))
    expected = jackknife(left / left[:, :1])
    np.testing.assert_allclose(found.se, expected, rtol=1e-6, atol=1e-12)
    for layer in (1, 2, 3):
        pair = value[layer], value[0]
        ends = fieller_by_hand(pair, left[:, layer], left[:, 0], T)
        assert (found.lower[layer], found.upper[layer]) == pytest.approx(ends, abs=1e-7)
    assert (found.lower[0], found.upper[0]) == (1, 1)
    assert found.resolved


def test_the_contrast_of_normalised_curves_has_fiellers_interval():
    """a / a_0 - b / b_0 as the ratio of a b_0 - b a_0 to a_0 b_0."""
    one, two = grams(), grams(seed=7)
    found = estimate.contrast(products(one), products(two), "first-last")
    a, b = (left_out(stack, raw_curve) for stack in (one, two))
    va, vb = (raw_curve(without(stack, -1)) for stack in (one, two))
    np.testing.assert_allclose(found.values, va / va[0] - vb / vb[0], atol=1e-12)
    expected = jackknife(a / a[:, :1] - b / b[:, :1])
    np.testing.assert_allclose(found.se, expected, rtol=1e-6, atol=1e-12)
    for layer in (1, 2, 3):
        x = a[:, layer] * b[:, 0] - b[:, layer] * a[:, 0]
        pair = va[layer] * vb[0] - vb[layer] * va[0], va[0] * vb[0]
        ends = fieller_by_hand(pair, x, a[:, 0] * b[:, 0], T)
        assert (found.lower[layer], found.upper[layer]) == pytest.approx(ends, abs=1e-7)
    assert (found.lower[0], found.upper[0]) == (0, 0)


def test_fieller_solves_its_definition():
    """At both ends the linear combination n - r d lies exactly t standard errors from 0."""
    n, d, t = 0.8, 0.5, 2.1
    (var_n, cov), (_, var_d) = covariances = np.array([[0.002, 0.0005], [0.0005, 0.001]])
    for end in estimate.fieller(n, d, covariances, t):
        deviation = (n - end * d) ** 2
        assert deviation == pytest.approx(t**2 * (var_n - 2 * end * cov + end**2 * var_d))


def test_fieller_is_unbounded_when_the_denominator_may_be_zero():
    assert estimate.fieller(1.0, 0.1, np.eye(2), 2.1) == (-np.inf, np.inf)
    assert np.isnan(estimate.fieller(1.0, np.nan, np.eye(2), 2.1)).all()


def test_s_of_the_first_layer_is_1_also_where_the_others_may_be_anything():
    sums = with_noise_for_first()
    curve = estimate.curve(sums, "first-last")
    assert not curve.resolved
    assert (curve.lower[0], curve.upper[0]) == (1, 1)
    assert (curve.lower[1:] == -np.inf).all()
    assert (curve.upper[1:] == np.inf).all()
    contrast = estimate.contrast(sums, products(grams()), "first-last")
    assert not contrast.resolved
    assert (contrast.lower[0], contrast.upper[0]) == (0, 0)


@pytest.mark.parametrize("normalize", estimate.NORMALIZATIONS)
def test_simultaneous_bands_contain_pointwise_ones(normalize):
    one, two = products(grams()), products(grams(layers=3, seed=7))
    for ask in (
        lambda band: estimate.curve(one, normalize, band),
        lambda band: estimate.contrast(one, two, normalize, band),
    ):
        narrow, wide = ask("pointwise"), ask("simultaneous")
        np.testing.assert_array_equal(narrow.values, wide.values)
        np.testing.assert_array_equal(narrow.se, wide.se)
        assert (wide.lower <= narrow.lower).all()
        assert (wide.upper >= narrow.upper).all()
        assert (wide.upper > narrow.upper).any()


def test_a_curve_is_unresolved_when_its_denominator_is_noise():
    assert not estimate.curve(with_noise_for_first(), "first-last").resolved
    assert estimate.curve(products(grams()), "first-last").resolved


def test_a_single_layer_is_its_own_last():
    curve = estimate.curve(products(grams(layers=1)), "first-last")
    assert curve.values.tolist() == curve.lower.tolist() == curve.upper.tolist() == [1.0]
    assert curve.depth.tolist() == [1.0]


def test_a_degenerate_layer_leaves_the_rest_of_the_curve():
    stack = grams()
    stack[1] = 0
    for normalize in estimate.NORMALIZATIONS:
        for band in ("pointwise", "simultaneous"):
            curve = estimate.curve(products(stack), normalize, band)
            for array in (curve.values, curve.se, curve.lower, curve.upper):
                assert np.isnan(array[1])
                assert np.isfinite(array[[0, 2, 3]]).all()


@pytest.mark.parametrize("normalize", estimate.NORMALIZATIONS)
def test_a_contrast_of_equal_models_is_zero_with_zero_error(normalize):
    sums = products(grams())
    contrast = estimate.contrast(sums, sums, normalize)
    for array in (contrast.values, contrast.se, contrast.lower, contrast.upper):
        assert np.abs(array).max() == 0


def test_a_contrast_is_paired_and_interpolates_over_the_union_of_depths():
    first, second = grams(layers=4), grams(layers=3)
    contrast = estimate.contrast(products(first), products(second), "none")
    np.testing.assert_allclose(contrast.depth, [0, 1 / 3, 0.5, 2 / 3, 1])

    def by_hand(a, b):
        return np.array(
            [
                a[0] - b[0],
                a[1] - (b[0] + 2 * b[1]) / 3,
                (a[1] + a[2]) / 2 - b[1],
                a[2] - (2 * b[1] + b[2]) / 3,
                a[3] - b[2],
            ]
        )

    whole = by_hand(*(raw_curve(without(stack, -1)) for stack in (first, second)))
    np.testing.assert_allclose(contrast.values, whole, atol=1e-12)
    left = [left_out(stack, raw_curve) for stack in (first, second)]
    expected = jackknife(np.array([by_hand(a, b) for a, b in zip(*left, strict=True)]))
    np.testing.assert_allclose(contrast.se, expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(contrast.upper - contrast.values, T * expected, atol=1e-8)


def test_intervals_cover_the_truth():
    """95 % intervals of CKA(first, last) over 200 runs of 48 images.

    The truth of normal factors Z and features Z A, Z B is |A'B|^2 / (|A'A| |B'B|), Frobenius norms. The number
    that cover is binomial: below 181 with probability 0.4 % if coverage is 95 %.
    """
    a, b = np.random.default_rng(0).standard_normal((2, 10, 40))
    truth = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    covered = 0
    for run in range(200):
        stack = factors(a, b, run)
        curve = estimate.curve(products(stack), "none")
        covered += curve.lower[0] <= truth <= curve.upper[0]
    assert covered >= 181


def factors(a, b, seed):
    latent = np.random.default_rng(1000 + seed).standard_normal((48, 10))
    return np.stack([u_centred_gram(latent @ a), u_centred_gram(latent @ b)])


def test_partial_similarity_is_that_of_the_residuals():
    """Of U-centred matrices from which their projection on that of z is taken away, in float64."""
    stack = grams(images=30, layers=5)
    z = stack[-1]
    residuals = stack[:-1] - ((stack[:-1] * z).sum((1, 2)) / (z * z).sum())[:, None, None] * z
    flat = residuals.reshape(4, -1)
    expected = cosine(flat @ flat.T)
    found = estimate.partial_values(products(stack).total)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.diagonal(found).tolist() == [1.0] * 4


def test_nothing_is_left_of_a_layer_that_equals_what_is_taken_away():
    stack = grams(images=30, layers=4)
    stack[1] = 2 * stack[-1]
    found = estimate.partial_values(products(stack).total)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[[0, 0, 2], [0, 2, 2]]).all()


@pytest.mark.parametrize("normalize", estimate.NORMALIZATIONS)
def test_nothing_measured_is_undefined_not_an_error(normalize):
    nothing = Products(np.zeros((3, 3)), np.zeros((0, 3, 3)))
    assert np.isnan(estimate.similarity(nothing).values).all()
    for band in ("pointwise", "simultaneous"):
        curve = estimate.curve(nothing, normalize, band)
        assert np.isnan(curve.values).all()
        assert np.isnan(curve.lower).all()
        assert np.isnan(estimate.contrast(nothing, nothing, normalize, band).se).all()
