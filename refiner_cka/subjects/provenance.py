"""Where weights come from, in a form that a result file keeps."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .fitting import Fit

ASIDE = ("note", "training")
"""Entries of an origin that are worth knowing and determine no number."""

_TIME = re.compile(
    r"(epoch|step|iter(?:ation)?|checkpoint|ckpt|(?<![a-z\d])(?:ep|e|it))([-_=. ]*)(\d+)",
    re.IGNORECASE,
)
"""A number that counts training time, and the word before it that says so. Any other number may as well be a
seed: what it counts is not guessed."""


@dataclass(frozen=True)
class Source:
    """What a network was made of.

    Attributes:
        model: timm's name with its tag, or the class or factory.
        weights: `pretrained`, `random`, `trained`, `as given`, or the file's name.
        fit: what was loaded from a file or hub; `None` where nothing was, or it is not known.
        entry: the entry of a nested checkpoint that was taken.
        note: what a reader of results has to know of the weights; no part of the identity of an analysis.
    """

    model: str
    weights: str = "as given"
    fit: Fit | None = None
    entry: str = ""
    note: str = ""


def origin_of(
    module: nn.Module,
    source: Source,
    image_size: Sequence[int],
    *,
    arguments: Mapping[str, Any] | None = None,
    seed: int | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """Return a model's provenance, JSON types only.

    Always `model`, `weights`, `sha256`, `parameters` (how many numbers are learned), `image_size` and
    `arguments`. After loading also `loading` (a line in words), `tensors_loaded` (loaded, total),
    `tensors_missing` and `tensors_unused` (names), and `checkpoint_entry`; of random weights `seed`; of a file
    that names a moment of a training `training`, see `moment`; `note`. Image sizes are (height, width) in pixels.
    """
    fit, entry = source.fit, source.entry
    origin: dict[str, Any] = {
        "model": source.model,
        "weights": source.weights,
        "sha256": state_hash(module),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "image_size": [int(side) for side in image_size],
        "arguments": {key: _json(value) for key, value in (arguments or {}).items()},
    }
    if fit is not None:
        origin["loading"] = f"{fit} from {entry}" if entry else str(fit)
        origin["tensors_loaded"] = [fit.loaded, fit.total]
        origin["tensors_missing"] = list(fit.missing)
        origin["tensors_unused"] = list(fit.unused)
    if entry:
        origin["checkpoint_entry"] = entry
    if seed is not None:
        origin["seed"] = seed
    if file is not None and (training := moment(file)):
        origin["training"] = training
    if source.note:
        origin["note"] = source.note
    return origin


def moment(file: Path) -> dict[str, Any] | None:
    """Return the moment of a training that a checkpoint's path names; `None` if it names none.

    Returns:
        `run`: the path with `#` for the numbers that count time, the same for all files of one training;
        `time`: these numbers. Of `run1/epoch04.pth` they are `run1/epoch#.pth` and `[4]`.
    """
    path = file.as_posix()
    time = [int(found[3]) for found in _TIME.finditer(path)]
    return {"run": _TIME.sub(r"\1\2#", path), "time": time} if time else None


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_json(each) for each in value]
    return repr(value)


def state_hash(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers: name, dtype, shape and bytes, in order, on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators of torch, NumPy and Python, and put the caller's states back afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the caller's GPUs too.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
