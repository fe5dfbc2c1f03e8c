"""What docs/which-index.md says each index does not see, and what it does."""

import pytest
import torch

from refiner_cka.measures.indices import INDICES
from refiner_cka.sums import cosine

EVERY = frozenset(INDICES)
IMAGES, FEATURES = 40, 6


def rotated(x):
    q, _ = torch.linalg.qr(torch.randn(FEATURES, FEATURES, dtype=x.dtype, generator=seeded(1)))
    return x @ q


def per_image(x):
    """Each image moved along its direction from the mean, so that the mean stays where it is."""
    factors = 1 + torch.rand(IMAGES // 2, 1, dtype=x.dtype, generator=seeded(2))
    # Images come in opposite pairs, see `features`.
    return x * torch.cat([factors, factors])


def invertible(x):
    return x * torch.logspace(0, 1, FEATURES, dtype=x.dtype)


TRANSFORMATIONS = {
    "orthogonal": (rotated, EVERY),
    "isotropic scaling": (lambda x: 7.5 * x, EVERY),
    "translation": (lambda x: x + torch.arange(FEATURES), EVERY),
    "scaling of each image": (per_image, {"cka-cosine"}),
    "invertible linear": (invertible, set()),
}
"""Transformation -> which indices do not see it."""


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def features(seed):
    """Images in pairs opposite of one another, `(n, p)` float64: their mean is 0 whatever their lengths."""
    half = torch.randn(IMAGES // 2, FEATURES, dtype=torch.float64, generator=seeded(seed))
    return torch.cat([half, -half])


def similarity(name, x, y):
    """The index between two layers of one batch, in float64 from their centred Gram matrices."""
    centred = [each - each.mean(0) for each in (x, y)]
    grams = torch.stack([each @ each.T for each in centred])
    scales = torch.ones(2, len(x), dtype=torch.float64)
    matrices = INDICES[name].matrices(grams, scales).flatten(1)
    return float(cosine((matrices @ matrices.T).numpy())[0, 1])


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("of", TRANSFORMATIONS)
def test_it_sees_what_the_page_says(name, of):
    transformation, unseen = TRANSFORMATIONS[of]
    x = features(0)
    y = (x + 0.5 * features(3)).tanh()
    before, after = similarity(name, x, y), similarity(name, transformation(x), y)
    assert 0.2 < before < 0.95
    assert (abs(after - before) < 1e-9) == (name in unseen)


@pytest.mark.parametrize("name", INDICES)
def test_only_neighbours_outlive_a_change_of_distances_that_keeps_who_is_near(name):
    """Two clusters of more images than an image has neighbours, moved further apart."""
    places = torch.arange(20.0, dtype=torch.float64).repeat(2)
    right = torch.arange(40) >= 20
    x = torch.stack([places + 1000 * right, 5 * torch.cos(3 * places)], 1)
    y = torch.stack([places, 40 * torch.sin(places) + 300 * right], 1)
    moved = x + torch.tensor([9000.0, 0.0]) * right[:, None]
    before, after = similarity(name, x, y), similarity(name, moved, y)
    assert (abs(after - before) < 1e-9) == (name == "knn")
