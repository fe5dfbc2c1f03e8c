"""Weights from a file: read without executing anything, and fitted to a network with nothing left to chance.

Nested checkpoints are searched in the order of `ENTRIES`: averaged weights (EMA, the teacher of a self-distilled
pair) before the weights that were trained, as timm does.
"""

from __future__ import annotations

import re
import tarfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from . import inert

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
_TRAINED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
_PARTS = ("backbone", "encoder", "student", "weights", "params")
ENTRIES = (*_AVERAGED, *_TRAINED, *_PARTS)
# What wraps a network adds to its parameters' names. Left alone where the network has a child of that name.
_PREFIXES = ("_orig_mod", "module", "teacher", "backbone", "model", "encoder", "student")
_HEADS = ("head", "head_dist", "heads", "fc", "classifier", "aux_head")
# Buffers that older versions did not save, or that follow from the architecture.
_DERIVED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


@dataclass(frozen=True)
class Weights:
    """What a checkpoint file holds.

    Attributes:
        file: where it was read.
        state: names to plain tensors on the CPU, as saved.
        entry: dotted path of the entry taken (`model_ema`), empty for a file that is a bare state dict.
    """

    file: Path
    state: Mapping[str, torch.Tensor]
    entry: str = ""


@dataclass(frozen=True)
class Fit:
    """What loading did.

    Attributes:
        loaded: tensors that were loaded.
        total: tensors that the network has.
        missing: names of its tensors that were left as initialised.
        unused: names of the checkpoint's tensors that have no place in the network.
    """

    loaded: int
    total: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in words: `150 of 152 tensors loaded`."""
        line = f"{self.loaded} of {self.total} tensors loaded"
        return f"{line} ({_some(self.missing)} left as initialised)" if self.missing else line


def read(file: Path) -> Weights:
    """Read a `.safetensors` file or any file of `torch.save`, without executing anything in it.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, holds no plain tensors, or carries code.
    """
    _check_file(file)
    content = _read_safetensors(file) if file.name.endswith(".safetensors") else _read_torch(file)
    found = _find_state(content)
    if found is None:
        raise CheckpointError(
            f"{file} holds no weights under {_some(ENTRIES[:10])}; it holds {_contents(content)}"
        )
    state, entry = found
    return Weights(
        file, {name: _plain(name, tensor, file) for name, tensor in state.items()}, entry
    )


def unwrap(state: Mapping[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """Strip the prefixes that wrappers (`module.`, `backbone.`, ...) put before a network's own names.

    A name that is there with and without a prefix, or under two, keeps the outermost, then the first in order.
    """
    own = {name for name, _ in module.named_children()}
    found = dict(state)
    while prefix := next((each for each in _PREFIXES if _is_prefix(each, found, own)), ""):
        dotted = f"{prefix}."
        inside = {
            name.removeprefix(dotted): found[name] for name in found if name.startswith(dotted)
        }
        outside = {name: found[name] for name in found if not name.startswith(dotted)}
        found = {**inside, **outside}
    return found


def fit(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str, *, resize_head: bool = True
) -> Fit:
    """Load a state dict into a network; only its classifier may stay as initialised.

    Args:
        module: gets the weights; its classifier is made as large as the checkpoint's where it can be.
        state: names as the network has them.
        source: the file and the network's name, for messages.
        resize_head: false if the caller asked for a number of classes.

    Raises:
        CheckpointError: a parameter outside the classifier is missing or has another shape, nothing fits, or
            the checkpoint has more of the same parts (deeper networks contain shallower ones).
    """
    heads = classifiers(module)
    if resize_head:
        _resize_head(module, state, heads)
    own = module.state_dict()
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    usable = {name: state[name] for name in own if name in state and name not in set(differing)}
    missing = [name for name in own if name not in state]
    unused = [name for name in state if name not in own]
    _refuse_misfit(
        module,
        state,
        source,
        [name for name in missing if not _may_stay(name, heads)],
        [name for name in differing if not _within(name, heads)],
        unused,
    )
    if not usable:
        raise misfit(module, state, source)
    _refuse_quantised(own, usable, source)
    module.load_state_dict(usable, strict=False)
    left = tuple(name for name in own if name not in usable)
    return Fit(len(usable), len(own), left, tuple(unused))


def misfit(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str,
    reason: str = "",
) -> CheckpointError:
    """Return the refusal of a checkpoint of another architecture: names, shapes, and what the file looks like."""
    own = module.state_dict()
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    fitting = sum(name in state for name in own) - len(differing)
    told = [f"{source}: another architecture, {fitting} of {len(own)} tensors fit"]
    if reason:
        told.append(reason)
    if missing := [name for name in own if name not in state]:
        told.append(f"missing {_some(missing)}")
    if unexpected := [name for name in state if name not in own]:
        told.append(f"unexpected {_some(unexpected)}")
    if differing:
        shapes = [
            f"{name} {_shape(state[name])} in the file, {_shape(own[name])} in the model"
            for name in differing
        ]
        told.append(f"shapes differ: {_some(shapes, 2)}")
    if sketch := _sketch(state):
        told.append(f"the file looks like {sketch}")
    return CheckpointError("; ".join(told))


def classifiers(module: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the classifier's layers: timm's own list, else the usual names."""
    config = getattr(module, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(name for name in _HEADS if hasattr(module, name))


def first_line(error: Exception) -> str:
    """Return an error's first line, short."""
    text = next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
    return text if len(text) <= 160 else f"{text[:157]}..."


def _is_prefix(prefix: str, names: Iterable[str], own: set[str]) -> bool:
    return prefix not in own and any(name.startswith(f"{prefix}.") for name in names)


def _check_file(file: Path) -> None:
    """Refuse what is no checkpoint by its first bytes, naming what it is."""
    if not file.exists():
        names = [str(each.name) for each in file.parent.iterdir()] if file.parent.is_dir() else []
        close = get_close_matches(file.name, names, n=3)
        hint = (
            f"; close: {', '.join(close)}"
            if close
            else "; weights are a file, `random`, or left out for pretrained"
        )
        raise CheckpointError(f"no checkpoint file {file}{hint}")
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file: name the checkpoint inside it")
    try:
        with file.open("rb") as opened:
            start = opened.read(512)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
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


def _read_safetensors(file: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged or no safetensors file: {first_line(error)}"
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
    text = str(error)
    if "TorchScript" in text:
        return CheckpointError(
            f"{file} is a TorchScript archive: save the model's state_dict with torch.save instead"
        )
    return CheckpointError(f"{file} is damaged or no checkpoint of torch.save: {first_line(error)}")


def _find_state(content: Any) -> tuple[Mapping[str, Any], str] | None:
    """Return the first state dict in the order of `ENTRIES`, depth first, and its dotted path."""
    if not isinstance(content, Mapping):
        return None
    for entry in ENTRIES:
        inner = _find_state(content.get(entry))
        if inner:
            state, path = inner
            return state, f"{entry}.{path}" if path else entry
    state = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and _is_tensor(value)
    }
    return (state, "") if state else None


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
        return _some([str(key) for key in content], 8) or "an empty dictionary"
    return f"a {type(content).__name__}"


def _resize_head(
    module: nn.Module, state: Mapping[str, torch.Tensor], heads: Sequence[str]
) -> None:
    """Give a timm network the checkpoint's number of classes where all its classifiers agree on one."""
    own = module.state_dict()
    weights = [
        f"{head}.weight" for head in heads if f"{head}.weight" in state and f"{head}.weight" in own
    ]
    sizes = {state[name].shape[0] for name in weights if state[name].ndim}
    resize = getattr(module, "reset_classifier", None)
    if len(sizes) == 1 and callable(resize) and sizes != {own[name].shape[0] for name in weights}:
        resize(sizes.pop())


def _refuse_misfit(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str,
    missing: Sequence[str],
    differing: Sequence[str],
    unused: Sequence[str],
) -> None:
    # A part that the network has too, with more in it: another block, a layer scale. Parts of their
    # own (a decoder, a projection head) are left out without harm.
    own_parts = {
        name.partition(".")[0] for name, _ in (*module.named_children(), *module.named_parameters())
    }
    deeper = [
        name
        for name in unused
        if name.partition(".")[0] in own_parts
        and not _within(name, _HEADS)
        and not name.endswith(_DERIVED)
    ]
    if missing or differing or deeper:
        raise misfit(module, state, source)


def _refuse_quantised(
    own: Mapping[str, Any], usable: Mapping[str, torch.Tensor], source: str
) -> None:
    for name, tensor in usable.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {name} holds {tensor.dtype} numbers (quantised?); save floating weights"
            )


def _within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _may_stay(name: str, heads: Sequence[str]) -> bool:
    return _within(name, heads) or name.endswith(_DERIVED)


def _sketch(state: Mapping[str, torch.Tensor]) -> str:
    """Say what a state dict looks like: width and number of blocks, or a ResNet's blocks per stage."""
    stages = [_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    if all(stages):
        return f"a ResNet with {', '.join(map(str, stages))} blocks"
    depth = _count(state, r"(?:^|.*\.)(?:blocks|layers?)\.(\d+)\.")
    position = state.get("pos_embed")
    if depth and position is not None and position.ndim == 3:
        return f"a transformer of {depth} blocks, width {position.shape[-1]}"
    return f"a network of {depth} blocks" if depth else ""


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in state)
    return len({hit.group(1) for hit in found if hit})


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f" (+{len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
