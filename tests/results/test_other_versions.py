"""What another version wrote: measures and sums that this one has never heard of."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

import refiner_cka as rc
from refiner_cka import plots
from refiner_cka.results import export, load, save
from refiner_cka.results.merging import merge
from tests.results.files import edited, refusal
from tests.synthetic import synthetic_result


def test_a_measure_of_another_version_is_loaded_merged_drawn_and_said(measured, tmp_path):
    with edited(measured) as file:
        file.copy("smoothing/patch_cosine", "smoothing/novel")
        file["smoothing/novel"].attrs.update({"name": "novel", "label": "Novelty", "order": -1})
    result = merge([load(measured)])
    assert result.quantity("novel").label == "Novelty"
    novel, known = (result.smoothing(name, "a") for name in ("novel", "patch_cosine"))
    np.testing.assert_array_equal(novel.values, known.values)
    save(result, tmp_path / "again.h5")
    again = load(tmp_path / "again.h5")
    assert again.quantities == result.quantities
    labels = [ax.get_ylabel() for ax in plots.smoothing(again).axes]
    assert labels[0] == "Novelty"
    assert "Novelty, last" in rc.summarize(again).tables[0].headers
    export(again, tmp_path / "run.json")
    exported = json.loads((tmp_path / "run.json").read_text())["measures"]
    assert exported["novel"] == exported["patch_cosine"] == again.smoothing("novel").as_dict()


def test_an_index_of_another_version_is_loaded_merged_drawn_and_exported(measured, tmp_path):
    with edited(measured) as file:
        file.copy("similarity/cka", "similarity/novel")
        file["similarity/novel"].attrs.update({"name": "novel", "label": "Novelty", "order": 99})
        file.copy("cka", "similarity/novel/values")
        file.copy("cka_se", "similarity/novel/se")
    result = merge([load(measured)])
    assert result.indices == ("cka", "novel")
    for name in ("values", "se", "lower", "upper"):
        one, two = (getattr(result.similarity(index, "a", "b"), name) for index in result.indices)
        np.testing.assert_array_equal(one, two)
    save(result, tmp_path / "again.h5")
    again = load(tmp_path / "again.h5")
    drawn = dict(plots.figures(again))["novel_a"]
    np.testing.assert_array_equal(drawn.axes[0].images[0].get_array(), again.cka("a"))
    export(again, tmp_path / "run.pairs.csv")
    rows = [*csv.DictReader((tmp_path / "run.pairs.csv").read_text().splitlines())]
    values = {
        index: [row["value"] for row in rows if row["what"] == index] for index in result.indices
    }
    assert len(values["novel"]) == 36
    assert values["novel"] == values["cka"]
    with edited(tmp_path / "again.h5") as file:
        file["similarity/novel/values"][0, 1] += 1e-6
    assert "novel/values does not follow from" in refusal(tmp_path / "again.h5")


def test_an_axis_of_another_version_is_loaded_and_merged(measured, tmp_path):
    with edited(measured) as file:
        file.copy("attention", "heads")
        file.copy("smoothing/attention_entropy", "smoothing/novel")
        file["smoothing/novel"].attrs.update({"name": "novel", "axes": '["heads"]', "order": 99})
    result = merge([load(measured)])
    assert result.axes["heads"] == result.attention
    one, two = (
        result.smoothing(name, "b", tokens="refined", maps="refined").values
        for name in ("novel", "attention_entropy")
    )
    np.testing.assert_array_equal(one, two)
    save(result, tmp_path / "again.h5")
    again = load(tmp_path / "again.h5")
    assert (again.axes, again.quantities) == (result.axes, result.quantities)
    export(again, tmp_path / "run.csv")
    rows = [*csv.DictReader((tmp_path / "run.csv").read_text().splitlines())]
    novel = [row for row in rows if (row["model"], row["what"]) == ("b", "novel")]
    assert [row["readout"] for row in novel] == ["softmax"] * 3 + ["refined"] * 3
    assert [float(row["value"]) for row in novel[3:]] == one.tolist()


def test_a_measure_of_models_is_loaded_and_written_again(measured, tmp_path):
    with edited(measured) as file:
        images = np.stack([file["images"][()]] * 2, 1)
        file.copy("smoothing/patch_cosine", "loss")
        for part in ("total", "images", "values", "se"):
            del file[f"loss/{part}"]
        for part in ("total", "images"):
            file[f"loss/{part}"] = images
        file["loss"].attrs.update({"name": "loss", "axes": '["models"]', "order": 99})
    save(load(measured), tmp_path / "again.h5")
    again = load(tmp_path / "again.h5")
    assert again.smoothing("loss", "b").values.tolist() == [1.0]
    export(again, tmp_path / "run.csv")
    rows = [*csv.DictReader((tmp_path / "run.csv").read_text().splitlines())]
    of = [(row["model"], row["layer"], row["value"]) for row in rows if row["what"] == "loss"]
    assert of == [("a", "", "1.0"), ("b", "", "1.0")]
    assert images.shape == (20, 2)


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("estimator", "median", "has the estimator 'median', which this version does not know"),
        ("axes", '["pixels"]', "has values for 'pixels', which this version does not know"),
        ("axes", "layers", "attribute axes of smoothing/patch_cosine is 'layers'"),
        ("axes", "[]", "attribute axes of smoothing/patch_cosine is []"),
        ("range", "[0]", "attribute range of smoothing/patch_cosine is [0]"),
        ("range", '["a", null]', "attribute range of smoothing/patch_cosine is"),
        ("smoother", "more", "attribute smoother of smoothing/patch_cosine is 'more'"),
        ("few", 1, "attribute few of smoothing/patch_cosine is 1"),
        ("label", 5, "attribute label of smoothing/patch_cosine is 5"),
        ("absent", "[0.5]", "attribute absent of smoothing/patch_cosine is [0.5]"),
        ("order", "first", "attribute order of smoothing/patch_cosine is 'first'"),
        ("name", "rank_collapse", "two quantities have the same name"),
    ],
)
def test_a_quantity_that_cannot_be_understood_is_refused_in_one_line(
    measured, attribute, value, told
):
    with edited(measured) as file:
        file["smoothing/patch_cosine"].attrs[attribute] = value
    line = refusal(measured)
    assert told in line
    assert line.endswith("update refiner-cka" if "not know" in told else "analyse again")


def test_sums_of_later_versions_are_kept(tmp_path):
    """A quantity this version does not know survives a merge; what is not a sum is ignored."""
    parts = []
    whole = synthetic_result({"m": 3}, batches=20, total_batches=40)
    extra = np.random.default_rng(0).normal(size=(20, 3, 2))
    for number in range(2):
        path = tmp_path / f"{number}.h5"
        half = dataclasses.replace(
            whole,
            sums={**whole.sums, "smoothing/patch_cosine/sums": extra},
            batches=np.arange(20) + 20 * number,
            image_digests=whole.image_digests + np.uint64(number),
        )
        save(half, path)
        with edited(path) as file:
            file["smoothing/patch_cosine/values"] = np.zeros(3)
            file["unknown/group/text"] = "ignored"
            file.attrs["unknown"] = [1, 2, 3]
        parts.append(load(path))
    merged = merge(parts)
    save(merged, tmp_path / "merged.h5")
    loaded = load(tmp_path / "merged.h5")
    np.testing.assert_array_equal(loaded.sums["smoothing/patch_cosine/sums"], 2 * extra)
    assert set(loaded.sums) == {*whole.sums, "smoothing/patch_cosine/sums"}
