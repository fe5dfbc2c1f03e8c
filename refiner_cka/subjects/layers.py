"""Which modules of a network are its layers: `block`, `attn`, `mlp`, `all`, or a glob over dotted names."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from torch import nn

from ..errors import LayerError
from .blocks import find_blocks

_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_ATTENTION_NAMES = frozenset(
    {"attn", "attention", "self_attn", "self_attention", "token_mixer", "mixer"}
)
_MLP_NAMES = frozenset(
    {"mlp", "mlp_tokens", "mlp_channels", "channel_mixer", "ffn", "feed_forward", "feedforward"}
)
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
        return _within_blocks(module, _ATTENTION_NAMES, "attention")
    if pattern == "mlp":
        return _within_blocks(module, _MLP_NAMES, "MLP")
    if pattern == "all":
        return _leaves(module)
    return _glob(module, pattern)


def choose_layers(module: nn.Module, layers: Sequence[str] | str) -> tuple[tuple[str, ...], bool]:
    """Return the layers that a pattern or names stand for, and whether they came from a pattern.

    One name alone, of a module that the network has, is a layer named by hand.

    Raises:
        LayerError: a pattern that matches nothing, no names, a name given twice, or one of no module.
    """
    if not isinstance(layers, str):
        return _checked(module, layers), False
    return find_layers(module, layers), layers not in _names(module)


def _checked(module: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    known = _names(module)
    if not names:
        raise LayerError(
            "no layers given: name modules (blocks.0) or a pattern (block, attn, mlp, all, a glob)"
        )
    for name in names:
        if name not in known:
            raise LayerError(
                f"{type(module).__name__} has no module {name!r}{_similar(name, known)}"
            )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise LayerError(f"layer {repeated[0]!r} is named twice")
    return tuple(names)


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules() if name]


def _similar(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=4, cutoff=0.5)
    return f"; close: {', '.join(close)}" if close else ""


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _leaves(module: nn.Module) -> tuple[str, ...]:
    found = tuple(
        name
        for name, child in module.named_modules()
        if name
        and not _is_composite(child)
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


def _within_blocks(module: nn.Module, wanted: frozenset[str], kind: str) -> tuple[str, ...]:
    """Return the outermost modules inside the blocks whose own name is one of `wanted`."""
    blocks = _blocks(module)
    found = [
        f"{block}.{name}"
        for block in blocks
        for name, child in module.get_submodule(block).named_modules()
        if _is_part(name, wanted) and type(child).__name__ not in _PASS_THROUGH
    ]
    if not found:
        parts = sorted(
            {name for block in blocks for name, _ in module.get_submodule(block).named_children()}
        )
        raise LayerError(
            f"the blocks of {type(module).__name__} have no {kind} module; they have {', '.join(parts[:12])}: "
            "name layers by a glob"
        )
    return tuple(found)


def _is_part(name: str, wanted: frozenset[str]) -> bool:
    """Whether a path inside a block ends in a wanted name and is not inside another attention or MLP module."""
    *outer, own = name.split(".")
    return own in wanted and not (_ATTENTION_NAMES | _MLP_NAMES) & set(outer)


def _blocks(module: nn.Module) -> tuple[str, ...]:
    found = find_blocks(module)
    if not found:
        raise LayerError(
            f"no repeated blocks found in {type(module).__name__}; its modules are {_outline(module)}: "
            "name layers by a glob or use all"
        )
    return found
