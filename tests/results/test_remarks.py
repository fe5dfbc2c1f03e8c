"""What is undefined is said in a line, and said anew of what was merged."""

from dataclasses import replace

import numpy as np
import pytest

from refiner_cka.results.merging import merge
from refiner_cka.results.remarks import derived_lines
from refiner_cka.sums import FOLDS, fold_of
from tests.synthetic import synthetic_result, with_smoothing


def without(result, measure, position, images):
    """The result where so many of the 16 images of each fold have no value of a measure at one position."""
    quantity, sums = result.quantity(measure), dict(result.sums)
    for part in ("total", "images"):
        path = quantity.sum(part)
        sums[path] = sums[path].copy()
        sums[path][:, position] *= 1 - images / 16
    return replace(result, sums=sums)


def shifted(result, first):
    """The result as if its batches began at another one: in each fold the same images, of other content."""
    digests = result.image_digests + np.uint64(first)
    return replace(result, batches=result.batches + first, image_digests=digests)


@pytest.fixture
def result():
    return with_smoothing(synthetic_result({"a": 3, "b": 3}, batches=20))


def test_nothing_undefined_is_nothing_said(result):
    assert derived_lines(result) == []


def test_images_without_a_value_are_counted_for_all_measures_in_one_line(result):
    for measure in ("patch_cosine", "rank_collapse", "attention_entropy"):
        result = without(result, measure, 1, 2)
    assert derived_lines(result) == [
        "a: over-smoothing of layer blocks.1 is undefined for 40 of 320 images, left out: "
        "patch_cosine, rank_collapse",
        "a: over-smoothing of layer blocks.1.attn is undefined for 40 of 320 images, left out: "
        "attention_entropy",
    ]


def test_features_that_are_not_finite_are_named(result):
    sums = {name: values.copy() for name, values in result.sums.items()}
    sums["smoothing/token_norm/total"][0, 4] = np.nan
    assert derived_lines(replace(result, sums=sums)) == [
        "b: over-smoothing of layer blocks.1 is undefined (NaN), for its features are not finite: "
        "token_norm"
    ]


def test_what_was_not_to_be_measured_is_not_missing(result):
    """Layers without tokens; what is measured on a few images; pairs."""
    for measure in ("effective_rank", "attention_block_similarity"):
        assert derived_lines(without(result, measure, 1, 2)) == []
    nothing = without(result, "rank_collapse", 1, 16)
    assert len(derived_lines(nothing)) == 1
    told = [
        replace(each, absent=(1,)) if each.name == "rank_collapse" else each
        for each in nothing.quantities
    ]
    assert derived_lines(replace(nothing, quantities=tuple(told))) == []


def test_merged_results_say_what_is_undefined_of_the_whole(result):
    result = replace(without(result, "patch_cosine", 0, 1), total_batches=40)
    (line,) = derived_lines(result)
    assert "for 20 of 320 images" in line
    parts = [replace(shifted(result, 20 * part), warnings=("careful", line)) for part in range(2)]
    assert merge(parts).warnings == (
        "careful",
        "a: over-smoothing of layer blocks.0 is undefined for 40 of 640 images, left out: "
        "patch_cosine",
    )


def test_images_that_come_twice_are_counted_and_named_by_place(result):
    digests = result.image_digests.copy()
    digests[3, 2] = digests[0, 7] = digests[19, 15]
    digests[5, 1] = digests[5, 0]
    (line,) = derived_lines(replace(result, image_digests=digests))
    assert line.startswith("3 of 320 images equal another one pixel for pixel")
    assert "(such as those at places 7, 50, 319 of the run)" in line


def test_an_image_that_two_merged_parts_share_is_said_of_the_whole(result):
    result = replace(result, total_batches=40)
    one, two = result, shifted(result, 20)
    digests = two.image_digests.copy()
    digests[0, 3] = one.image_digests[2, 1]
    two = replace(two, image_digests=digests)
    assert derived_lines(one) == derived_lines(two) == []
    (line,) = merge([two, one]).warnings
    assert line.startswith("1 of 640 images equal another one pixel for pixel")
    assert "at places 33, 323 of the run" in line


def test_places_that_the_sums_do_not_hold_are_no_images_that_come_twice(result):
    """They have 0 for a digest."""
    digests = result.image_digests.copy()
    digests[:2, 4] = 0
    images = result.sums["images"] - np.bincount(fold_of(np.array([4, 20])), minlength=FOLDS)
    gone = replace(
        synthetic_result({"a": 3, "b": 3}, batches=20),
        image_digests=digests,
        batch_images=(digests > 0).sum(1),
        sums=result.sums | {"images": images, "top1/trials": np.zeros(2), "top1/hits": np.zeros(2)},
    )
    assert derived_lines(gone) == []
