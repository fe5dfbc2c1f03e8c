"""Every command runs in an empty folder, and leaves the process as it was."""

import warnings

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _warnings_as_they_were():
    """The command line sets filters of its own for its process."""
    with warnings.catch_warnings():
        yield
