"""The fixture of the tests of reading checkpoint files."""

import os
import sys

import pytest
import torch

from tests.subjects.files import ran, trap


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """No test may have run a call that a file asked for."""
    ran.clear()
    for module, name in [(os, "system"), (os, "popen"), (torch.hub, "load"), (torch.jit, "load")]:
        monkeypatch.setattr(module, name, trap)
    modules = set(sys.modules)
    yield
    assert ran == []
    assert "antigravity" not in set(sys.modules) - modules
