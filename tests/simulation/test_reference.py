"""The library's statistics against the same formulas in plain NumPy, and against brute force."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from refiner_cka.results import statistics
from refiner_cka.results.jackknife import critical
from refiner_cka.sums import FOLDS, cosine, fold_of
from tests.simulation import populations, product, reference
from tests.synthetic import u_centred_gram

IMAGES = 70
"""In batches of 64 and 6."""

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@cache
def run():
    """Return the batches of a run of both models, and the library's products."""
    features = populations.two_models("classes").features(np.random.default_rng(5), IMAGES)
    batches = populations.batches(features)
    return batches, product.products(batches)


@cache
def by_hand():
    """Return CKA, and CKA without each fold, from images that are really left out."""
    places = np.array([reference.fold(place) for place in range(IMAGES)])
    batches = run()[0]
    ends = np.cumsum([batch.shape[1] for batch in batches])[:-1]
    total, remaining = reference.products(batches, np.split(places, ends))
    return reference.cka(total), np.array([reference.cka(each) for each in remaining])


def test_folds_are_the_ones_that_are_documented():
    places = np.arange(500)
    assert fold_of(places).tolist() == [reference.fold(place) for place in places]
    assert (np.bincount(fold_of(np.arange(400))) == 400 / FOLDS).all()


def test_what_is_removed_is_what_left_out_images_had():
    products = run()[1]
    cka, replicates = by_hand()
    np.testing.assert_allclose(cosine(products.total), cka, **EXACT)
    found = [cosine(products.total - removed) for removed in products.removed]
    np.testing.assert_allclose(found, replicates, **EXACT)


def test_intervals_of_pairs():
    cka, replicates = by_hand()
    found = statistics.similarity(run()[1])
    for place in ((0, 5), (3, 17), (10, 11)):
        values = cka[place], replicates[:, *place]
        se, _, _ = reference.interval(*values)
        expected = (cka[place], se, *reference.atanh_interval(*values))
        np.testing.assert_allclose(product.as_array(found)[:, *place], expected, **EXACT)


def test_intervals_of_curves():
    cka, replicates = (each[..., :12, 11] for each in by_hand())
    products = run()[1].of(np.arange(12))
    raw, ratio = (statistics.curve(products, name) for name in ("none", "first-last"))
    for layer in range(11):
        expected = reference.atanh_interval(cka[layer], replicates[:, layer])
        np.testing.assert_allclose((raw.lower[layer], raw.upper[layer]), expected, **EXACT)
    for layer in range(1, 12):
        expected = reference.ratio_interval((cka[layer], cka[0]), replicates[:, [layer, 0]])
        np.testing.assert_allclose((ratio.lower[layer], ratio.upper[layer]), expected, rtol=1e-9)


def test_intervals_of_contrasts():
    """At the depths of the second model's layers, where its curve takes no interpolation."""
    cka, replicates = by_hand()
    products = run()[1]
    first, second = products.of(np.arange(12)), products.of(np.arange(12, 18))
    raw, ratio = (statistics.contrast(first, second, name) for name in ("none", "first-last"))
    curves = np.concatenate([cka[None], replicates])
    for layer in range(1, 5):
        depth = layer / 5
        below = int(depth * 11)
        weight = depth * 11 - below
        a = (1 - weight) * curves[:, below, 11] + weight * curves[:, below + 1, 11]
        b, a_0, b_0 = curves[:, 12 + layer, 17], curves[:, 0, 11], curves[:, 12, 17]
        place = np.abs(raw.depth - depth).argmin()
        expected = reference.interval((a - b)[0], (a - b)[1:])
        np.testing.assert_allclose(product.as_array(raw)[1:, place], expected, **EXACT)
        x, y = a * b_0 - b * a_0, a_0 * b_0
        expected = reference.ratio_interval((x[0], y[0]), np.stack([x, y], 1)[1:])
        np.testing.assert_allclose((ratio.lower[place], ratio.upper[place]), expected, rtol=1e-9)


def test_a_simultaneous_band_reaches_as_far_as_correlated_errors_do():
    """Of 200,000 other draws 95 % lie within, up to 5 standard errors: 5 x 0.0016 for 20,000 of them."""
    replicates = np.arctanh(by_hand()[1][:, :11, 11])
    reach = critical(replicates, "simultaneous")
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal(np.zeros(11), np.corrcoef(replicates.T), 200_000)
    freedom = FOLDS - 1
    largest = np.abs(normal).max(1) / np.sqrt(rng.chisquare(freedom, 200_000) / freedom)
    assert (largest <= reach).mean() == pytest.approx(0.95, abs=0.008)
    assert critical(replicates, "pointwise") == pytest.approx(stats.t.ppf(0.975, freedom))


def test_partial_similarity_is_that_of_residuals():
    """U-centred matrices make a vector space: regress each on that of z, and take the cosine of what is left."""
    features = populations.two_models("classes").features(np.random.default_rng(2), 40)[
        [0, 4, 9, 15]
    ]
    matrices = np.array([u_centred_gram(layer).ravel() for layer in features])
    *layers, given = matrices
    residuals = [layer - (layer @ given) / (given @ given) * given for layer in layers]
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in residuals] for a in residuals]
    found = statistics.partial_values(matrices @ matrices.T)
    np.testing.assert_allclose(found, expected, **EXACT)
