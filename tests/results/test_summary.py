"""What the summary says, and what it leaves to the data."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

import refiner_cka as rc
from refiner_cka.results.contents import Unreadable
from tests.synthetic import synthetic_result, with_smoothing


def half_way(result, model, other):
    contrast = result.contrast(model, other, normalize="none")
    return contrast.at(int(np.abs(contrast.depth - 0.5).round(9).argmin()))


def marked(estimates):
    """Name -> a difference as it is told, with its mark after Holm's correction for all of them."""
    raw = {
        names: 2 * stats.t.sf(abs(each.values / each.se), each.folds - 1)
        for names, each in estimates.items()
    }
    found, beyond = {}, True
    for place, names in enumerate(sorted(raw, key=raw.get)):
        beyond = beyond and raw[names] * (len(raw) - place) < 0.05
        each = estimates[names]
        found[names] = f"{each.values:+.3f} +- {each.se:.3f}{'*' if beyond else ''}"
    return found


def test_a_few_models_are_compared_pair_by_pair_with_marks_after_holm():
    models = ["a", "b", "c", "d"]
    result = with_smoothing(synthetic_result(dict.fromkeys(models, 4), batches=5))
    _, table = rc.summarize(result).tables
    pairs = list(itertools.combinations(models, 2))
    below = marked({(row, column): half_way(result, row, column) for column, row in pairs})
    measure = "patch_cosine_centred"
    above = marked({each: result.smoothing_contrast(measure, *each).at(-1) for each in pairs})
    assert {cell[-1] == "*" for cell in below.values()} == {True, False}
    assert table.headers[1:] == [row[0] for row in table.rows] == models
    told = {
        (row, column): cell
        for row, *cells in table.rows
        for column, cell in zip(models, cells, strict=True)
    }
    assert told == {(model, model): "-" for model in models} | below | above


def test_without_measures_only_half_way_is_compared():
    result = synthetic_result({"a": 3, "b": 4, "c": 5}, batches=5)
    _, table = rc.summarize(result).tables
    assert (table.headers[1:], [row[0] for row in table.rows]) == (["a", "b"], ["b", "c"])
    assert table.rows[0][2] == "-"
    assert table.rows[1][2].startswith(f"{half_way(result, 'c', 'b').values:+.3f}")


def test_of_many_models_each_is_compared_with_the_one_before_and_the_data_hold_all():
    models = [f"epoch{number}" for number in range(6)]
    result = with_smoothing(synthetic_result(dict.fromkeys(models, 4), batches=5))
    summary = rc.summarize(result)
    (table,) = summary.tables
    curves, cosines = (place for place, head in enumerate(table.headers) if "above" in head)
    assert table.rows[0][curves] == table.rows[0][cosines] == "-"
    for (one, two), row in zip(itertools.pairwise(models), table.rows[1:], strict=True):
        difference = half_way(result, two, one)
        assert row[curves].rstrip("*") == f"{difference.values:+.3f} +- {difference.se:.3f}"
        last = result.smoothing_contrast("patch_cosine_centred", two, one).at(-1)
        assert row[cosines].rstrip("*") == f"{last.values:+.3f} +- {last.se:.3f}"
    assert len(summary.as_dict()["contrasts"]) == 15
    assert len(summary.as_dict()["smoothing_contrasts"]) == 15


def test_every_number_of_a_model_has_its_error():
    result = with_smoothing(synthetic_result({"a": 5, "b": 4}, references=["labels"], batches=5))
    table = rc.summarize(result).tables[0]
    for row in table.rows:
        cells, curve = (
            dict(zip(table.headers, row, strict=True)),
            result.curve(row[0], normalize="none"),
        )
        asked = {
            "CKA(first, last)": curve.at(0),
            "CKA(half way, last)": curve.at({"a": 2, "b": 1}[row[0]]),
            "Centred patch cosine, last": result.smoothing("patch_cosine_centred", row[0]).at(-1),
            "CKA(last, labels)": result.against(row[0], "labels").at(-1),
        }
        told = {head: f"{each.values:.3f} +- {each.se:.3f}" for head, each in asked.items()}
        assert cells == told | {"Model": row[0], "Top-1": f"{100 * result.top1(row[0]):.1f} %"}


@pytest.mark.parametrize(("count", "said"), [(1, "1 image could"), (2, "2 images could")])
def test_unreadable_images_are_counted(count, said):
    result = synthetic_result(unreadable=[Unreadable("a.png", "truncated")] * count)
    expected = f"{said} not be read, such as a.png: truncated."
    assert expected in rc.summarize(result).sentences


def test_what_is_known_of_the_weights_is_said_once():
    note = "trained on these very images"
    notes = {"a": note, "c": "of unknown origin", "b": note}
    result = synthetic_result(dict.fromkeys("abc", 4), provenance={"notes": notes})
    sentences = rc.summarize(result).sentences
    assert f"a and b: {note}." in sentences
    assert "c: of unknown origin." in sentences
    of_all = dataclasses.replace(result, provenance={"notes": dict.fromkeys("abc", note)})
    assert f"All: {note}." in rc.summarize(of_all).sentences


def test_errors_are_said_to_be_over_images_or_too_few_for_them():
    enough, few = (
        rc.summarize(synthetic_result({"a": 3}, batches=1, batch_size=images)).sentences[0]
        for images in (12, 11)
    )
    assert enough == "12 images in 1 batch; +-: standard error over images."
    assert few == "11 images in 1 batch; too few for errors, which take at least 12 images."


def test_the_numbers_in_json_are_those_of_the_questions():
    result = with_smoothing(synthetic_result({"a": 4, "b": 4}, constant=[("b", 0)]))
    document = json.loads(json.dumps(rc.summarize(result).as_dict(), allow_nan=False))
    one, two = document["models"]
    curve = result.curve("a", normalize="none")
    assert one["first_last"]["values"] == curve.values[0]
    assert one["first_last"]["se"] == curve.se[0]
    assert one["s_last"]["upper"] == result.curve("a").upper[-1]
    assert one["s_last"]["resolved"] is True
    assert two["first_last"]["values"] is None
    change = result.smoothing_change("patch_cosine_centred", "a")
    assert document["smoothing"][0]["change"]["lower"] == change.lower[0]
    assert document["smoothing"][0]["at_last"]["images"] == result.images
    assert document["folds"] == result.folds == 20


def test_the_batches_that_are_missing_are_named():
    sentences = rc.summarize(synthetic_result(total_batches=48)).sentences
    assert "Incomplete: 40 of 48 batches; missing: 40, 41, 42, 43, 44 (+3 more)." in sentences
