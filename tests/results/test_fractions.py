"""Fractions of sums over images and their errors, against the sums without each fold."""

import json

import h5py
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

import refiner_cka as rc
from refiner_cka.results.means import fractions, freedom_of
from refiner_cka.results.numbers import numbers
from refiner_cka.results.pairing import Common
from refiner_cka.sums import FOLDS
from tests.results.made import jackknife
from tests.synthetic import WITHIN, synthetic_result, with_fraction

DEPTH = np.array([0.0, 0.5, 1.0])
NAME = "within_image_variance"


def sums(folds=20, seed=0):
    rng = np.random.default_rng(seed)
    whole = rng.uniform(0.5, 1.5, (folds, 3)) * [1, 1, 0] + [0, 0, 1]
    whole[4, 1] = 30  # one fold decides
    return whole * rng.uniform(0.2, 0.8, whole.shape), whole, np.full(whole.shape, 7.0)


def brute(part, whole):
    """A fraction without each fold."""
    folds = np.arange(len(part))
    return np.array([part[folds != f].sum(0) / whole[folds != f].sum(0) for f in folds])


def satterthwaite(whole):
    """Degrees of freedom of a sum of squares of independent normal numbers: 2 mean^2 / variance, drawn."""
    g = len(whole)
    spread = np.array([whole[f] / np.delete(whole, f, axis=0).sum(0) for f in range(g)])
    squares = np.random.default_rng(0).standard_normal((100_000, g, 1)) ** 2
    drawn = (squares * spread**2).sum(1)
    return (g - 1) / g * 2 * drawn.mean(0) ** 2 / drawn.var(0)


def test_fractions_and_errors():
    part, whole, images = sums()
    found = fractions(part, whole, images, DEPTH)
    values, left = part.sum(0) / whole.sum(0), brute(part, whole)
    np.testing.assert_allclose(found.values, values, rtol=1e-12)
    np.testing.assert_allclose(found.se, jackknife(left), rtol=1e-10)
    margin = stats.t.ppf(0.975, found.freedom) * jackknife(logit(left))
    np.testing.assert_allclose(found.lower, expit(logit(values) - margin), rtol=1e-9)
    np.testing.assert_allclose(found.upper, expit(logit(values) + margin), rtol=1e-9)
    assert found.images.tolist() == [140] * 3
    assert found.folds == 20


def test_there_are_as_many_degrees_of_freedom_as_folds_decide():
    part, whole, images = sums()
    found = fractions(part, whole, images, DEPTH).freedom
    np.testing.assert_allclose(found, satterthwaite(whole), rtol=0.03)
    assert found[2] == pytest.approx(19)  # all folds alike
    assert 0.95 < found[1] < 1
    alone = np.zeros((20, 1))
    alone[7] = 1
    assert np.isnan(freedom_of(alone))


@pytest.mark.parametrize("size", [1e9, 1e70])
def test_a_fold_that_holds_nearly_everything_leaves_what_the_others_have(size):
    part, whole, images = sums()
    part[4], whole[4] = part[4] * size, whole[4] * size
    found = fractions(part, whole, images, DEPTH)
    np.testing.assert_allclose(found.se, jackknife(brute(part, whole)), rtol=1e-9)
    assert ((found.lower > 0) & (found.upper < 1)).all()
    np.testing.assert_allclose(found.freedom, 0.95, rtol=1e-6)


def test_where_all_is_within_or_nothing_the_interval_is_a_point():
    part, whole, images = sums()
    part[:, 0], part[:, 1] = 0, whole[:, 1]
    found = fractions(part, whole, images, DEPTH)
    assert found.lower[:2].tolist() == found.values[:2].tolist() == found.upper[:2].tolist()
    assert found.values[:2].tolist() == [0.0, 1.0]


def test_what_varies_nowhere_or_is_not_finite_is_undefined_at_its_layer_only():
    part, whole, images = sums()
    part[:, 0] = whole[:, 0] = images[:, 0] = 0
    part[3, 1], whole[3, 1] = np.inf, np.inf
    found = fractions(part, whole, images, DEPTH)
    for each in (found.values, found.se, found.lower, found.upper):
        assert np.isnan(each).tolist() == [True, True, False]


def test_a_band_for_the_whole_curve_is_wider_where_few_folds_decide():
    narrow, wide = (fractions(*sums(), DEPTH, band) for band in ("pointwise", "simultaneous"))
    assert (wide.lower < narrow.lower).all()
    assert (wide.upper > narrow.upper).all()
    reach = (logit(wide.upper) - logit(wide.values)) / (logit(narrow.upper) - logit(narrow.values))
    np.testing.assert_allclose(reach, reach[0], rtol=1e-9)


