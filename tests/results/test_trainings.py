"""Groups of trainings: means, contrasts and ceilings against the textbook, and what is refused."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from refiner_cka.errors import ResultError
from refiner_cka.results import trainings
from refiner_cka.results.estimate import Estimate
from tests.synthetic import synthetic_result, with_smoothing

GROUPS = {"ViT": ["v0", "v1", "v2"], "Refiner": ["r0", "r1"]}
MODELS = {"v0": 6, "r0": 4, "v1": 6, "other": 6, "v2": 6, "r1": 4}


@pytest.fixture(scope="module")
def result():
    provenance = {"batch_size": 16, "groups": GROUPS}
    return with_smoothing(synthetic_result(MODELS, provenance=provenance))


def test_the_curve_of_a_group_is_the_mean_over_trainings_with_students_interval(result):
    for normalize in ("none", "first-last", "min-max"):
        values = np.stack(
            [result.curve(model, normalize=normalize).values for model in GROUPS["ViT"]]
        )
        found = result.curve("ViT", normalize=normalize)
        np.testing.assert_allclose(found.values, values.mean(0), rtol=1e-15)
        deviation = np.sqrt(((values - values.mean(0)) ** 2).sum(0) / 2)
        np.testing.assert_allclose(found.spread, deviation, atol=1e-15)
        np.testing.assert_allclose(found.se, deviation / np.sqrt(3), atol=1e-15)
        # Student's quantile of 97.5 % with two degrees of freedom, from tables; SciPy 1.12 has it to 4e-11.
        reach = 4.302652729749464 * deviation / np.sqrt(3)
        # Its own error, not that of a bound near 0, and what two sums near 1 round off.
        close = {"rtol": 1e-10, "atol": 1e-15}
        np.testing.assert_allclose(found.upper - values.mean(0), reach, **close)
        np.testing.assert_allclose(values.mean(0) - found.lower, reach, **close)
        assert (found.over, found.trainings) == ("trainings", 3)
        np.testing.assert_array_equal(found.depth, np.linspace(0, 1, 6))


def test_a_contrast_of_groups_has_welchs_interval(result):
    found = result.contrast("ViT", "Refiner")
    assert (found.over, found.trainings) == ("trainings", 5)
    for place, depth in enumerate(found.depth[:-1]):
        one, two = (
            [
                np.interp(depth, curve.depth, curve.values)
                for curve in (result.curve(model, normalize="none") for model in GROUPS[group])
            ]
            for group in ("ViT", "Refiner")
        )
        test = stats.ttest_ind(one, two, equal_var=False)
        interval = test.confidence_interval(0.95)
        assert found.values[place] == pytest.approx(np.mean(one) - np.mean(two), rel=1e-9)
        assert found.lower[place] == pytest.approx(interval.low, rel=1e-9)
        assert found.upper[place] == pytest.approx(interval.high, rel=1e-9)
        assert found.se[place] == pytest.approx(found.values[place] / test.statistic, rel=1e-9)
    # At the last layer every raw curve is 1, in every training.
    assert [found.values[-1], found.se[-1], found.lower[-1], found.upper[-1]] == [0.0] * 4


def test_the_ceiling_is_the_mean_over_pairs_with_an_error_over_images(result):
    found = result.ceiling("ViT")
    pairs = np.stack(
        [np.diagonal(result.cka(one, two)) for one, two in combinations(GROUPS["ViT"], 2)]
    )
    np.testing.assert_allclose(found.values, pairs.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.spread, pairs.std(0, ddof=1), rtol=1e-12)

    def mean_without(removed):
        left = result.sums["similarity/cka/products"] - removed
        rows = [result.rows(model) for model in GROUPS["ViT"]]
        each = [
            left[one, two] / np.sqrt(left[one, one] * left[two, two])
            for one, two in combinations(rows, 2)
        ]
        return sum(each) / 3

    left_out = np.stack([mean_without(each) for each in result.sums["similarity/cka/removed"]])
    error = np.sqrt(19 / 20 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.se, error, rtol=1e-9)
    # Student's quantile with 19 degrees of freedom, on the scale of artanh.
    scaled = np.arctanh(left_out)
    reach = 2.093024054408263 * np.sqrt(19 / 20 * ((scaled - scaled.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.upper, np.tanh(np.arctanh(found.values) + reach), rtol=1e-9)
    np.testing.assert_allclose(found.lower, np.tanh(np.arctanh(found.values) - reach), rtol=1e-9)
    assert (found.over, found.trainings, found.folds) == ("images", 3, 20)
    assert (result.ceiling("ViT", band="simultaneous").upper >= found.upper).all()


def test_the_ceiling_of_two_trainings_is_their_cka_and_has_no_spread(result):
    found, pair = result.ceiling("Refiner"), result.similarity("cka", "r0", "r1")
    for name in ("values", "se", "lower", "upper"):
        wanted = np.diagonal(getattr(pair, name))
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-9)
    assert np.isnan(found.spread).all()


def test_measures_of_groups(result):
    each = np.stack([result.smoothing("patch_cosine", model).values for model in GROUPS["ViT"]])
    found = result.smoothing("patch_cosine", "ViT")
    np.testing.assert_allclose(found.values, each.mean(0), rtol=1e-15)
    np.testing.assert_allclose(found.se, each.std(0, ddof=1) / np.sqrt(3), rtol=1e-12)
    changes = [result.smoothing_change("patch_cosine", model).values[0] for model in GROUPS["ViT"]]
    change = result.smoothing_change("patch_cosine", "ViT")
    assert change.values[0] == pytest.approx(np.mean(changes), rel=1e-12)
    assert change.spread[0] == pytest.approx(np.std(changes, ddof=1), rel=1e-12)
    other = result.smoothing("patch_cosine", "Refiner")
    difference = result.smoothing_contrast("patch_cosine", "ViT", "Refiner")
    assert difference.values[-1] == pytest.approx(found.values[-1] - other.values[-1], rel=1e-12)
    variance = found.se[-1] ** 2 + other.se[-1] ** 2
    assert difference.se[-1] == pytest.approx(np.sqrt(variance), rel=1e-12)
    pairs = result.smoothing("attention_block_similarity", "ViT")
    assert pairs.values.shape == (6, 6)
    assert pairs.over == "trainings"


def test_the_accuracy_of_a_group_is_the_mean_over_trainings(result):
    each = [result.top1(model) for model in GROUPS["ViT"]]
    assert result.top1("ViT") == pytest.approx(sum(each) / 3, rel=1e-15)
    unknown = {**result.sums, "top1/trials": np.zeros(6), "top1/hits": np.zeros(6)}
    assert replace(result, sums=unknown).top1("ViT") is None


def of_values(*values):
    nothing = np.full(len(values), np.nan)
    depth = np.linspace(0, 1, len(values))
    return Estimate(np.array(values), nothing, nothing, nothing, depth, folds=20)


def test_what_one_training_lacks_the_group_lacks():
    both = [of_values(1.0, np.nan, 3.0), of_values(2.0, 2.0, 5.0)]
    found = trainings.mean(both)
    np.testing.assert_array_equal(found.values, [1.5, np.nan, 4.0])
    np.testing.assert_array_equal(np.isnan(found.upper), [False, True, False])
    assert [each.values.tolist() for each in trainings.defined(both, "m")] == [[1, 3], [2, 5]]
    with pytest.raises(ResultError, match="m is defined at no layer"):
        trainings.defined([of_values(np.nan, 1.0), of_values(1.0, np.nan)], "m")


def test_an_unresolved_training_makes_its_group_unresolved():
    provenance = {"groups": {"ViT": ["a", "b"]}}
    result = synthetic_result({"a": 3, "b": 3}, unresolved=["b"], provenance=provenance)
    assert result.curve("a").resolved
    assert not result.curve("ViT").resolved


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.contrast("ViT", "other"), "'ViT' is a group and 'other' is none"),
        (lambda r: r.contrast("other", "ViT"), "'ViT' is a group and 'other' is none"),
        (lambda r: r.contrast("ViT", "nothing"), "no model 'nothing'"),
        (lambda r: r.smoothing_contrast("patch_cosine", "ViT", "v0"), "'v0' is none"),
        (
            lambda r: r.smoothing_contrast("attention_block_similarity", "ViT", "Refiner"),
            "of pairs",
        ),
        (lambda r: r.curve("ViT", band="simultaneous"), "too few for a simultaneous band"),
        (
            lambda r: r.contrast("ViT", "Refiner", band="simultaneous"),
            "too few for a simultaneous band",
        ),
        (lambda r: r.ceiling("other"), "no group 'other' in this result; it holds ViT, Refiner"),
        (lambda r: r.similarity("cka", "ViT"), "'ViT' is a group .* one of them: v0, v1, v2"),
        (
            lambda _: synthetic_result({"a": 2}).ceiling("ViT"),
            "it holds none: name trainings of one recipe with group=",
        ),
    ],
)
def test_refusals(result, ask, message):
    with pytest.raises(ResultError, match=message) as caught:
        ask(result)
    assert "\n" not in str(caught.value)
