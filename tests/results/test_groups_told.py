"""What the file, the tables and the summary say of groups of trainings."""

from __future__ import annotations

import itertools
import json

import h5py
import numpy as np
import pytest
from scipy import stats

import refiner_cka as rc
from refiner_cka.results import export, tables
from refiner_cka.results.estimate import with_se
from tests.synthetic import synthetic_result, with_smoothing

GROUPS = {"ViT-S": ["v0", "v1", "v2"], "Refiner": ["r0", "r1"]}
MODELS = {"v0": 5, "r0": 4, "v1": 5, "other": 5, "v2": 5, "r1": 4}


def made(**kwargs):
    provenance = {"batch_size": 16, "groups": GROUPS}
    return with_smoothing(synthetic_result(MODELS, provenance=provenance, **kwargs))


@pytest.fixture(scope="module")
def result():
    return made(tokens=["all", "cls"], batches=10)


def test_the_file_holds_the_numbers_of_groups_and_what_their_errors_are_over(result, tmp_path):
    result.save(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert json.loads(file["provenance"].attrs["groups"]) == GROUPS
        for group, tokens in itertools.product(GROUPS, ("all", "cls")):
            place = file[f"groups/{group}/{tokens}"]
            for name, normalize in (("cka_last", "none"), ("s", "first-last")):
                curve = result.curve(group, normalize=normalize, tokens=tokens)
                np.testing.assert_array_equal(place[name][()], curve.values)
                np.testing.assert_array_equal(place[f"{name}_se_trainings"][()], curve.se)
                np.testing.assert_array_equal(place[f"{name}_sd_trainings"][()], curve.spread)
                np.testing.assert_array_equal(place["depth"][()], curve.depth)
            ceiling = result.ceiling(group, tokens=tokens)
            np.testing.assert_array_equal(place["ceiling"][()], ceiling.values)
            np.testing.assert_array_equal(place["ceiling_se_images"][()], ceiling.se)
            np.testing.assert_array_equal(place["ceiling_sd_pairs"][()], ceiling.spread)
        cosine = result.smoothing("patch_cosine", "ViT-S")
        found = file["groups/ViT-S/all/smoothing/patch_cosine"]
        np.testing.assert_array_equal(found[()], cosine.values)
        assert "attention_entropy" in file["groups/ViT-S/softmax/smoothing"]
    assert rc.load(tmp_path / "run.h5").groups == result.groups


def test_json_and_arrays_hold_the_groups(result, tmp_path):
    document = json.loads(tables.document_json(result))
    assert {row["model"] for row in document["table"]} == {*MODELS, *GROUPS}
    group = document["groups"]["ViT-S"]
    assert group["trainings"] == GROUPS["ViT-S"]
    rows = [
        row
        for row in document["table"]
        if (row["model"], row["readout"], row["what"]) == ("ViT-S", "cls", "ceiling")
    ]
    ceiling = result.ceiling("ViT-S", tokens="cls")
    assert [row["value"] for row in rows] == ceiling.values.tolist()
    assert [row["sd"] for row in rows] == ceiling.spread.tolist()
    assert [row["layer"] for row in rows] == [f"blocks.{place}" for place in range(5)]
    export(result, tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz") as arrays:
        assert len(arrays["layers/model"]) == len(arrays["cka"]) == len(result.layers)
        curve = result.curve("Refiner", normalize="none")
        np.testing.assert_array_equal(arrays["groups/Refiner/all/cka_last"], curve.values)


def test_latex_has_lines_of_groups_with_errors_over_trainings(result):
    lines = tables.table_tex(result).decode().splitlines()
    (head,) = (line for line in lines if line.startswith("Model &"))
    assert head.endswith("Errors over \\\\")
    told = [line for line in lines if line.startswith(("ViT-S", "Refiner"))]
    assert len(told) == 4
    assert told[0].endswith("3 trainings \\\\")
    assert told[-1].endswith("2 trainings \\\\")
    columns = {line.count("&") for line in [head, *told]}
    assert len(columns) == 1


def test_the_summary_tells_models_from_groups():
    result = made()
    summary = rc.summarize(result)
    models, contrasts = summary.tables
    over = {row[0]: row[models.headers.index("Errors over")] for row in models.rows}
    assert over == {"other": "images", "ViT-S": "3 trainings", "Refiner": "2 trainings"}
    ceilings = {row[0]: row[models.headers.index("Ceiling, last")] for row in models.rows}
    last = result.ceiling("ViT-S").at(-1)
    assert ceilings["ViT-S"] == f"{last.values:.3f} +- {last.se:.3f}"
    assert ceilings["other"] == "-"
    assert contrasts.headers == ["Row - column", "ViT-S", "Refiner"]
    difference = result.contrast("Refiner", "ViT-S", normalize="none")
    difference = difference.at(int(np.abs(difference.depth - 0.5).argmin()))
    assert contrasts.rows[1][1].startswith(f"{difference.values:+.3f} +- {difference.se:.3f}")
    # There is one pair of groups; the pairs of trainings, which are not shown, are others.
    assert summary.sentences[0].endswith("; +-: standard error; *: p < 0.05.")


def test_the_summary_has_the_similarity_of_groups_to_references():
    result = made(references=["labels"], batches=5)
    table = rc.summarize(result).tables[0]
    told = {row[0]: row[table.headers.index("CKA(last, labels)")] for row in table.rows}
    for name, cell in told.items():
        last = result.against(name, "labels").at(-1)
        assert cell == with_se(last.values, last.se)
    of_group = np.array([result.against(each, "labels").values[-1] for each in GROUPS["ViT-S"]])
    expected = with_se(of_group.mean(), of_group.std(ddof=1) / np.sqrt(3))
    assert told["ViT-S"] == expected


def test_the_p_value_of_two_groups_is_welchs():
    result = made()
    (found,) = (each for each in rc.summarize(result).comparisons if each.model == "ViT-S")
    depth = float(found.difference.depth)
    one, two = (
        [
            np.interp(depth, curve.depth, curve.values)
            for curve in (result.curve(model, normalize="none") for model in GROUPS[group])
        ]
        for group in ("ViT-S", "Refiner")
    )
    assert found.p == pytest.approx(stats.ttest_ind(one, two, equal_var=False).pvalue, rel=1e-9)


def test_the_summary_in_json_nests_groups():
    document = rc.summarize(made(batches=4)).as_dict()
    assert [entry["model"] for entry in document["models"]] == list(MODELS)
    assert {entry["model"]: entry["trainings"] for entry in document["groups"]} == GROUPS
    assert document["groups"][0]["first_last"]["over"] == "trainings"
    assert document["groups"][0]["ceiling"][0]["over"] == "images"


def test_too_few_images_for_errors_leave_errors_over_trainings(tmp_path):
    """One batch of few images: no error over images, and a file all the same."""
    result = made(batches=1, batch_size=8)
    assert np.isnan(result.ceiling("ViT-S").se).all()
    assert np.isfinite(result.curve("ViT-S", normalize="none").se).all()
    result.save(tmp_path / "run.h5")
    rc.load(tmp_path / "run.h5")
