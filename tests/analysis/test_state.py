"""Sums: streaming, splitting, resuming and merging are the same addition."""

import numpy as np
import pytest
import torch
from torch import distributed

from refiner_cka.analysis.state import Accumulator, Seen, sums_device
from refiner_cka.errors import ResultError

CPU = torch.device("cpu")


def accumulator():
    return Accumulator({"square": (2, 2), "count": ()}, groups=3, device=CPU)


def values(batch):
    generator = torch.Generator().manual_seed(batch)
    return {
        "square": torch.rand(2, 2, generator=generator, dtype=torch.float64),
        "count": float(batch),
    }


def seen(batch):
    return Seen(8, 7, (bytes([batch]) * 32,))


def test_a_batch_goes_to_its_group_of_the_whole_run():
    sums = accumulator()
    for batch in (7, 1, 5):
        sums.add(batch, values(batch), seen(batch))
    np.testing.assert_array_equal(sums.sums()["count"], [0, 8, 5])
    assert sums.batches == {1, 5, 7}


def test_uneven_and_empty_parts_add_up_to_the_whole():
    whole = accumulator()
    for batch in range(10):
        whole.add(batch, values(batch), seen(batch))
    parts = [accumulator() for _ in range(3)]
    for batch in range(10):
        parts[0 if batch < 7 else 1].add(batch, values(batch), seen(batch))
    for name, expected in whole.sums().items():
        np.testing.assert_allclose(sum(part.sums()[name] for part in parts), expected, rtol=1e-15)


def test_reading_the_sums_changes_nothing():
    sums = accumulator()
    sums.add(0, values(0), seen(0))
    before = sums.sums()
    before["count"][:] = 99
    sums.add(1, values(1), seen(1))
    np.testing.assert_array_equal(sums.sums()["count"], [0, 1, 0])


def test_continuing_is_as_if_never_stopped():
    whole, first, second = accumulator(), accumulator(), accumulator()
    for batch in range(6):
        whole.add(batch, values(batch), seen(batch))
    for batch in range(4):
        first.add(batch, values(batch), seen(batch))
    second.load(first.sums(), first.seen)
    for batch in range(4, 6):
        second.add(batch, values(batch), seen(batch))
    np.testing.assert_array_equal(second.sums()["square"], whole.sums()["square"])
    assert second.seen == whole.seen == {batch: seen(batch) for batch in range(6)}


def test_loaded_sums_keep_the_accumulators_order():
    """Processes add their sums in that order; those of a file come in another."""
    first, second = accumulator(), accumulator()
    first.add(0, values(0), seen(0))
    second.load(dict(reversed(first.sums().items())), first.seen)
    assert [list(group.sums) for group in second._groups] == [["square", "count"]] * 3


def test_a_skipped_batch_is_held_and_adds_nothing():
    sums = accumulator()
    sums.skip(2, seen(2))
    assert sums.batches == {2}
    assert sums.sums()["count"].sum() == 0


def test_refuses_a_batch_twice_and_a_forgotten_sum():
    sums = accumulator()
    sums.add(0, values(0), seen(0))
    with pytest.raises(ValueError, match="held already"):
        sums.add(0, values(0), seen(0))
    with pytest.raises(ValueError, match="expected values for"):
        sums.add(1, {"count": 1.0}, seen(1))
    with pytest.raises(ValueError, match="empty accumulator"):
        sums.load(sums.sums(), {1: seen(1)})


def test_sums_of_more_groups_are_not_cut():
    many = Accumulator({"square": (2, 2), "count": ()}, groups=4, device=CPU)
    with pytest.raises(ValueError, match="same names and shapes"):
        accumulator().load(many.sums(), {})


@pytest.mark.parametrize("theirs", [[1, 3], [1, 2]])
def test_a_batch_that_two_processes_hold_is_refused(theirs, monkeypatch):
    """Their sums would count it twice; here the other process is made up, and its sums are ours."""
    sums = accumulator()
    for batch in (0, 2):
        sums.add(batch, values(batch), seen(batch))
    before = sums.sums()

    def gather(held, mine):
        held[:] = [mine, {batch: seen(batch) for batch in theirs}]

    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(2))
    if 2 in theirs:
        with pytest.raises(ResultError, match="batch 2 is in the sums of two processes"):
            sums.all_reduce()
        assert (sums.sums()["count"] == before["count"]).all()
    else:
        sums.all_reduce()
        assert list(sums.seen) == [0, 1, 2, 3]
        assert (sums.sums()["count"] == 2 * before["count"]).all()


def test_a_device_without_float64_keeps_its_sums_on_the_cpu():
    assert sums_device(torch.device("mps")) == CPU
    assert sums_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_batch_that_fails_half_way_adds_nothing():
    sums = accumulator()
    sums.add(0, values(0), seen(0))
    before = sums.sums()
    with pytest.raises(TypeError):
        sums.add(3, {"square": torch.ones(2, 2), "count": "not a number"}, seen(3))
    np.testing.assert_array_equal(sums.sums()["square"], before["square"])
    assert sums.batches == {0}
