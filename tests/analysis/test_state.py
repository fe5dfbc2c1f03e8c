"""Sums: streaming, splitting, resuming and merging are the same addition."""

import numpy as np
import pytest
import torch
from torch import distributed

from refiner_cka.analysis.state import Seen, State
from refiner_cka.errors import ResultError
from refiner_cka.measures.scaling import sums_device
from refiner_cka.sums import FOLDS, Sum

CPU = torch.device("cpu")


SUMS = {
    "square": Sum("square", ("side", "side"), "products"),
    "count": Sum("count", (), "count"),
}


def state(side=2):
    return State(SUMS, {"side": side}, device=CPU)


def values(batch):
    generator = torch.Generator().manual_seed(batch)
    return {
        "square": torch.rand(2, 2, generator=generator, dtype=torch.float64),
        "count": torch.tensor(float(batch), dtype=torch.float64),
    }


def seen(batch):
    return Seen(8, 7, (bytes([batch]) * 32,), bytes([batch]) * 64)


def test_a_batch_adds_what_has_the_shape_of_the_sum():
    """Also along the folds of images, of which it fills any."""
    by_fold = {"ones": Sum("ones", ("folds", "side"), "value"), "count": SUMS["count"]}
    sums = State(by_fold, {"side": 2, "folds": FOLDS}, device=CPU)
    added = torch.arange(2.0 * FOLDS, dtype=torch.float64).view(FOLDS, 2)
    for batch in (27, 1, 7):
        sums.add(batch, {"ones": added, "count": values(batch)["count"]}, seen(batch))
    np.testing.assert_array_equal(sums.sums()["ones"], 3 * added.numpy())
    assert sums.sums()["count"] == 35
    assert sums.batches == {1, 7, 27}
    assert list(sums.seen) == [1, 7, 27]
    with pytest.raises(ValueError, match="other shapes"):
        sums.add(2, {"ones": added[:1], "count": values(2)["count"]}, seen(2))


def test_uneven_and_empty_parts_add_up_to_the_whole():
    whole = state()
    for batch in range(10):
        whole.add(batch, values(batch), seen(batch))
    parts = [state() for _ in range(3)]
    for batch in range(10):
        parts[0 if batch < 7 else 1].add(batch, values(batch), seen(batch))
    for name, expected in whole.sums().items():
        np.testing.assert_allclose(sum(part.sums()[name] for part in parts), expected, rtol=1e-15)


def test_reading_the_sums_changes_nothing():
    sums = state()
    sums.add(0, values(0), seen(0))
    before = sums.sums()
    before["count"][...] = 99
    sums.add(1, values(1), seen(1))
    assert sums.sums()["count"] == 1


def test_continuing_is_as_if_never_stopped():
    whole, first, second = state(), state(), state()
    for batch in range(6):
        whole.add(batch, values(batch), seen(batch))
    for batch in range(4):
        first.add(batch, values(batch), seen(batch))
    second.load(first.sums(), first.seen)
    for batch in range(4, 6):
        second.add(batch, values(batch), seen(batch))
    np.testing.assert_array_equal(second.sums()["square"], whole.sums()["square"])
    assert second.seen == whole.seen == {batch: seen(batch) for batch in range(6)}


def test_loaded_sums_keep_the_states_own_order():
    """Processes add their sums in that order; those of a file come in another."""
    first, second = state(), state()
    first.add(0, values(0), seen(0))
    second.load(dict(reversed(first.sums().items())), first.seen)
    assert list(second.sums()) == ["square", "count"]


def test_a_skipped_batch_is_held_and_adds_nothing():
    sums = state()
    sums.add(2, {}, seen(2))
    assert sums.batches == {2}
    assert sums.sums()["count"].sum() == 0


def test_refuses_a_batch_twice_and_a_forgotten_sum():
    sums = state()
    sums.add(0, values(0), seen(0))
    with pytest.raises(ValueError, match="held already"):
        sums.add(0, values(0), seen(0))
    with pytest.raises(ValueError, match="expected values for"):
        sums.add(1, {"count": torch.ones(())}, seen(1))
    with pytest.raises(ResultError, match="has begun"):
        sums.load(sums.sums(), {1: seen(1)})


def test_sums_of_another_shape_are_not_cut():
    with pytest.raises(ResultError, match="other measures"):
        state().load(state(side=3).sums(), {})


@pytest.mark.parametrize("theirs", [[1, 3], [1, 2]])
def test_a_batch_that_two_processes_hold_is_refused(theirs, monkeypatch):
    """Their sums would count it twice; here the other process is made up, and its sums are ours."""
    sums = state()
    for batch in (0, 2):
        sums.add(batch, values(batch), seen(batch))
    before = sums.sums()

    sent = []

    def broadcast(value, src):
        if src == 0:
            sent.append(value.clone())
        else:
            value.copy_(sent[-1])

    def gather(held, mine):
        held[:] = [mine, {batch: seen(batch) for batch in theirs}]

    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "broadcast", broadcast)
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


@pytest.mark.parametrize("count", [torch.ones(3), torch.ones(1, 1)])
def test_a_batch_that_fails_half_way_adds_nothing(count):
    sums = state()
    sums.add(0, values(0), seen(0))
    before = sums.sums()
    with pytest.raises(ValueError, match="batch 3 adds values of other shapes"):
        sums.add(3, {"square": torch.ones(2, 2), "count": count}, seen(3))
    np.testing.assert_array_equal(sums.sums()["square"], before["square"])
    assert sums.batches == {0}


@pytest.mark.parametrize("added", [False, True])
def test_an_interrupt_before_or_after_the_addition_leaves_the_batch_out_or_in(added, monkeypatch):
    plain, sums, whole = torch._foreach_add_, state(), state()
    for batch in (0, 20):
        whole.add(batch, values(batch), seen(batch))
    sums.add(0, values(0), seen(0))

    def interrupted(*args):
        if added:
            plain(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_add_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sums.add(20, values(20), seen(20))
    monkeypatch.undo()
    assert sums.batches == ({0, 20} if added else {0})
    if not added:
        sums.add(20, values(20), seen(20))
    for path, expected in whole.sums().items():
        np.testing.assert_array_equal(sums.sums()[path], expected)
    assert sums.seen == whole.seen
