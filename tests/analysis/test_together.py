"""What the processes of one run agree on before they measure."""

import pytest
from torch import distributed

import refiner_cka as rc
from refiner_cka.analysis import together
from refiner_cka.analysis.run import Measurement
from tests import pathological
from tests.analysis.runs import inputs, prepare, run, seeded, subject


@pytest.fixture
def small():
    """The parts of an analysis of one batch each, and a measurement that has just begun."""
    module, data = seeded(pathological.InplaceReLU), inputs(24)

    def parts(*numbers):
        return [
            run(subject(module, ["fc1", "fc2"]), data, batch_size=8, shard=(number, 3))
            for number in numbers
        ]

    return parts, Measurement(prepare(subject(module, ["fc1", "fc2"]), data, batch_size=8))


def agree(measurement, before, resume):
    """Agree with a process before this one that resumes batches."""
    analysis = measurement._analysis
    object.__setattr__(analysis, "runtime", together_as_second(analysis.runtime))
    first = (analysis.fingerprint, analysis.provenance, frozenset(before))
    measurement.together.exchange = lambda mine: [first, mine]
    return measurement.agree(resume)


def together_as_second(runtime):
    return type(runtime)(runtime.device, runtime.precision, rank=1, world=2)


def test_each_process_brings_in_its_own_part(small):
    parts, measurement = small
    [third] = parts(3)
    assert agree(measurement, {0}, third) == {0, 2}
    assert measurement.state.batches == {2}


def test_processes_that_see_the_same_files_count_them_once(small):
    parts, measurement = small
    both = rc.merge(parts(1, 3))
    assert agree(measurement, {0, 1, 2}, both) == {0, 1, 2}
    assert measurement.state.batches == frozenset()
    assert measurement.part() is None


def test_no_process_is_given_up_for_being_slow(monkeypatch):
    joined = {}
    monkeypatch.setattr(distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda backend, **more: joined.update(more)
    )
    assert together.join() == 3
    assert joined["timeout"].days >= 100


def test_a_process_that_left_is_noticed(monkeypatch):
    keys = set()
    store = type(
        "",
        (),
        {"check": lambda _, wanted: set(wanted) <= keys, "set": lambda _, key, __: keys.add(key)},
    )
    monkeypatch.setattr(together, "_get_default_store", store)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("time.sleep", lambda _: None)
    one, other = together.Together(2), together.Together(2)
    other._ended = one._ended
    one.check()
    other.leave()
    with pytest.raises(rc.ProcessError, match="another process of this run ended"):
        one.check()
    together.Together(2).check()


def test_a_store_that_is_gone_ends_the_run(monkeypatch):
    def store():
        raise distributed.DistNetworkError("Broken pipe")

    monkeypatch.setattr(together, "_get_default_store", store)
    alone = together.Together(2)
    alone._looked -= 2
    with pytest.raises(rc.ProcessError, match=r"can be resumed \(Broken pipe\)"):
        alone.check()
    alone.leave()
