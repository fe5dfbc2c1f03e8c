"""Which images form which batch."""

import pytest

from refiner_cka.errors import AnalysisWarning, DataError
from refiner_cka.images import open_source, plan_batches
from tests.images.examples import Source, scene


def test_the_order_is_pinned():
    """The permutation is a promise: files of earlier runs are merged and resumed by it."""
    source = Source(11, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    assert plan.batches == ((3, 2, 1, 8), (6, 0, 7, 4))
    assert plan.left_out == (10, 5, 9)
    assert plan_batches(source, batch_size=4, images=None, seed=1).batches != plan.batches


def test_fewer_images_are_the_beginning_of_more_and_all_are_drawn_from():
    source = open_source("digits")
    whole = plan_batches(source, batch_size=64, images=None, seed=3)
    part = plan_batches(source, batch_size=64, images=128, seed=3)
    assert part.batches == whole.batches[:2]
    assert max(part.batches[0]) > 1000
    assert sorted(index for batch in whole.batches for index in batch) == list(range(1797))
    assert [len(batch) for batch in whole.batches] == [64] * 28 + [5]


@pytest.mark.parametrize(
    ("images", "sizes", "left_out"),
    [(8, [4, 4], 0), (9, [4, 4], 1), (11, [4, 4], 3), (4, [4], 0), (None, [4, 4, 4], 0)],
)
def test_a_last_batch_of_fewer_than_4_is_left_out_and_counted(images, sizes, left_out):
    source = Source(12, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=images, seed=0)
    assert [len(batch) for batch in plan.batches] == sizes
    assert len(plan.left_out) == left_out
    chosen = plan_batches(source, batch_size=12, images=images, seed=0).batches[0]
    assert sum(plan.batches, ()) + plan.left_out == chosen


def test_a_batch_larger_than_the_data_is_one_batch():
    plan = plan_batches(Source(7, lambda index: scene()), batch_size=64, images=None, seed=0)
    assert [len(batch) for batch in plan.batches] == [7]


def test_more_images_than_there_are_is_a_warning():
    with pytest.warns(AnalysisWarning, match=r"mine holds 7 images, not 8: all are taken"):
        plan = plan_batches(Source(7, lambda index: scene()), batch_size=4, images=8, seed=0)
    assert sum(map(len, plan.batches)) + len(plan.left_out) == 7


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, "mine holds 3 images: CKA needs at least 4"),
        (9, {"batch_size": 3}, "a batch size of 3 is too small"),
        (9, {"images": 3}, "a number of images of 3 is too small"),
        (9, {"seed": -1}, "the seed is -1"),
    ],
)
def test_plans_that_cannot_be(count, options, message):
    arguments = {"batch_size": 4, "images": None, "seed": 0, **options}
    with pytest.raises(DataError, match=message):
        plan_batches(Source(count, lambda index: scene()), **arguments)
