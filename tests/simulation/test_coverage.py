"""A small part of `make simulate`, and that it would notice if errors were wrong."""

from functools import cache

import numpy as np
from scipy import stats

from tests.simulation import coverage

REPETITIONS = 60

KINDS = [("ordinary", 64), ("classes", 146), ("outliers", 146)]

LEAST = stats.binom.ppf(1e-4, REPETITIONS, 0.93) / REPETITIONS
"""Coverage of one layer where 93 % is true lies below with probability 1e-4; a mean over layers more seldom."""


def seeds(count=REPETITIONS):
    return np.random.SeedSequence(20).spawn(count)


@cache
def found(kind, images):
    return coverage.cell(kind, images, coverage.two_model_runs(kind, images, seeds()))
