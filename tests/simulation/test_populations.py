"""Population CKA in closed form against many images."""

import numpy as np
import pytest

from refiner_cka.sums import cosine
from tests.simulation import populations
from tests.simulation.populations import LATENT, WIDTH, two_models, weak_first_layer

IMAGES = 40_000


@pytest.mark.parametrize("kind", ["ordinary", "relu", "classes", "in turn", "outliers"])
def test_closed_forms(kind):
    """Covariances of so many images have errors of about 1/sqrt(n); of what is 10 times as long, 5 times that."""
    population = two_models(kind)
    layers = population.features(np.random.default_rng(0), IMAGES)
    wide = layers.transpose(1, 0, 2).reshape(IMAGES, -1)
    cross = np.cov(wide.T).reshape(len(layers), WIDTH, len(layers), WIDTH)
    found = cosine((cross**2).sum((1, 3)))
    error = 5 / np.sqrt(IMAGES) * (5 if kind == "outliers" else 1)
    np.testing.assert_allclose(found, population.cka(), atol=error)


@pytest.mark.parametrize("similarity", [0.0, 0.02, 0.3])
def test_a_weak_first_layer_is_as_weak_as_asked(similarity):
    assert weak_first_layer(similarity).cka()[0, -1] == pytest.approx(similarity)


@pytest.mark.parametrize(("images", "sizes"), [(64, [64]), (146, [64, 64, 18]), (130, [64, 64])])
def test_batches_are_those_of_a_run(images, sizes):
    found = populations.batches(np.zeros((2, images, LATENT)))
    assert [batch.shape[1] for batch in found] == sizes
