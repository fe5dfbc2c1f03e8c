"""Saved results to read, and to damage."""

import pytest

from tests.synthetic import synthetic_result, with_smoothing


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.h5"
    synthetic_result({"vit_s": 4, "deit_s": 3}).save(path)
    return path


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "measured.h5"
    with_smoothing(synthetic_result({"a": 3, "b": 3}), refined=["b"]).save(path)
    return path
