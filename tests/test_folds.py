"""Which image is in which fold."""

import numpy as np
import pytest

from refiner_cka.sums import FOLDS, fold_of


def test_each_round_of_places_begins_seven_folds_further():
    places = np.array([0, 1, 19, 20, 21, 33, 39, 40, 399])
    assert fold_of(places).tolist() == [0, 1, 19, 7, 8, 0, 6, 14, 12]


def test_every_fold_has_as_many_images():
    assert np.bincount(fold_of(np.arange(400))).tolist() == [20] * FOLDS
    for images in (12, 20):
        assert len(set(fold_of(np.arange(images)).tolist())) == images


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_classes_that_alternate_are_spread_over_all_folds(classes):
    """With the place modulo 20 alone each fold would hold one class."""
    places = np.arange(400)
    for fold in range(FOLDS):
        held = places[fold_of(places) == fold] % classes
        assert np.bincount(held, minlength=classes).tolist() == [20 // classes] * classes