@pytest.fixture(scope="module")
def result():
    return with_fraction(synthetic_result({"a": 4, "b": 3}))


def test_a_fraction_is_asked_for_like_a_mean(result):
    assert NAME in result.measures
    part, whole, images = (result.sums[f"{WITHIN.path}/{of}"] for of in ("part", "whole", "images"))
    found, expected = result.smoothing(NAME, "b"), fractions(part, whole, images, np.ones(7))
    # Processors add the folds of three columns and of seven in different orders.
    rounding = 2 * FOLDS * np.finfo(float).eps
    np.testing.assert_allclose(found.upper, expected.upper[4:], rtol=rounding)
    left = brute(part, whole)
    change = result.smoothing_change(NAME, "a").at(0)
    assert change.values == pytest.approx(found_of(part, whole, 3) - found_of(part, whole, 0))
    assert change.se == pytest.approx(jackknife(left[:, 3] - left[:, 0]))
    contrast = result.smoothing_contrast(NAME, "a", "b")
    first, last = contrast.at(0), contrast.at(-1)
    assert first.se == pytest.approx(jackknife(left[:, 0] - left[:, 4]))
    assert last.freedom == pytest.approx(min(freedom_of(whole)[[3, 6]]))
    reach = stats.t.ppf(0.975, last.freedom) * last.se
    assert last.upper - last.values == pytest.approx(reach)
    assert reach > 1.2 * stats.t.ppf(0.975, 19) * last.se


def found_of(part, whole, layer):
    return part[:, layer].sum() / whole[:, layer].sum()


def test_the_file_describes_it_and_tables_hold_it(result, tmp_path):
    result.save(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        of = file["smoothing/within_image_variance"]
        assert of.attrs["estimator"] == "fraction"
        assert {name for name in of if of[name].attrs.get("additive")} == {
            "part",
            "whole",
            "images",
        }
        np.testing.assert_allclose(of["part"][()].sum(0) / of["whole"][()].sum(0), of["values"])
    loaded = rc.load(tmp_path / "run.h5")
    assert loaded.quantity(NAME) == WITHIN
    np.testing.assert_array_equal(loaded.smoothing(NAME).upper, result.smoothing(NAME).upper)
    rc.results.export(loaded, tmp_path / "run.json")
    told = json.loads((tmp_path / "run.json").read_text())["measures"][NAME]
    np.testing.assert_allclose(told["values"], result.smoothing(NAME).values)
    np.testing.assert_allclose(told["freedom"], result.smoothing(NAME).freedom)
    labels = [ax.get_ylabel() for ax in rc.plots.smoothing(result).figure.axes]
    assert any(WITHIN.label in label for label in labels)


@pytest.mark.parametrize("paired", [True, False])
def test_differences_of_two_results_have_the_degrees_of_freedom_of_fractions(result, paired):
    other = with_fraction(synthetic_result({"a": 4, "b": 3}), seed=1)
    found = next(
        each
        for each in numbers(Common.of(result, other), paired=paired)
        if each.quantity.name == NAME
    )
    one, two = (result.smoothing(NAME), other.smoothing(NAME))
    np.testing.assert_allclose(found.difference, two.values - one.values)
    if paired:
        over = np.minimum(one.freedom, two.freedom)
    else:
        variance, other_variance = one.se**2, two.se**2
        np.testing.assert_allclose(found.se, np.sqrt(variance + other_variance))
        over = found.se**4 / (variance**2 / one.freedom + other_variance**2 / two.freedom)
    np.testing.assert_allclose(found.p, 2 * stats.t.sf(np.abs(found.difference / found.se), over))


def test_what_is_written_for_reviewers_says_how_its_interval_is_taken(result):
    without = synthetic_result({"a": 4, "b": 3})
    for told in (rc.results.paragraph, rc.results.answers):
        assert "Satterthwaite" in str(told(result))
        assert "Satterthwaite" not in str(told(without))


def test_a_group_has_its_mean_over_trainings():
    made = synthetic_result(
        {"a": 3, "b": 3}, provenance={"batch_size": 16, "groups": {"g": ["a", "b"]}}
    )
    result = with_fraction(made)
    each = [result.smoothing(NAME, model).values for model in "ab"]
    np.testing.assert_allclose(result.smoothing(NAME, "g").values, np.mean(each, 0))
