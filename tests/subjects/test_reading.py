"""Reading checkpoint files: whatever training scripts store beside the weights, in every format and protocol."""

import argparse
import collections
import datetime
import functools
import pathlib
import types

import numpy as np
import pytest
import torch
from torch import nn

from refiner_cka.errors import CheckpointError
from refiner_cka.subjects import checkpoint
from tests.subjects.files import BOTH_FORMATS, STATE, assert_state, saved, trap

pytestmark = pytest.mark.usefixtures("nothing_runs")


class OwnConfig:
    """A class of the training script, with a `__setstate__` that must not run here."""

    def __init__(self) -> None:
        self.depth = 12

    def __setstate__(self, state: object) -> None:
        trap("setstate", state)

    def __del__(self) -> None:
        pass


class OwnStateDict(collections.OrderedDict):
    """A state dict of a framework's own class."""


class OwnList(list):
    pass


class OwnSet(set):
    pass


@BOTH_FORMATS
@pytest.mark.parametrize("kind", [collections.OrderedDict, OwnStateDict])
def test_a_bare_state_dict(tmp_path, zipped, kind):
    weights = checkpoint.read(saved(tmp_path, kind(STATE), zipped=zipped))
    assert_state(weights)
    assert weights.entry == ""


@BOTH_FORMATS
def test_everything_that_training_scripts_store_beside_the_weights(tmp_path, zipped):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    tied = torch.arange(4.0)
    state = {**STATE, "tied.a": tied, "tied.b": tied[1:], "learned": parameter}
    content = {
        "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("a"), device=torch.device("cpu")),
        "config": OwnConfig(),
        "best": np.float64(0.8),
        "count": np.int64(3),
        "history": np.arange(5, dtype=np.float32),
        "names": np.array(["a", "b"]),
        "when": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
        "span": datetime.timedelta(days=1),
        "meters": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
        "counter": collections.Counter("abca"),
        "queue": collections.deque([1, 2], maxlen=4),
        "point": types.SimpleNamespace(x=1),
        "list": OwnList([1, [2]]),
        "set": OwnSet([1, 2]),
        "sets": (frozenset({1}), {2}, range(3), slice(1, 2)),
        "plain": (3 + 4j, b"bytes", bytearray(b"x"), 2**80),
        "norm": functools.partial(nn.LayerNorm, eps=1e-6),
        "activation": torch.nn.functional.gelu,
        "dtype": torch.float16,
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "model": state,
    }
    weights = checkpoint.read(saved(tmp_path, content, zipped=zipped))
    assert weights.entry == "model"
    assert_state(weights, state)
    assert not any(tensor.requires_grad for tensor in weights.state.values())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    content = {"args": argparse.Namespace(a=1), "state_dict": OwnStateDict(STATE)}
    assert_state(checkpoint.read(saved(tmp_path, content, pickle_protocol=protocol)))


@BOTH_FORMATS
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_dtypes_strides_and_offsets_beside_other_objects(tmp_path, zipped, dtype):
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    state = {
        "transposed": whole.T,
        "part": whole[1:3, ::2],
        "scalar": whole[2, 3],
        "empty": whole[:0],
    }
    content = {"state_dict": state, "args": argparse.Namespace()}
    weights = checkpoint.read(saved(tmp_path, content, zipped=zipped))
    for name, tensor in state.items():
        assert weights.state[name].dtype == dtype
        assert torch.equal(weights.state[name], tensor)


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "weights.safetensors")
    assert_state(checkpoint.read(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        # Averaged weights come before trained ones.
        ({"model": {"fc.weight": torch.zeros(1)}, "model_ema": STATE}, "model_ema"),
        ({"student": {"fc.weight": torch.zeros(1)}, "teacher": STATE}, "teacher"),
        ({"state_dict": {"fc.weight": torch.zeros(1)}, "state_dict_ema": STATE}, "state_dict_ema"),
        # An entry that is there without weights is passed over.
        ({"ema": None, "model_ema": {}, "model": STATE}, "model"),
        ({"ema": {"decay": 0.999, "module": STATE}}, "ema.module"),
        ({"epoch": torch.tensor(3), "state_dict": STATE}, "state_dict"),
        ({"model": {"state_dict": STATE}}, "model.state_dict"),
    ],
)
def test_which_entry_is_taken(tmp_path, content, entry):
    weights = checkpoint.read(saved(tmp_path, content))
    assert weights.entry == entry
    assert_state(weights)


def test_a_file_whose_bytes_name_no_operation_says_what_was_wrong(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"no checkpoint of torch.save: KeyError: 120"):
        checkpoint.read(tmp_path / "x.pth")
