"""Reading checkpoint files: ordinary ones load, hostile and broken ones are refused, nothing in them runs."""

import argparse
import collections
import copyreg
import datetime
import functools
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from refiner_cka.errors import CheckpointError
from refiner_cka.subjects import checkpoint

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}
BOTH_FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
ran: list[object] = []


def trap(*arguments: object) -> dict[str, object]:
    """What an executed checkpoint would call."""
    ran.append(arguments)
    return {}


class Calls:
    """Pickles as a call of any function with any arguments: how code gets into a checkpoint."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        call = (self.function, self.arguments)
        return call if self.state is None else (*call, self.state)


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


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, tmp_path):
    """No test may have run a call that a file asked for."""
    ran.clear()
    for module, name in [(os, "system"), (os, "popen"), (torch.hub, "load"), (torch.jit, "load")]:
        monkeypatch.setattr(module, name, trap)
    modules = set(sys.modules)
    yield
    assert ran == []
    assert "antigravity" not in set(sys.modules) - modules


def saved(tmp_path, content, *, zipped=True, name="weights.pth", **options):
    file = tmp_path / name
    torch.save(content, file, _use_new_zipfile_serialization=zipped, **options)
    return file


def assert_state(weights, expected=STATE):
    assert dict(weights.state).keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights.state[name], tensor), name


# Ordinary files


@BOTH_FORMATS
def test_a_bare_state_dict(tmp_path, zipped):
    weights = checkpoint.read(saved(tmp_path, collections.OrderedDict(STATE), zipped=zipped))
    assert_state(weights)
    assert weights.entry == ""


@BOTH_FORMATS
def test_everything_that_training_scripts_store_beside_the_weights(tmp_path, zipped):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    tied = torch.arange(4.0)
    content = {
        "args": argparse.Namespace(
            lr=1e-3, out=pathlib.Path("runs") / "a", device=torch.device("cpu")
        ),
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
        "plain": (
            frozenset({1}),
            {2},
            range(3),
            slice(1, 2),
            3 + 4j,
            b"bytes",
            bytearray(b"x"),
            2**80,
        ),
        "norm": functools.partial(nn.LayerNorm, eps=1e-6),
        "activation": torch.nn.functional.gelu,
        "dtype": torch.float16,
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "model": {
            **STATE,
            "tied.a": tied,
            "tied.b": tied[1:],
            "learned": nn.Parameter(torch.ones(2)),
        },
    }
    weights = checkpoint.read(saved(tmp_path, content, zipped=zipped))
    assert weights.entry == "model"
    expected = {**STATE, "tied.a": tied, "tied.b": tied[1:], "learned": torch.ones(2)}
    assert_state(weights, expected)
    assert not any(tensor.requires_grad for tensor in weights.state.values())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    content = {"args": argparse.Namespace(a=1), "state_dict": OwnStateDict(STATE)}
    assert_state(checkpoint.read(saved(tmp_path, content, pickle_protocol=protocol)))


@BOTH_FORMATS
def test_a_subclass_of_dict_keeps_its_entries(tmp_path, zipped):
    weights = checkpoint.read(saved(tmp_path, OwnStateDict(STATE), zipped=zipped))
    assert_state(weights)


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


# Hostile files

HOSTILE = {
    "os.system": (Calls(os.system, "touch ran"), "system"),
    "eval": (Calls(eval, "trap()"), "eval"),
    "exec": (Calls(exec, "import antigravity"), "exec"),
    "import": (Calls(__import__, "antigravity"), "__import__"),
    "open": (Calls(open, "ran", "w"), "open"),
    "getattr": (Calls(getattr, Calls(__import__, "os"), "system"), "builtins"),
    "getattr of a class": (Calls(getattr, argparse.Namespace, "__init__"), "getattr"),
    "hub": (Calls(torch.hub.load, "someone/repository", "model"), "torch.hub"),
    "partial of os.system": (Calls(functools.partial, os.system, "touch ran"), "system"),
    "map over a function": (Calls(list, Calls(map, os.system, ["touch ran"])), "system"),
    "code in a set": ({Calls(os.system, "touch ran")}, "system"),
    "nested in a namespace": (
        argparse.Namespace(x=[{"y": Calls(os.system, "touch ran")}]),
        "system",
    ),
    "tensors from bytes": (Calls(torch.storage._load_from_bytes, b"x"), "_load_from_bytes"),
    "state of a call": (
        Calls(argparse.Namespace, state={"x": Calls(os.system, "touch ran")}),
        "system",
    ),
    "pickle in a pickle": (Calls(pickle.loads, b"cos\nsystem\n(S'touch ran'\ntR."), "pickle"),
}


@BOTH_FORMATS
@pytest.mark.parametrize("case", HOSTILE)
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, zipped, case):
    monkeypatch.undo()  # the real functions, so that they pickle by their own names
    monkeypatch.chdir(tmp_path)
    payload, named = HOSTILE[case]
    file = saved(tmp_path, {"state_dict": STATE, "extra": payload}, zipped=zipped)
    with pytest.raises(CheckpointError, match=f"carries code.*{named}.*refused") as refusal:
        checkpoint.read(file)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == [file.name]


def zipped_pickle(tmp_path, data, name="crafted.pth"):
    """A file of torch.save whose pickle is written by hand."""
    honest = saved(tmp_path, STATE, name="honest.pth")
    file = tmp_path / name
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(file, "w") as target:
        for entry in source.infolist():
            content = data if entry.filename.endswith("data.pkl") else source.read(entry)
            target.writestr(entry.filename.replace("honest/", "crafted/"), content)
    honest.unlink()
    return file


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"cos\nsystem\n(S'touch ran'\ntR.", id="protocol 0"),
        pytest.param(b"c__builtin__\neval\n(S'1'\ntR.", id="Python 2 name"),
        pytest.param(b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R.", id="posix"),
        pytest.param(b"ctypes\nFunctionType\n(ctypes\nCodeType\ntR.", id="function type"),
        pytest.param(b"ccopyreg\n__newobj__\n(cbuiltins\neval\ntR.", id="copyreg"),
        # Protocol 4 names globals by dotted paths: the attribute of a harmless-looking module.
        pytest.param(b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93)R.", id="dotted name"),
        pytest.param(
            b"\x80\x04\x8c\x09test.trap\x8c\x0a__import__\x93\x8c\x02os\x85R\x81.",
            id="new of a call",
        ),
        # INST and OBJ build an object in one step.
        pytest.param(b"(S'touch ran'\nios\nsystem\n.", id="inst"),
        pytest.param(b"(cos\nsystem\nS'touch ran'\no.", id="obj"),
        # An extension code stands for an object that the process has registered.
        pytest.param(b"\x80\x02\x82\x01)R.", id="extension"),
        # BUILD sets attributes: on a function that the reader itself uses, on its class, on its dictionary.
        pytest.param(
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x09_functionU\x01xsb.",
            id="build on function",
        ),
        pytest.param(
            b"\x80\x02ccollections\nOrderedDict\n}U\x06updateU\x01xsb.", id="build on OrderedDict"
        ),
        pytest.param(
            b"\x80\x02cown.thing\nClass\n}U\x08__call__U\x01xsb.", id="build on placeholder class"
        ),
        # A placeholder is not callable, so a call of its call goes nowhere.
        pytest.param(b"\x80\x02cown.thing\nClass\n)R)R.", id="call of a placeholder"),
        pytest.param(b"\x80\x02S'not a storage'\nQ.", id="persistent id"),
        pytest.param(
            b"\x80\x02(U\x06modulecown\nThing\nU\x05a.py\nU\x01xtQ.", id="module source check"
        ),
        pytest.param(b"r\xff\xff\xff\xff.", id="memo of many gigabytes"),
        pytest.param(b"\x80\x02X\xff\xff\xff\xffshort.", id="string longer than the file"),
        pytest.param(b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".", id="deep nesting"),
        pytest.param(b"", id="empty pickle"),
    ],
)
def test_crafted_pickles_end_in_one_line(tmp_path, monkeypatch, data):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    file = zipped_pickle(tmp_path, data)
    ordered, rebuild = dict(vars(collections.OrderedDict)), dict(vars(checkpoint.inert._Made))
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.read(file)
    assert "\n" not in str(refusal.value)
    assert str(file) in str(refusal.value)
    assert os.listdir(tmp_path) == [file.name]
    assert dict(vars(collections.OrderedDict)) == ordered
    assert dict(vars(checkpoint.inert._Made)) == rebuild


def test_a_registered_extension_is_not_reached(tmp_path):
    copyreg.add_extension(__name__, "trap", 240)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # now it is in pickle's cache, past any find_class
        with pytest.raises(CheckpointError, match="carries code"):
            checkpoint.read(zipped_pickle(tmp_path, b"\x80\x02\x82\xf0)R."))
    finally:
        copyreg.remove_extension(__name__, "trap", 240)


def crafted_tensor(shape, stride, numel=6, size_in_file=24):
    """A pickle of {'args': Namespace(), 'x': tensor} with a declared shape, over a storage of `numel` floats."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return (
                ("storage", torch.FloatStorage, "0", "cpu", numel) if value == "STORAGE" else None
            )

    stream = io.BytesIO()
    rebuild = Calls(
        torch._utils._rebuild_tensor_v2,
        "STORAGE",
        0,
        shape,
        stride,
        False,
        collections.OrderedDict(),
    )
    Pickler(stream, 2).dump({"args": argparse.Namespace(), "x": rebuild})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "stride", "numel"),
    [
        ((10**13,), (1,), 6),
        ((7,), (1,), 6),
        ((2, 3), (4, 1), 6),
        ((2, 3), (-3, 1), 6),
        ((-1,), (1,), 6),
        ((2, 3), (3,), 6),
        ((2, 3), (3, 1), 10**13),
    ],
)
def test_a_tensor_that_declares_more_than_the_file_holds(tmp_path, shape, stride, numel):
    file = zipped_pickle(tmp_path, crafted_tensor(shape, stride, numel))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(file)


