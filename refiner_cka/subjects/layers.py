"""Which modules of a network are its layers: `block`, `attn`, `mlp`, `all`, or a glob over dotted names."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from ..errors import LayerError
from .blocks import find_blocks

_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_ATTENTION = {"attn", "attention", "self_attn", "self_attention", "token_mixer", "mixer"}
_MLP = {"mlp", "mlp_tokens", "mlp_channels", "channel_mixer", "ffn", "feed_forward", "feedforward"}
# In evaluation mode these return their input: as layers they would only repeat the row before.
_PASS_THROUGH = frozenset(
    {"Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath"}
)


def find_layers(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """Return the dotted paths of the layers that a pattern names, in the order they are defined.

    Args:
        module: any network.
        pattern: `block`: the blocks, by the rule of `find_blocks` (of a ResNet every residual block); `attn`,
            `mlp`: the attention and MLP modules inside the blocks; `all`: every module without children,
            leaving out identities and dropout, which change nothing in evaluation mode; anything else is a
            glob (`fnmatch`) over dotted names, in which `*` also matches dots.

    Raises:
        LayerError: nothing matches; names what the network has instead.
    """
    if pattern == "block":
        return _blocks(module)
    if pattern == "attn":
        return _within_blocks(module, _ATTENTION, "attention")
    if pattern == "mlp":
        return _within_blocks(module, _MLP, "MLP")
    if pattern == "all":
        return _leaves(module)
    return _glob(module, pattern)


def choose_layers(module: nn.Module, layers: Sequence[str] | str) -> tuple[tuple[str, ...], bool]:
    """Return the layers that a pattern or names stand for, and whether they came from a pattern.

    One name alone, of a module that the network has, is a layer named by hand.

    Raises:
        LayerError: a pattern that matches nothing, no names, a name given twice, or one of no module.
    """
    known = _names(module)
    if isinstance(layers, str):
        return find_layers(module, layers), layers not in known
    if not layers:
        raise LayerError(
            "no layers given: name modules (blocks.0) or a pattern (block, attn, mlp, all, a glob)"
        )
    for name, count in Counter(layers).items():
        if name not in known:
            raise LayerError(
                f"{type(module).__name__} has no module {name!r}{_similar(name, known)}"
            )
        if count > 1:
            raise LayerError(f"layer {name!r} is named twice")
    return tuple(layers), False


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules() if name]


def _similar(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=4, cutoff=0.5)
    return f"; close: {', '.join(close)}" if close else ""


def _leaves(module: nn.Module) -> tuple[str, ...]:
    found = tuple(
        name
        for name, child in module.named_modules()
        if name
        and not list(child.children())
        and not isinstance(child, _HOLDERS)
        and type(child).__name__ not in _PASS_THROUGH
    )
    if not found:
        raise LayerError(f"{type(module).__name__} has no submodules to read")
    return found


def _glob(module: nn.Module, pattern: str) -> tuple[str, ...]:
    known = _names(module)
    found = tuple(name for name in known if fnmatch.fnmatchcase(name, pattern))
    if not found:
        hint = _similar(pattern.replace("*", ""), known) or f"; it has {_outline(module)}"
        raise LayerError(
            f"layer pattern {pattern!r} matches nothing in {type(module).__name__}{hint}"
        )
    return found


def _outline(module: nn.Module) -> str:
    names = [name for name, _ in module.named_children()]
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown


def _within_blocks(module: nn.Module, wanted: set[str], kind: str) -> tuple[str, ...]:
    """Return the modules inside the blocks with a wanted name that are in no other attention or MLP module."""
    blocks = {path: module.get_submodule(path) for path in _blocks(module)}
    found = [
        f"{path}.{name}"
        for path, block in blocks.items()
        for name, child in block.named_modules()
        if name.rpartition(".")[2] in wanted
        and not (_ATTENTION | _MLP) & set(name.split(".")[:-1])
        and type(child).__name__ not in _PASS_THROUGH
    ]
    if not found:
        parts = sorted({name for block in blocks.values() for name, _ in block.named_children()})
        raise LayerError(
            f"the blocks of {type(module).__name__} have no {kind} module; they have {', '.join(parts[:12])}: "
            "name layers by a glob"
        )
    return tuple(found)


def _blocks(module: nn.Module) -> tuple[str, ...]:
    found = find_blocks(module)
    if not found:
        raise LayerError(
            f"no repeated blocks found in {type(module).__name__}; its modules are {_outline(module)}: "
            "name layers by a glob or use all"
        )
    return found
