"""What unrelated images give by chance: quantiles, p-values and their correction.

Tolerances: z is rounded to eps x sqrt(shape) = 2 eps / skewness, 4e-12 at most; SciPy's incomplete gamma functions
are right to about 1e-12, which a density of at least 3e-3 (|z| < 3.1) makes 3e-10 of z.
"""

import numpy as np
import pytest
from scipy import stats

import refiner_cka as rc
from refiner_cka.results.chance import Null, corrected
from tests.synthetic import synthetic_result

PROBABILITIES = np.array([0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
SKEWNESSES = [-3.0, -0.5, -2e-4, -5e-5, 0.0, 5e-5, 2e-4, 0.5, 3.0]


def null(values, sd=1.0, skewness=0.0):
    values = np.atleast_2d(np.asarray(values, float))
    full = np.ones(values.shape)
    return Null(values, sd * full, skewness * full, full > 1)


@pytest.mark.parametrize("skewness", SKEWNESSES)
def test_p_values_and_quantiles_are_inverse_to_each_other(skewness):
    for probability in PROBABILITIES:
        value = null([0.0], 0.02, skewness).quantile(probability)
        assert null(value, 0.02, skewness).p_values() == pytest.approx(1 - probability, abs=1e-9)


@pytest.mark.parametrize("skewness", SKEWNESSES)
def test_p_values_are_those_of_pearsons_third_type(skewness):
    """The normal one below 1e-4: it differs by skewness / 6 x |(z^2 - 1) density| < 0.07 x skewness."""
    z = np.linspace(-3, 3, 25)
    expected = stats.pearson3.sf(z, skewness)
    tolerance = 0.07 * abs(skewness) if abs(skewness) < 1e-4 else 1e-9
    found = null(0.02 * z, 0.02, skewness).p_values()[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=max(tolerance, 1e-12))


def test_beyond_the_end_of_a_skewed_distribution_chance_is_0_or_1():
    """Its end lies at -2 / skewness."""
    assert null([-5.0, -1.0], 1.0, 0.5).p_values()[0, 0] == 1
    assert null([5.0, 1.0], 1.0, -0.5).p_values()[0, 0] == 0


def test_holm_steps_down_and_counts_no_undefined_test():
    found = corrected(np.array([[0.01, 0.04], [np.nan, 0.03]]), "holm")
    np.testing.assert_allclose(found, [[0.03, 0.06], [np.nan, 0.06]], rtol=1e-12)
    assert corrected(np.array([0.6, 0.7]), "holm").tolist() == [1.0, 1.0]
    assert np.isnan(corrected(np.full((2, 2), np.nan), "holm")).all()
    plain = np.array([0.2, np.nan])
    np.testing.assert_array_equal(corrected(plain, "none"), plain)
    with pytest.raises(
        rc.ResultError, match="unknown correction 'bonferroni'; choose holm or none"
    ):
        corrected(plain, "bonferroni")


def test_the_distribution_is_made_of_the_summed_moments():
    variance, third = np.array([[4.0, 9.0]]), np.array([[4.0, -27.0]])
    fourth = np.array([[0.29 * 16, 0.31 * 81]])
    own = np.array([16.0]), np.array([1.0, 25.0])
    found = Null.of(np.zeros((1, 2)), own, (variance, third, fourth))
    np.testing.assert_allclose(found.sd, [[2 / 4, 3 / 20]])
    np.testing.assert_allclose(found.skewness, [[0.5, -1.0]])
    assert found.rough.tolist() == [[False, True]]


@pytest.mark.parametrize("size", [1e-200, 1e-150, 1e160, 1e200])
def test_moments_of_very_large_or_small_features_lose_no_range(size):
    """No power of the variance must be formed: its square is beyond float64."""
    scale = size**0.5
    moments = [np.array([[number]]) for number in (size, 0.3 * size * scale, 0.1 * size)]
    found = Null.of(np.array([[0.5]]), (np.array([scale]), np.array([scale])), moments)
    assert found.sd == pytest.approx(1.0)
    assert found.skewness == pytest.approx(0.3)


@pytest.mark.parametrize("moment", [0.0, np.nan, np.inf])
def test_a_degenerate_layer_has_no_chance(moment):
    values, own = np.array([[np.nan]]), (np.array([moment]), np.array([4.0]))
    found = Null.of(values, own, [np.array([[moment]])] * 3)
    for array in (found.sd, found.skewness, found.p_values(), found.quantile(0.95)):
        assert np.isnan(array).all()
    assert not found.rough.any()


def test_moments_beyond_float64_leave_the_similarity_without_a_p_value():
    full = np.array([[1e300]])
    found = Null.of(np.array([[0.5]]), (np.ones(1), np.ones(1)), (full, full * np.inf, full))
    assert np.isnan([found.sd, found.skewness, found.p_values(), found.quantile(0.5)]).all()


def test_a_result_answers_for_its_layers_and_leaves_out_degenerate_ones():
    result = synthetic_result({"a": 4, "b": 3}, constant=[("a", 1), ("b", 2)])
    raw = result.p_values("a", "b", correct="none")
    assert np.isnan(raw[1]).all()
    assert np.isnan(raw[:, 2]).all()
    assert np.isnan(result.chance("a", "b")[1]).all()
    np.testing.assert_array_equal(result.p_values("a", "b"), corrected(raw, "holm"))
    variance = result.sums["similarity/cka/variance"][0, 5]
    own = np.diagonal(result.sums["similarity/cka/products"])
    expected = np.sqrt(variance / (own[0] * own[5]))
    assert result.chance("a", "b")[0, 1] == pytest.approx(expected)
    z = result.cka("a", "b")[0, 1] / expected
    assert raw[0, 1] == pytest.approx(stats.norm.sf(z), rel=1e-9)


def test_the_best_match_is_the_most_similar_layer_corrected_for_the_search():
    result = synthetic_result({"a": 4, "b": 3}, constant=[("a", 1), ("b", 2)])
    matches = result.best_match("a", "b")
    assert [match.layer for match in matches] == ["blocks.0", "blocks.2", "blocks.3"]
    cka, estimate = result.cka("a", "b")[[0, 2, 3]], result.similarity("cka", "a", "b")
    p_values = result.p_values("a", "b", correct="none")[[0, 2, 3]]
    for row, match in enumerate(matches):
        column = int(np.nanargmax(cka[row]))
        assert match.match == f"blocks.{column}"
        assert match.similarity == cka[row, column]
        ends = (estimate.lower, estimate.upper)
        assert (match.lower, match.upper) == tuple(end[[0, 2, 3]][row, column] for end in ends)
        # The greatest of two has the smaller p-value, if both have the same width of chance.
        assert match.p == corrected(p_values[row], "holm")[column]
        assert match.lower < match.similarity < match.upper


def test_of_one_model_each_pair_counts_once():
    """Of the same layers in rows and columns the matrix holds each pair twice, and each layer with itself."""
    result = synthetic_result({"a": 4}, unresolved=["a"], batches=4)
    raw, found = result.p_values("a", correct="none"), result.p_values("a")
    below = np.tril_indices(4, -1)
    np.testing.assert_array_equal(found[below], corrected(raw[below], "holm"))
    np.testing.assert_array_equal(found, found.T)
    assert np.isnan(np.diagonal(found)).all()
    np.testing.assert_array_equal(found, result.p_values("a", "a"))
