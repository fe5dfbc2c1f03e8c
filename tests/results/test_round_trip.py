"""A file gives back every bit of a result."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from refiner_cka.results import load, save
from refiner_cka.results.contents import Unreadable
from refiner_cka.results.result import Result
from tests.synthetic import synthetic_result, with_smoothing


def assert_same(one: Result, two: Result) -> None:
    """Compare to the last bit, NaN included."""
    for field in dataclasses.fields(Result):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if field.name == "sums":
            assert first.keys() == second.keys()
            for name in first:
                assert first[name].dtype == second[name].dtype == np.float64
                assert first[name].shape == second[name].shape
                assert first[name].tobytes() == second[name].tobytes()
        elif isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second, field.name


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(synthetic_result(), id="plain"),
        pytest.param(synthetic_result({"one": 1}), id="one layer"),
        pytest.param(synthetic_result(batches=0, total_batches=9), id="nothing measured yet"),
        pytest.param(synthetic_result(batches=3, total_batches=50), id="part of a run"),
        pytest.param(synthetic_result(constant=[("vit_s", 3)]), id="undefined layer"),
        pytest.param(synthetic_result({"a": 2, "b": 3}, tokens=["all", "cls"]), id="readouts"),
        pytest.param(
            with_smoothing(synthetic_result({"a": 2, "b": 3}), refined=["b"]), id="over-smoothing"
        ),
        pytest.param(synthetic_result({"模型 é": ["blöck.0", ""]}), id="unicode and empty names"),
        pytest.param(
            synthetic_result(
                unreadable=[Unreadable("a/é.png", "truncated"), Unreadable("b\udcff.png", "")],
                warnings=["first", "second, longer ⚠"],
            ),
            id="unreadable images, one with a name that is not UTF-8",
        ),
    ],
)
def test_round_trip_is_exact(tmp_path, result):
    save(result, tmp_path / "run.h5")
    assert_same(load(tmp_path / "run.h5"), result)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -(2**62),
        1.5,
        math.inf,
        True,
        None,
        "",
        "text",
        "null",
        '{"looks": "like JSON"}',
        "[",
        '"quoted"',
        "nul\0inside",
        "not UTF-8: \udcff",
        "1",
        "true",
        [],
        {"nested": [1, 2.5, None, {"é": False}]},
        "x" * 200_000,
    ],
)
def test_provenance_keeps_type_and_value(tmp_path, value):
    save(synthetic_result({"m": 1}, provenance={"küy": value, "other": 1}), tmp_path / "run.h5")
    found = load(tmp_path / "run.h5").provenance
    assert found == {"küy": value, "other": 1}
    assert type(found["küy"]) is type(value)


def test_many_provenance_entries_keep_their_order(tmp_path):
    keys = [f"key {97 * i % 100}" for i in range(100)]
    save(synthetic_result({"m": 1}, provenance=dict.fromkeys(keys, 1)), tmp_path / "run.h5")
    assert list(load(tmp_path / "run.h5").provenance) == keys


def test_400_layers(tmp_path):
    result = synthetic_result({"deep": 400}, batches=2, batch_size=4)
    save(result, tmp_path / "run.h5")
    assert_same(load(tmp_path / "run.h5"), result)


def test_equal_results_are_equal_files(tmp_path):
    save(synthetic_result(), tmp_path / "one.h5")
    save(synthetic_result(), tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
