"""Weights fitted to a network with nothing left to chance: only its classifier may stay as initialised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import CheckpointError, some
from . import timm_attributes

State = Mapping[str, torch.Tensor]
"""Tensors by the names that parameters and buffers have."""

# What wraps a network adds to its parameters' names. Left alone where the network has a child of that name.
_PREFIXES = ("_orig_mod", "module", "teacher", "backbone", "model", "encoder", "student")
_HEADS = ("head", "head_dist", "heads", "fc", "classifier", "aux_head")
# Buffers that older versions did not save, or that follow from the architecture.
_DERIVED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


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
        return f"{line} ({some(self.missing)} left as initialised)" if self.missing else line


def unwrap(state: State, module: nn.Module) -> dict[str, torch.Tensor]:
    """Strip the prefixes that wrappers (`module.`, `backbone.`, ...) put before a network's own names.

    A name that is there with and without a prefix, or under two, keeps the outermost, then the first in order.
    """
    children = {name for name, _ in module.named_children()}
    dotted = [f"{prefix}." for prefix in _PREFIXES if prefix not in children]
    found = dict(state)
    while prefix := next((one for one in dotted if any(n.startswith(one) for n in found)), ""):
        # Names without the prefix come last: of two that become the same the last one counts.
        in_turn = sorted(found.items(), key=lambda entry: not entry[0].startswith(prefix))
        found = {name.removeprefix(prefix): tensor for name, tensor in in_turn}
    return found


def fit(module: nn.Module, state: State, source: str, *, resize_head: bool = True) -> Fit:
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
    missing, unused, differing = _differences(own, state)
    usable = {name: state[name] for name in own if name not in {*missing, *differing}}
    underived = [name for name in missing if not name.endswith(_DERIVED)]
    essential = [name for name in (*underived, *differing) if not _within(name, heads)]
    if essential or not usable or _deeper(module, unused):
        raise misfit(module, state, source)
    for name, tensor in usable.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {name} holds {tensor.dtype} numbers (quantised?); save floating weights"
            )
    module.load_state_dict(usable, strict=False)
    left = tuple(name for name in own if name not in usable)
    return Fit(len(usable), len(own), left, tuple(unused))


def misfit(module: nn.Module, state: State, source: str, reason: str = "") -> CheckpointError:
    """Return the refusal of a checkpoint of another architecture: names, shapes, and what the file looks like."""
    own = module.state_dict()
    missing, unused, differing = _differences(own, state)
    fitting = len(own) - len(missing) - len(differing)
    shapes = [
        f"{name} {_shape(state[name])} in the file, {_shape(own[name])} in the model"
        for name in differing
    ]
    sketch = _sketch(state)
    told = [
        f"{source}: another architecture, {fitting} of {len(own)} tensors fit",
        reason,
        f"missing {some(missing)}" if missing else "",
        f"unexpected {some(unused)}" if unused else "",
        f"shapes differ: {some(shapes, 2)}" if shapes else "",
        f"the file looks like {sketch}" if sketch else "",
    ]
    return CheckpointError("; ".join(filter(None, told)))


def classifiers(module: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the classifier's layers: timm's own list, else the usual names."""
    if named := timm_attributes.config(module).get("classifier"):
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(name for name in _HEADS if hasattr(module, name))


def _differences(own: State, state: State) -> tuple[list[str], list[str], list[str]]:
    """Return the names that a state dict lacks, those it has beyond a network's own, and those of other shapes."""
    missing = [name for name in own if name not in state]
    unused = [name for name in state if name not in own]
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    return missing, unused, differing


def _deeper(module: nn.Module, unused: Iterable[str]) -> list[str]:
    """Return names inside parts that the network has too: another block, a layer scale.

    Parts of their own (a decoder, a projection head) are left out without harm.
    """
    own = (*module.named_children(), *module.named_parameters())
    parts = {name.partition(".")[0] for name, _ in own}
    return [
        name
        for name in unused
        if name.partition(".")[0] in parts
        and not _within(name, _HEADS)
        and not name.endswith(_DERIVED)
    ]


def _resize_head(module: nn.Module, state: State, heads: Sequence[str]) -> None:
    """Give a timm network the checkpoint's number of classes where all its classifiers agree on one."""
    own = module.state_dict()
    weights = {f"{head}.weight" for head in heads} & state.keys() & own.keys()
    sizes = {state[name].shape[0] for name in weights if state[name].ndim}
    resize = getattr(module, "reset_classifier", None)
    if len(sizes) == 1 and callable(resize) and sizes != {own[name].shape[0] for name in weights}:
        resize(sizes.pop())


def _within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _sketch(state: State) -> str:
    """Say what a state dict looks like: width and number of blocks, or a ResNet's blocks per stage."""
    stages = [_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    if all(stages):
        return f"a ResNet with {', '.join(map(str, stages))} blocks"
    depth = _count(state, r"(?:^|.*\.)(?:blocks|layers?)\.(\d+)\.")
    position = state.get("pos_embed")
    if depth and position is not None and position.ndim == 3:
        return f"a transformer of {depth} blocks, width {position.shape[-1]}"
    return f"a network of {depth} blocks" if depth else ""


def _count(names: Iterable[str], pattern: str) -> int:
    return len({hit.group(1) for name in names if (hit := re.match(pattern, name))})


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
