"""A result with references: rows of the matrix that are no layers of a model."""

import h5py
import numpy as np
import pytest

import refiner_cka as rc
from refiner_cka.results.jackknife import critical
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


def test_the_course_along_depth_is_a_column_of_the_matrix(result):
    for reference in result.references:
        column = result.similarity("cka", "vit_s", reference)
        found = result.against("vit_s", reference)
        for name in ("values", "se", "lower", "upper"):
            np.testing.assert_allclose(getattr(found, name), getattr(column, name)[:, 0], rtol=1e-9)
        np.testing.assert_array_equal(found.depth, column.depth)


def test_a_whole_course_reaches_as_far_as_its_largest_error(result):
    """On the scale of artanh, with the critical value of the jackknife's correlation."""
    whole = result.against("vit_s", "labels", band="simultaneous")
    products, removed = (
        result.sums[result.quantity("cka").sum(part)] for part in ("products", "removed")
    )
    left = [products, *(products - each for each in removed)]
    scaled = [
        np.arctanh(total[:4, 7] / np.sqrt(np.diagonal(total)[:4] * total[7, 7])) for total in left
    ]
    without = np.array(scaled[1:])
    error = np.sqrt(19 / 20 * ((without - without.mean(0)) ** 2).sum(0))
    reach = critical(without, "simultaneous")
    assert reach > 2.2  # Student's alone is 2.09
    np.testing.assert_allclose(whole.upper, np.tanh(scaled[0] + reach * error), rtol=1e-9)
    np.testing.assert_allclose(whole.lower, np.tanh(scaled[0] - reach * error), rtol=1e-9)


def test_what_is_no_reference_is_refused_by_name(result):
    with pytest.raises(rc.ResultError, match="no reference 'views' in this result"):
        result.against("vit_s", "views")
    with pytest.raises(rc.ResultError, match="no model 'x'"):
        result.against("x", "labels")


def test_the_summary_has_a_row_for_each_model(result):
    summary = rc.summarize(result)
    table = summary.tables[-1]
    ends = "first / highest / last"
    assert table.headers == ["CKA with", f"labels: {ends}", "at", f"pixels: {ends}", "at"]
    for model, row in zip(result.models, table.rows, strict=True):
        expected = [model]
        for reference in result.references:
            values = result.cka(model, reference)[:, 0]
            told = " / ".join(f"{value:.2f}" for value in (values[0], values.max(), values[-1]))
            expected += [told, f"blocks.{values.argmax()}"]
        assert row == expected
    whole = result.similarity("cka", "vit_s", "deit_s").at(-1, -1)
    assert f"CKA of the last layers of two models: {whole.values:.3f} +-" in " ".join(
        summary.sentences
    )


def test_the_summary_leaves_out_what_is_undefined():
    undefined = [("vit_s", place) for place in range(3)]
    models = {"vit_s": 3, "deit_s": 3, "cait_s": 3}
    result = synthetic_result(models, references=["labels"], constant=undefined, batches=5)
    summary = rc.summarize(result)
    assert [row[0] for row in summary.tables[-1].rows] == ["deit_s", "cait_s"]
    (line,) = [line for line in summary.sentences if "of two models" in line]
    rest = result.partial("deit_s", "cait_s", given="labels").at(-1, -1)
    assert line.endswith(f"{rest.values:.3f} +- {rest.se:.3f} beyond the labels.")
