"""A result with references: rows of the matrix that are no layers of a model."""

import itertools

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


def test_the_summary_has_a_column_for_each_reference(result):
    summary = rc.summarize(result)
    table = summary.tables[0]
    for model, row in zip(result.models, table.rows, strict=True):
        cells = dict(zip(table.headers, row, strict=True))
        for reference in result.references:
            last = result.similarity("cka", model, reference).at(-1, 0)
            assert cells[f"CKA(last, {reference})"] == f"{last.values:.3f} +- {last.se:.3f}"
    whole = result.similarity("cka", "vit_s", "deit_s").at(-1, -1)
    assert f"CKA of two models' last layers: {whole.values:.3f} +-" in " ".join(summary.sentences)


def test_the_summary_spans_what_many_share_with_the_errors_of_both_ends():
    names = ["vit_s", "deit_s", "cait_s"]
    result = synthetic_result(dict.fromkeys(names, 3), references=["labels"], batches=5)
    pairs = list(itertools.combinations(names, 2))
    shared = [result.similarity("cka", *each).at(-1, -1) for each in pairs]
    least, *_, most = sorted(shared, key=lambda each: each.values)
    ends = " to ".join(f"{each.values:.3f} +- {each.se:.3f}" for each in (least, most))
    (line,) = [line for line in rc.summarize(result).sentences if "two models' last" in line]
    assert line.startswith(f"CKA of two models' last layers: {ends}; beyond the labels ")


def test_the_summary_leaves_out_what_is_undefined():
    undefined = [("vit_s", place) for place in range(3)]
    models = {"vit_s": 3, "deit_s": 3, "cait_s": 3}
    result = synthetic_result(models, references=["labels"], constant=undefined, batches=5)
    summary = rc.summarize(result)
    table = summary.tables[0]
    told = {row[0]: row[table.headers.index("CKA(last, labels)")] for row in table.rows}
    assert [model for model, cell in told.items() if cell != "-"] == ["deit_s", "cait_s"]
    (line,) = [line for line in summary.sentences if "two models' last" in line]
    rest = result.partial("deit_s", "cait_s", given="labels").at(-1, -1)
    assert line.endswith(f"beyond the labels {rest.values:.3f} +- {rest.se:.3f}.")
