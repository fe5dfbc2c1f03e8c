"""A result with references: rows of the matrix that are no layers of a model."""

import h5py
import numpy as np
import pytest

import refiner_cka as rc
from tests.synthetic import synthetic_result, with_smoothing


@pytest.fixture
def result():
    models = {"vit_s": 4, "deit_s": 3}
    return with_smoothing(synthetic_result(models, references=["labels", "pixels"], batches=5))


def test_measures_of_layers_have_no_value_for_references(result, tmp_path):
    """Asked for all layers, as saving does, they leave out the rows that follow these."""
    assert result.smoothing("patch_cosine").values.shape == (7,)
    assert result.similarity("cka").values.shape == (9, 9)
    result.save(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["cka"].shape == (9, 9)
        assert file["smoothing/patch_cosine/values"].shape == (7,)
    again = rc.load(tmp_path / "run.h5")
    assert again.references == ("labels", "pixels")
    np.testing.assert_array_equal(again.cka("vit_s", "labels"), result.cka("vit_s", "labels"))


def test_a_measure_of_a_reference_is_refused_by_name(result):
    with pytest.raises(
        rc.ResultError, match="of the layers of models, and 'labels' is a reference"
    ):
        result.smoothing("patch_cosine", "labels")
