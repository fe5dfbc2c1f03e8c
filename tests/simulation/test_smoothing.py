"""Intervals of token measures hold the population's value as often as they say, also from one batch on."""

import numpy as np
import pytest
from scipy import stats

from tests.simulation import smoothing

REPETITIONS = 200

LEAST = stats.binom.ppf(1e-4, REPETITIONS, 0.92) / REPETITIONS
"""Where 92 % is true, coverage lies below with probability 1e-4: 84 %.

Without what images move the mean token by, intervals of the centred cosine among outliers hold it in 75 %; with
each image's mean cosine with the others in place of its pseudo-value, errors between images are half as large.
"""


@pytest.mark.parametrize(
    ("kind", "images"), [("ordinary", 64), ("classes", 200), ("outliers", 200)]
)
@pytest.mark.parametrize(
    "name", ["patch_cosine_centred", "patch_cosine_between", "within_image_variance"]
)
def test_coverage(name, kind, images):
    truth = smoothing.population(name, kind)
    seeds = np.random.SeedSequence(20).spawn(REPETITIONS)
    found = [
        smoothing.interval(name, smoothing.tokens(kind, images, np.random.default_rng(seed)))
        for seed in seeds
    ]
    covered = np.mean([each.lower[0] <= truth <= each.upper[0] for each in found])
    assert covered >= LEAST
    # Wide intervals would cover too. A standard deviation of 200 values is right to 5 %, 4 times: 20 %; errors
    # among outliers were 1.1 to 1.3 times the truth in 400 repetitions.
    ratio = np.mean([each.se[0] for each in found]) / np.std([each.values[0] for each in found])
    assert 0.8 < ratio < (1.5 if kind == "outliers" else 1.2)
