"""An estimate prints itself in a line and exports itself without what JSON cannot hold."""

import json
from dataclasses import replace

import numpy as np
import pytest

from refiner_cka.results.estimate import nearest, with_se
from tests.synthetic import synthetic_result, with_smoothing


def test_it_prints_few_numbers():
    result = with_smoothing(synthetic_result({"a": 12}, unresolved=["a"]))
    curve = result.curve("a", normalize="none")
    first = f"{curve.values[0]:.3f} +- {curve.se[0]:.3f}"
    assert repr(curve) == (f"<Estimate: {first} to 1.000, shape (12,); errors over images>")
    assert repr(curve.at(0)) == f"<Estimate: {first}; errors over images>"
    assert repr(result.curve("a")).endswith("; errors over images; unresolved>")
    assert repr(result.smoothing("token_norm", "a")).endswith("shape (12,); errors over images>")
    undefined = synthetic_result(constant=[("vit_s", 0)]).curve("vit_s", normalize="none")
    assert repr(undefined).startswith("<Estimate: undefined to 1.000")


def test_it_exports_all_it_says():
    result = with_smoothing(synthetic_result({"a": 3}, constant=[("a", 1)]))
    told = json.loads(json.dumps(result.curve("a").as_dict(), allow_nan=False))
    assert set(told) == {"values", "se", "lower", "upper", "depth"} | {
        *("over", "folds", "resolved", "band", "trainings")
    }
    assert told["values"] == [1.0, None, result.curve("a").values[2]]
    assert told["depth"] == [0.0, 0.5, 1.0]
    assert (told["folds"], told["resolved"]) == (20, True)
    assert (told["over"], told["band"]) == ("images", "pointwise")
    assert result.smoothing("token_norm").as_dict()["images"] == [640.0] * 3


def test_one_place_of_it_is_an_estimate():
    measure = with_smoothing(synthetic_result({"a": 3})).smoothing("token_norm", "a")
    last = measure.at(-1)
    assert last.values == measure.values[-1]
    assert (last.depth, last.images, last.folds) == (1.0, 640.0, 20)
    assert last.as_dict()["se"] == measure.se[-1]
    assert np.shape(last.upper) == ()


def test_an_interval_ends_where_its_measure_does():
    """One image in a hundred draws nearly everything: the mean's interval would reach far below 0."""
    result = with_smoothing(synthetic_result({"a": 3}))
    sums = dict(result.sums)
    path, _ = result.quantity("token_norm").quotient
    sums[path] = sums[path] * np.where(np.arange(len(sums[path])) == 7, 1000.0, 1.0)[:, None]
    found = replace(result, sums=sums).smoothing("token_norm", "a")
    margin = found.upper - found.values
    assert (found.values - margin < 0).all()
    assert found.lower.tolist() == [0.0] * 3
    assert (found.values > 0).all()
    beyond = found.within(None, 0.1)  # as a value that rounding puts beyond
    assert (beyond.upper == beyond.values).all()


def test_half_way_is_the_earlier_of_two_layers_equally_near():
    for layers in range(2, 200):
        depth = np.arange(layers) / (layers - 1)
        assert nearest(depth, 0.5) == (layers - 1) // 2
        assert nearest(np.linspace(0, 1, layers), 0.5) == (layers - 1) // 2


@pytest.mark.parametrize(
    ("se", "told"),
    [
        (0.0126, "0.500 +- 0.013"),
        (0.0004, "0.500 +- 0.001"),
        (1e-9, "0.500 +- 0.001"),
        (0.0, "0.500"),
        (np.nan, "0.500"),
    ],
)
def test_an_error_is_never_told_as_0(se, told):
    assert with_se(0.5, se) == told
