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
from torch import nn

from ..errors import CheckpointError, one_line, some
from . import inert

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
_TRAINED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
_PARTS = ("backbone", "encoder", "student", "weights", "params")
ENTRIES = (*_AVERAGED, *_TRAINED, *_PARTS)


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
    """Read by torch's own restricted unpickler; where that refuses, with placeholders for every class."""
    with warnings.catch_warnings():
        # About deprecated storages and old protocols: nothing that a user can act on.
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except RuntimeError as error:
            raise _unreadable(file, error) from error
        except Exception:
            # A malformed pickle may raise anything; the reader below says what is wrong.
            pass
        try:
            return torch.load(file, map_location="cpu", pickle_module=inert, weights_only=False)
        except inert.CodeFound as error:
            raise CheckpointError(
                f"{file} carries code ({error}) and is refused; nothing in it was run: save the "
                "state_dict alone"
            ) from error
        except Exception as error:
            raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    if "TorchScript" in str(error):
        return CheckpointError(
            f"{file} is a TorchScript archive: save the model's state_dict with torch.save instead"
        )
    # A KeyError says only the key.
    kind = "KeyError: " if isinstance(error, KeyError) else ""
    return CheckpointError(
        f"{file} is damaged or no checkpoint of torch.save: {kind}{one_line(error)}"
    )


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
    """Return a strided CPU tensor with data, or refuse."""
    kind = ""
    if not isinstance(tensor, torch.Tensor):
        kind = "is of a tensor class that is not read beside other objects"
    elif type(tensor) not in (torch.Tensor, nn.Parameter):
        kind = f"is a {type(tensor).__name__}"
    elif tensor.is_quantized:
        kind = "is quantised"
    elif tensor.layout != torch.strided or tensor.is_nested:
        kind = "is sparse or nested"
    elif tensor.is_meta:
        kind = "has no data (meta device)"
    if kind:
        raise CheckpointError(f"{file}: {name} {kind}; save the weights as plain dense tensors")
    plain: torch.Tensor = tensor.detach()
    return plain


def _contents(content: Any) -> str:
    if isinstance(content, inert.Inert) and content.origin:
        return f"an object of {content.origin}: save its state_dict instead"
    if isinstance(content, Mapping):
        return some([str(key) for key in content], 8) or "an empty dictionary"
    return f"a {type(content).__name__}"
