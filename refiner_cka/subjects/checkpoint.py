"""Weights from a file, read without executing anything in it.

Nested checkpoints are searched in the order of `ENTRIES`: averaged weights (EMA, the teacher of a self-distilled
pair) before the weights that were trained, as timm does.
"""

from __future__ import annotations

import re
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from ..errors import CheckpointError, clipped, one_line, some
from . import inert

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
_TRAINED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
_PARTS = ("backbone", "encoder", "student", "weights", "params")
ENTRIES = (*_AVERAGED, *_TRAINED, *_PARTS)

_NOT_PLAIN = {
    "_sparse_": "sparse",
    "_nested_": "nested",
    "_qtensor": "quantised",
    "_meta_": "without data (meta device)",
}
"""Part of the name of torch's function that makes a tensor -> what that tensor is."""


@dataclass(frozen=True)
class Weights:
    """What a checkpoint file holds.

    Attributes:
        state: names to plain tensors on the CPU, as saved.
        entry: dotted path of the entry taken (`model_ema`), empty for a file that is a bare state dict.
    """

    state: Mapping[str, torch.Tensor]
    entry: str = ""


def read(file: Path) -> Weights:
    """Read a `.safetensors` file or any file of `torch.save`, without executing anything in it.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, holds no plain tensors, or carries code.
    """
    _check_file(file)
    content = _read_safetensors(file) if file.name.endswith(".safetensors") else _read_torch(file)
    try:
        found = _find_state(content, set())
        other = "" if found else _contents(content)
    except RecursionError as error:
        raise CheckpointError(
            f"{file} is nested too deeply to be a checkpoint: save the state_dict alone"
        ) from error
    if found is None:
        raise CheckpointError(
            f"{file} holds no weights under {some(ENTRIES[:10])}; it holds {other}"
        )
    plain = {name: _plain(name, tensor, file) for name, tensor in found.state.items()}
    return Weights(plain, found.entry)


def _check_file(file: Path) -> None:
    """Refuse what is no checkpoint by its first bytes, naming what it is."""
    if not _exists(file):
        close = ", ".join(get_close_matches(file.name, [one.name for one in file.parent.glob("*")]))
        hint = "weights are a file, `random`, or left out for pretrained"
        raise CheckpointError(f"no checkpoint file {file}; {f'close: {close}' if close else hint}")
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file: name the checkpoint inside it")
    try:
        with file.open("rb") as opened:
            start = opened.read(512)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from error
    if not start:
        raise CheckpointError(f"{file} is empty")
    if not any(start):
        raise CheckpointError(
            f"{file} is damaged: it starts with zeros, as after a failed download"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise CheckpointError(f"{file} is a web page, not a checkpoint: its download failed")
    # torch would unpack it to disk.
    if not file.name.endswith(".safetensors") and tarfile.is_tarfile(file):
        raise CheckpointError(
            f"{file} is a tar archive, not a file of torch.save: name the checkpoint inside it"
        )


def _exists(file: Path) -> bool:
    """Return whether there is such a file; there is none of a name that no file can have."""
    try:
        return file.exists()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from error


def _read_safetensors(file: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged or no safetensors file: {one_line(error)}"
        ) from error


def _read_torch(file: Path) -> Any:
    """Read by torch's reader with placeholders for every class."""
    with warnings.catch_warnings():
        # About deprecated storages and old protocols: nothing that a user can act on.
        warnings.simplefilter("ignore")
        try:
            return _unpickled(file)
        except inert.CodeFound as error:
            raise CheckpointError(
                f"{file} carries code ({one_line(error)}) and is refused; nothing in it was run: save the "
                "state_dict alone"
            ) from error
        except CheckpointError:
            raise
        except Exception as error:
            # A KeyError says only the key.
            kind = "KeyError: " if isinstance(error, KeyError) else ""
            raise CheckpointError(
                f"{file} is damaged or no checkpoint of torch.save: {kind}{one_line(error)}"
            ) from error


def _unpickled(file: Path) -> Any:
    """Return what `torch.load` would, but for TorchScript, which it would hand to `torch.jit.load`.

    Its parts are called one by one: itself it also obeys variables of the environment that change the unpickler.
    """
    with file.open("rb") as opened:
        if not serialization._is_zipfile(opened):
            return serialization._legacy_load(opened, "cpu", inert, encoding="utf-8")  # type: ignore[no-untyped-call]
        with serialization._open_zipfile_reader(opened) as archive:
            if serialization._is_torchscript_zip(archive):  # type: ignore[no-untyped-call]
                raise CheckpointError(
                    f"{file} is a TorchScript archive: save the model's state_dict with torch.save instead"
                )
            return serialization._load(archive, "cpu", inert, encoding="utf-8")  # type: ignore[no-untyped-call]


def _find_state(content: Any, searched: set[int]) -> Weights | None:
    """Return the first state dict in the order of `ENTRIES`, depth first; entries may contain themselves."""
    if not isinstance(content, Mapping) or id(content) in searched:
        return None
    searched.add(id(content))
    for entry in ENTRIES:
        if inner := _find_state(content.get(entry), searched):
            return Weights(inner.state, f"{entry}.{inner.entry}" if inner.entry else entry)
    state = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and _is_tensor(value)
    }
    return Weights(state) if state else None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, inert.Inert) and "_rebuild_" in value.origin
    )


def _plain(name: str, tensor: Any, file: Path) -> torch.Tensor:
    """Return a tensor, or refuse what stands for one that is not plain."""
    if isinstance(tensor, torch.Tensor):
        return tensor
    kind = next(
        (told for part, told in _NOT_PLAIN.items() if part in tensor.origin),
        "of a class of its own",
    )
    raise CheckpointError(
        f"{file}: {clipped(name)} is {kind}; save the weights as plain dense tensors"
    )


def _contents(content: Any) -> str:
    if isinstance(content, inert.Inert) and content.origin:
        return f"an object of {clipped(content.origin)}: save its state_dict instead"
    if isinstance(content, Mapping):
        return some([str(key) for key in content], 8) or "an empty dictionary"
    return f"a {type(content).__name__}"
