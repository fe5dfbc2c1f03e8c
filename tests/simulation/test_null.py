"""Moments and p-values of the library's null distribution against permutations."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tests.simulation import null


@pytest.mark.parametrize("width", [1, 3])
def test_moments_of_all_orders(width):
    """All 7! = 5,040 orders of the images, so nothing is left to chance."""
    features = null.unrelated(np.random.default_rng(width), width, 7, False)
    orders = [np.array(order) for order in permutations(range(7))]
    found = null.shuffled(null.centred(features)[0], orders)
    sums = null.null(features)[0]
    size = np.sqrt(np.diagonal(sums["products"]).prod())
    assert found.mean() == pytest.approx(0, abs=1e-12 * size)
    assert sums["variance"][0, 1] == pytest.approx((found**2).mean(), rel=1e-10)
    assert sums["third"][0, 1] == pytest.approx((found**3).mean(), rel=1e-9, abs=1e-10 * size**3)


def test_moments_add_up_over_batches():
    """Batches are shuffled on their own: of a sum of independent numbers variance and third moment are sums."""
    features = null.unrelated(np.random.default_rng(0), 2, 64 + 20, False)
    total = null.null(features)[0]
    parts = [null.null(part)[0] for part in (features[:, :64], features[:, 64:])]
    for name in ("variance", "third"):
        np.testing.assert_allclose(total[name], parts[0][name] + parts[1][name], rtol=1e-12)


@pytest.mark.parametrize("width", [1, 24])
def test_p_values_are_right_where_normal_ones_are_not(width, monkeypatch):
    """Of 6 x 2,000 permutations 5 %, 1 % and 0.1 % lie below these levels.

    The bounds are 5 standard errors of a binomial, and as much as three moments leave open: a fifth of the level.
    """
    monkeypatch.setattr(null, "PERMUTATIONS", 2000)
    found = null.runs(width, 64, False, np.random.SeedSequence(1).spawn(6))
    count = 6 * 2000
    for place, level in enumerate(null.LEVELS):
        allowed = 5 * np.sqrt(level * (1 - level) / count) + level / 5
        assert abs(found["p"][:, place].mean() - level) < allowed
    if width == 1:
        assert found["normal"][:, -1].mean() > 0.01
    assert not found["rough"].any()


def test_p_values_that_an_outlier_makes_are_called_approximate():
    features = null.unrelated(np.random.default_rng(0), 24, 64, True)
    assert null.null(features)[1].rough[0, 1]


def test_p_values_of_a_normal_distribution():
    """Wide features have hardly any skewness, and normal p-values."""
    one = null.Null(np.array([0.1]), np.array([0.05]), np.array([1e-6]), np.array([False]))
    assert one.p_values() == pytest.approx(stats.norm.sf(2.0))
