"""Checkpoint files that carry code: refused in one line, and nothing in them runs."""

import argparse
import collections
import copyreg
import functools
import io
import os
import pickle
import zipfile

import pytest
import torch

from refiner_cka.errors import CheckpointError
from refiner_cka.subjects import checkpoint
from tests.subjects.files import BOTH_FORMATS, STATE, assert_state, saved, trap

pytestmark = pytest.mark.usefixtures("nothing_runs")


class Calls:
    """Pickles as a call of any function with any arguments: how code gets into a checkpoint."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        call = (self.function, self.arguments)
        return call if self.state is None else (*call, self.state)


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
    ordered = dict(vars(collections.OrderedDict))
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.read(file)
    assert "\n" not in str(refusal.value)
    assert str(file) in str(refusal.value)
    assert os.listdir(tmp_path) == [file.name]
    assert dict(vars(collections.OrderedDict)) == ordered
    # The reader is what it was: an honest file that takes all of it still reads.
    honest = {"state_dict": STATE, "args": argparse.Namespace(a=1)}
    assert_state(checkpoint.read(saved(tmp_path, honest, name="honest.pth")))


def test_an_endless_name_is_read_around(tmp_path):
    """torch's own reader looks through its message about such a name for half a minute."""
    named = b"\x80\x02c" + b"a" * 57_000 + b"\nThing\n)R."
    with pytest.raises(CheckpointError, match=r"an object of a{157}\.\.\.:"):
        checkpoint.read(zipped_pickle(tmp_path, named))


def test_an_archive_that_calls_itself_torchscript_is_not_loaded_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", trap)
    with zipfile.ZipFile(file := saved(tmp_path, STATE), "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "name", ["TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"]
)
@BOTH_FORMATS
def test_torch_s_variables_change_nothing(tmp_path, monkeypatch, zipped, name):
    monkeypatch.setenv(name, "1")
    file = saved(tmp_path, {"state_dict": STATE, "args": argparse.Namespace(a=1)}, zipped=zipped)
    assert_state(checkpoint.read(file))


def test_a_registered_extension_is_not_reached(tmp_path):
    copyreg.add_extension(trap.__module__, "trap", 240)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # now it is in pickle's cache, past any find_class
        with pytest.raises(CheckpointError, match="carries code"):
            checkpoint.read(zipped_pickle(tmp_path, b"\x80\x02\x82\xf0)R."))
    finally:
        copyreg.remove_extension(trap.__module__, "trap", 240)


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


def test_a_tensor_takes_no_state(tmp_path):
    """`Tensor.__setstate__` takes storage, offset, shape and stride as they come."""
    honest = crafted_tensor((2, 3), (3, 1))
    # The storage once more, then a state of four with a shape beyond it.
    state = (
        b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x06tQK\x00M\x10\x27\x85K\x01\x85tb"
    )
    file = zipped_pickle(tmp_path, honest[:-2] + state + b"u.")
    with pytest.raises(CheckpointError, match=r"damaged .* a state for a Tensor"):
        checkpoint.read(file)


def test_the_crafted_tensor_itself_is_readable(tmp_path):
    """The refusals above are of their shapes, not of the way the file is made."""
    weights = checkpoint.read(zipped_pickle(tmp_path, crafted_tensor((2, 3), (3, 1))))
    assert torch.equal(weights.state["x"], STATE["fc.weight"])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"\x80\x02" + b"}U\x05model" * 3000 + b"N" + b"s" * 3000 + b".", id="dictionaries"
        ),
        pytest.param(b"\x80\x02}" + b")" + b"\x85" * 3000 + b"Ns.", id="tuples as a key"),
    ],
)
def test_what_is_nested_thousands_deep_is_refused_in_one_line(tmp_path, data):
    with pytest.raises(CheckpointError, match="nested too deeply"):
        checkpoint.read(zipped_pickle(tmp_path, data))


@BOTH_FORMATS
def test_a_checkpoint_that_contains_itself(tmp_path, zipped):
    state = {"state_dict": dict(STATE)}
    state["model_ema"] = state["state_dict"]["module"] = state
    state["list"] = [state]
    state["list"].append(state["list"])
    assert_state(checkpoint.read(saved(tmp_path, state, zipped=zipped)))
    empty = {"args": argparse.Namespace()}
    empty["model"] = empty["args"].own = empty
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoint.read(saved(tmp_path, empty, zipped=zipped))
