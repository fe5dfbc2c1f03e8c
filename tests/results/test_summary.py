"""What the summary says, and what it leaves to the data."""

import itertools
import json

import pytest

import refiner_cka as rc
from refiner_cka.results.contents import Unreadable
from tests.synthetic import synthetic_result, with_smoothing


def differences(summary):
    return [row[0] for row in summary.tables[1].rows]


def test_a_few_models_are_compared_pair_by_pair():
    models = ["a", "b", "c", "d"]
    summary = rc.summarize(with_smoothing(synthetic_result(dict.fromkeys(models, 4))))
    pairs = list(itertools.combinations(models, 2))
    assert [(entry.model, entry.other) for entry in summary.comparisons] == pairs
    assert differences(summary) == [f"{one} - {other}" for one, other in pairs]


def test_of_many_models_the_table_compares_neighbours_and_the_data_all():
    models = [f"epoch{number}" for number in range(6)]
    summary = rc.summarize(with_smoothing(synthetic_result(dict.fromkeys(models, 4))))
    expected = [f"{one} - {other}" for one, other in itertools.pairwise(models)]
    assert differences(summary) == expected
    assert len(summary.as_dict()["contrasts"]) == 15
    assert len(summary.as_dict()["smoothing_contrasts"]) == 15


@pytest.mark.parametrize(("count", "said"), [(1, "1 image could"), (2, "2 images could")])
def test_unreadable_images_are_counted(count, said):
    result = synthetic_result(unreadable=[Unreadable("a.png", "truncated")] * count)
    expected = f"{said} not be read, such as a.png: truncated."
    assert expected in rc.summarize(result).sentences


def test_what_is_known_of_the_weights_is_said_once():
    note = "trained on these very images"
    provenance = {"notes": {"a": note, "c": "of unknown origin", "b": note}}
    result = synthetic_result(dict.fromkeys("abc", 4), provenance=provenance)
    sentences = rc.summarize(result).sentences
    assert f"a and b: {note}." in sentences
    assert "c: of unknown origin." in sentences


def test_errors_are_said_to_be_over_images_or_too_few_for_them():
    enough, few = (
        rc.summarize(synthetic_result({"a": 3}, batches=1, batch_size=images)).sentences[0]
        for images in (12, 11)
    )
    assert "12 images in 1 batch; errors leave out one of 12 folds of images at a time" in enough
    assert "11 images in 1 batch; too few for errors, which take at least 12 images" in few


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
