"""Parts of one analysis are added; no image counts twice, and what does not belong together is refused."""

import dataclasses

import numpy as np
import pytest

import refiner_cka as rc
from refiner_cka.sums import fold_of
from tests.synthetic import synthetic_result, with_smoothing


def test_sums_of_more_images_than_their_batches_are_refused_whatever_made_them():
    result = synthetic_result()
    twice = {name: 2 * values for name, values in result.sums.items()}
    with pytest.raises(rc.ResultError, match=r"1280 images in the sums where .* have 640"):
        dataclasses.replace(result, sums=twice)
    with pytest.raises(rc.ResultError, match="32 images in batch 0, for which 16 were planned"):
        dataclasses.replace(result, sums=twice, batch_images=2 * result.batch_images)
    with pytest.raises(rc.ResultError, match="holds a batch twice"):
        dataclasses.replace(result, batches=result.batches // 2)
    with pytest.raises(rc.ResultError, match="batch_digests has shape"):
        dataclasses.replace(result, batch_digests=result.batch_digests[:, 0])
    smooth = with_smoothing(result)
    path = "smoothing/patch_cosine/images"
    with pytest.raises(rc.ResultError, match=f"{path} counts more images than there are"):
        dataclasses.replace(smooth, sums={**smooth.sums, path: smooth.sums[path] + 1})


def part(first, last, **changes):
    """Batches of one made-up analysis of 8 batches, four images each."""
    batches = np.arange(first, last)
    one = synthetic_result({"m": 2}, batches=1, batch_size=4)
    images = np.bincount(fold_of(np.arange(4 * first, 4 * last)), minlength=20).astype(float)
    digests = np.zeros((len(batches), 1, 32), np.uint8) + batches[:, None, None].astype(np.uint8)
    return dataclasses.replace(
        one,
        sums=one.sums | {"images": images},
        batches=batches,
        batch_planned=np.full(len(batches), 4),
        batch_images=np.full(len(batches), 4),
        batch_digests=digests,
        image_digests=np.arange(4 * first, 4 * last).reshape(-1, 4).astype(np.uint64) + 1,
        total_batches=8,
        **changes,
    )


def test_the_names_of_the_images_are_those_of_the_run_in_every_part():
    names = tuple(f"{number}.png" for number in range(32))
    parts = [part(0, 2), part(2, 5, image_names=names)]
    assert rc.merge(parts).image_names == names
    counted = {"images": {"count": 33}}
    with pytest.raises(rc.ResultError, match="image_names has 32 entries where the run has 33"):
        part(0, 2, image_names=names, provenance=counted)


def test_parts_that_overlap_say_whether_they_saw_the_same_pixels():
    merged = rc.merge([part(5, 8), part(0, 2), part(2, 5)])
    assert merged.complete
    assert merged.images == 32
    assert merged.batch_digests[:, 0, 0].tolist() == list(range(8))
    assert merged.image_digests.ravel().tolist() == list(range(1, 33))
    with pytest.raises(
        rc.ResultError, match="batch 2 is in two of the results, of the same pixels"
    ):
        rc.merge([part(0, 3), part(2, 5)])
    other = part(2, 5)
    digests = other.batch_digests.copy()
    digests[1, 0, 9] += 1
    other = dataclasses.replace(other, batch_digests=digests)
    with pytest.raises(rc.ResultError, match="batch 3 of m is of other pixels in two of the"):
        rc.merge([part(0, 4), other])


def test_parts_that_hold_different_sums_are_refused():
    """What only the second held was dropped without a word."""
    extra = part(4, 8)
    extra = dataclasses.replace(extra, sums={**extra.sums, "extra/sums": np.zeros((20, 2))})
    with pytest.raises(rc.ResultError, match="hold different sums"):
        rc.merge([part(0, 4), extra])
