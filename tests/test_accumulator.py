"""Sums: streaming, splitting, resuming and merging are the same addition."""

import numpy as np
import pytest
import torch

from refiner_cka.accumulator import Accumulator, sums_device

CPU = torch.device("cpu")


def accumulator():
    return Accumulator({"square": (2, 2), "count": ()}, groups=3, device=CPU)


def values(batch):
    generator = torch.Generator().manual_seed(batch)
    return {
        "square": torch.rand(2, 2, generator=generator, dtype=torch.float64),
        "count": float(batch),
    }


def test_a_batch_goes_to_its_group_of_the_whole_run():
    sums = accumulator()
    for batch in (7, 1, 5):
        sums.add(batch, values(batch))
    np.testing.assert_array_equal(sums.sums()["count"], [0, 8, 5])
    assert sums.batches == {1, 5, 7}


def test_uneven_and_empty_parts_add_up_to_the_whole():
    whole = accumulator()
    for batch in range(10):
        whole.add(batch, values(batch))
    parts = [accumulator() for _ in range(3)]
    for batch in range(10):
        parts[0 if batch < 7 else 1].add(batch, values(batch))
    for name, expected in whole.sums().items():
        np.testing.assert_allclose(sum(part.sums()[name] for part in parts), expected, rtol=1e-15)


def test_reading_the_sums_changes_nothing():
    sums = accumulator()
    sums.add(0, values(0))
    before = sums.sums()
    before["count"][:] = 99
    sums.add(1, values(1))
    np.testing.assert_array_equal(sums.sums()["count"], [0, 1, 0])


def test_continuing_is_as_if_never_stopped():
    whole, first, second = accumulator(), accumulator(), accumulator()
    for batch in range(6):
        whole.add(batch, values(batch))
    for batch in range(4):
        first.add(batch, values(batch))
    second.load(first.sums(), set(first.batches))
    for batch in range(4, 6):
        second.add(batch, values(batch))
    np.testing.assert_array_equal(second.sums()["square"], whole.sums()["square"])
    assert second.batches == whole.batches


def test_a_skipped_batch_is_held_and_adds_nothing():
    sums = accumulator()
    sums.skip(2)
    assert sums.batches == {2}
    assert sums.sums()["count"].sum() == 0


def test_refuses_a_batch_twice_and_a_forgotten_sum():
    sums = accumulator()
    sums.add(0, values(0))
    with pytest.raises(ValueError, match="held already"):
        sums.add(0, values(0))
    with pytest.raises(ValueError, match="expected values for"):
        sums.add(1, {"count": 1.0})
    with pytest.raises(ValueError, match="empty accumulator"):
        sums.load(sums.sums(), {1})


def test_a_device_without_float64_keeps_its_sums_on_the_cpu():
    assert sums_device(torch.device("mps")) == CPU
    assert sums_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_batch_that_fails_half_way_adds_nothing():
    sums = accumulator()
    sums.add(0, values(0))
    before = sums.sums()
    with pytest.raises(TypeError):
        sums.add(3, {"square": torch.ones(2, 2), "count": "not a number"})
    np.testing.assert_array_equal(sums.sums()["square"], before["square"])
    assert sums.batches == {0}
