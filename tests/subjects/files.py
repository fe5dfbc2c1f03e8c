"""Checkpoint files for the tests of reading, and a trap for whatever in them would run."""

import pytest
import torch

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}
BOTH_FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
ran: list[object] = []


def trap(*arguments: object) -> dict[str, object]:
    """What an executed checkpoint would call."""
    ran.append(arguments)
    return {}


def saved(tmp_path, content, *, zipped=True, name="weights.pth", **options):
    file = tmp_path / name
    torch.save(content, file, _use_new_zipfile_serialization=zipped, **options)
    return file


def assert_state(weights, expected=STATE):
    assert dict(weights.state).keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights.state[name], tensor), name