def test_the_crafted_tensor_itself_is_readable(tmp_path):
    """The refusals above are of their shapes, not of the way the file is made."""
    weights = checkpoint.read(zipped_pickle(tmp_path, crafted_tensor((2, 3), (3, 1))))
    assert torch.equal(weights.state["x"], STATE["fc.weight"])


# Files that are something else


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html><body>Sign in</body></html>", "web page"),
        (b"hello, these are not weights\n", "damaged or no checkpoint"),
        (b"PK\x03\x04 and then nothing", "damaged or no checkpoint"),
        (bytes(4096), "starts with zeros"),
        (struct.pack("<Q", 2**62) + b"{}", "damaged or no checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.tar"])
def test_a_file_that_is_no_checkpoint(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        checkpoint.read(tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", struct.pack("<Q", 2**62) + b"{}", bytes(64), b"<html>"]
)
def test_a_file_that_is_no_safetensors(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "weights.safetensors")


@BOTH_FORMATS
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file(tmp_path, zipped, kept):
    file = saved(tmp_path, {"w": torch.randn(2000)}, zipped=zipped)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(file)


def test_a_tar_archive_is_not_unpacked(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "model.pth.tar", "w") as archive:
        archive.add(saved(tmp_path, STATE), "model.pth")
    with pytest.raises(CheckpointError, match="tar archive"):
        checkpoint.read(tmp_path / "model.pth.tar")


def test_a_numpy_archive(tmp_path):
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(tmp_path / "weights.npz")


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_torchscript_is_refused_and_not_loaded(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "scripted.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        checkpoint.read(tmp_path / "scripted.pt")


@BOTH_FORMATS
def test_a_whole_pickled_network(tmp_path, zipped):
    file = saved(tmp_path, nn.Sequential(nn.Linear(2, 2)), zipped=zipped)
    with pytest.raises(CheckpointError, match=r"torch\.nn.*Sequential: save its state_dict"):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3, "lr": 0.1}, {}, torch.ones(3), {"model": {}}, {3: torch.ones(1)}],
)
def test_a_file_without_named_tensors(tmp_path, content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoint.read(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.empty(3, device="meta"), "no data"),
    ],
)
def test_tensors_that_are_not_dense_numbers(tmp_path, tensor, message):
    with pytest.raises(CheckpointError, match=f"w is .*{message}|w has {message}"):
        checkpoint.read(saved(tmp_path, {"w": tensor}))
    with pytest.raises(CheckpointError, match="w is of a tensor class"):
        checkpoint.read(saved(tmp_path, {"model": {"w": tensor}, "args": argparse.Namespace()}))


def test_a_missing_file_names_close_ones(tmp_path):
    saved(tmp_path, STATE, name="epoch10.pth")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint file .*epoch1\.pth; close: epoch10\.pth"
    ):
        checkpoint.read(tmp_path / "epoch1.pth")
    with pytest.raises(CheckpointError, match="is not a file"):
        checkpoint.read(tmp_path)
