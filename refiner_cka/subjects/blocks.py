"""Which modules of a network are its blocks: the units that follow one another along its main stream."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Parts of a network that may be chains of modules too, but not its blocks.
_NOT_BLOCKS = re.compile("stem|embed|head|classifier|downsampl|subsampl|neck|aux", re.IGNORECASE)
_SUBSAMPLING = re.compile("downsampl|subsampl", re.IGNORECASE)

Modules = dict[str, nn.Module]
"""Modules by dotted path."""


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of the blocks of a network, in the order they are defined.

    Where they are is said by timm's `group_matcher` (its rule for layer-wise decay) if the network has one.
    Else they are in its chains: the elements of a container, or children of a class that repeats; of all
    chains equally deep in the network, those that hold the most parameters.

    In a chain, what is a stage is opened: a container, a module that is nothing but a chain, or one with
    `blocks` (or `layers`, in a class named a stage) inside. Not opened is a module that repeats as it is,
    since stages differ in width: one with parallel branches (HRNet, CrossViT) is itself a block.
    Left out is a single convolution or linear layer with its norm (stem, downsampling, a last 1x1
    convolution), unless it repeats as it is or the network has nothing else (VGG); and a class of its own
    before or between others that repeat (Inception's reductions).

    Returns:
        No path where nothing repeats.
    """
    units = _Finder(module, least=2)
    found = units.grouped() or units.chained() or _Finder(module, least=1).chained()
    return tuple(name for name, _ in module.named_modules() if name in found)


class _Finder:
    """Finds the blocks of one network.

    Args:
        root: the network.
        least: how many layers with weights a block has; 1 finds the layers of a network that has no blocks.
    """

    def __init__(self, root: nn.Module, least: int) -> None:
        self._root = root
        self._least = least
        # A class is judged as a whole: some of MobileOne's blocks have a single convolution.
        self._classes = {type(part) for part in root.modules() if _count_layers(part) >= least}

    def grouped(self) -> Modules:
        """Return the blocks among the modules that timm's `group_matcher` counts."""
        rules = [re.compile(rule) for rule in _counting_rules(self._root)]
        return self._blocks(
            {
                name: part
                for name, part in self._root.named_modules()
                if any((hit := rule.fullmatch(name)) and hit.groups() for rule in rules)
            }
        )

    def chained(self) -> Modules:
        """Return the blocks of the chains that hold the most parameters, the outer ones of equals."""
        best: Modules = {}
        level: Modules = {"": self._root}
        while level:
            found = self._at(level)
            if _parameters(found) > _parameters(best):
                best = found
            level = {
                _join(path, name): child
                for path, part in level.items()
                for name, child in part.named_children()
                if not _NOT_BLOCKS.search(name)
            }
        return best

    def _at(self, level: Modules) -> Modules:
        """Return the blocks in the chains that some modules are, and those that stand beside them."""
        chains = [self._blocks(self._chain(path, part)) for path, part in level.items()]
        types = Counter(type(part) for chain in chains for part in chain.values())
        found = {
            path: part
            for chain in chains
            if any(types[type(part)] > 1 for part in chain.values())
            for path, part in chain.items()
        }
        blocks = {type(part) for part in found.values()} - set(_CONTAINERS)
        return {path: part for path, part in level.items() if type(part) in blocks} | found

    def _chain(self, path: str, part: nn.Module) -> Modules:
        """Return the elements of a container, or of another module its children of classes that repeat."""
        children = _children(path, part)
        if isinstance(part, _CONTAINERS):
            return children
        types = Counter(map(type, children.values()))
        return {
            name: child
            for name, child in children.items()
            if types[type(child)] > 1
            and not isinstance(child, _CONTAINERS)
            and self._is_unit(child)
            and not _NOT_BLOCKS.search(name)
            and self._least > 1
        }

    def _blocks(self, chain: Modules) -> Modules:
        """Return the blocks in a chain: stages and trees opened, and without what is no block."""
        parts: Modules = {}
        opened = self._units(chain)
        while parts.keys() != opened.keys():
            parts, opened = opened, {}
            known = {type(part) for part in parts.values()}
            for path, part in parts.items():
                inside = self._inside(path, part, known, _repeats(path, parts))
                opened |= inside or _called(path, part)
        return _without_transitions(opened)

    def _units(self, chain: Modules) -> Modules:
        """Return what may be a block or a stage, without the layers between."""
        units = {path: part for path, part in chain.items() if self._is_unit(part)}
        containers: Modules = {
            path: part for path, part in units.items() if isinstance(part, _CONTAINERS)
        }
        others = {path: part for path, part in units.items() if path not in containers}
        # Where blocks are, the containers beside them are something else (a stem, a head), or the reverse.
        units = max(others, containers, key=_parameters)
        # A layer that repeats as it is adds to its input (EfficientNetV2's first stage): it is a block.
        return {
            path: part
            for path, part in chain.items()
            if path in units
            or (units and _composite(part) and not self._is_unit(part) and _repeats(path, chain))
        }

    def _is_unit(self, part: nn.Module) -> bool:
        if isinstance(part, _CONTAINERS):
            return _count_layers(part) >= self._least
        return type(part) in self._classes

    def _inside(self, path: str, part: nn.Module, known: set[type], repeats: bool) -> Modules:
        """Return the elements of a stage or a tree, or nothing if the module is neither.

        `known` are the classes found to be blocks or stages; one that `repeats` is no stage.
        """
        children = _children(path, part)
        if repeats and isinstance(part, nn.ModuleList | nn.ModuleDict):
            return _called(path, part)
        if not isinstance(part, _CONTAINERS):
            if name := None if repeats else _chain_of_stage(part):
                return self._units(_children(_join(path, name), part.get_submodule(name)))
            return _branches_of_tree(children, known)
        units = self._units(children)
        if len(units) != 1:
            return units
        (only,) = units.values()
        alone = sum(_count_layers(child) > 0 for child in children.values()) == 1
        # One module among layers is the body of a block, not a chain.
        if isinstance(only, _CONTAINERS) or type(only) in known or (alone and _composite(only)):
            return units
        return {}


def _called(path: str, part: nn.Module) -> Modules:
    """Return a module, or what is in it if it is a list or a dictionary of modules: these are never called."""
    never_called = isinstance(part, nn.ModuleList | nn.ModuleDict)
    children = _children(path, part) if never_called else {}
    inside = {name: child for name, child in children.items() if _count_layers(child)}
    return inside or {path: part}


def _counting_rules(module: nn.Module) -> Iterator[str]:
    """Yield the patterns by which timm's `group_matcher` numbers blocks."""
    matcher = getattr(module, "group_matcher", None)
    try:
        groups: Any = matcher(coarse=False) if callable(matcher) else {}
    except Exception:
        return  # In a few of timm's families it does not run; of others anything may bear its name.
    if not isinstance(groups, Mapping):
        return  # In a few it is a function.
    for part, rules in groups.items():
        if _NOT_BLOCKS.search(part):
            continue
        for rule in [(rules, None)] if isinstance(rules, str) else rules or ():
            # An ordinal stands for something that is not repeated: a norm, a downsampling.
            if isinstance(rule, tuple) and len(rule) == 2 and rule[1] is None:
                yield rule[0]


def _chain_of_stage(stage: nn.Module) -> str | None:
    """Return the name of the chain that a stage runs, or `None` if the module is no stage."""
    children = dict(stage.named_children())
    is_stage = "stage" in type(stage).__name__.lower()
    for name in ("blocks", "layers") if is_stage else ("blocks",):
        if isinstance(children.get(name), _CONTAINERS):
            return name
    weighty = [name for name, child in children.items() if _count_layers(child)]
    if len(weighty) != 1 or not isinstance(children[weighty[0]], _CONTAINERS):
        return None
    elements = dict(children[weighty[0]].named_children())
    is_chain = all(name.isdecimal() and _count_layers(one) > 1 for name, one in elements.items())
    return weighty[0] if is_chain else None


def _branches_of_tree(children: Modules, known: set[type]) -> Modules:
    """Return the children that are trees or blocks themselves, numbered (DLA's `tree1`, `tree2`)."""
    branches = {name: child for name, child in children.items() if type(child) in known}
    stems = {name.rstrip("0123456789") for name in branches}
    return branches if len(branches) > 1 and len(stems) == 1 else {}


def _without_transitions(found: Modules) -> Modules:
    """Return the modules without those between stages, which are named so or of a class of their own."""
    types = Counter(type(part) for part in found.values())

    def is_transition(path: str) -> bool:
        """Whether a module is the only one of its class, and others of its chain repeat after it."""
        chain = [one for one in found if _parent(one) == _parent(path)]
        kinds = {type(found[one]) for one in chain}
        return types[type(found[path])] == 1 and path != chain[-1] and len(kinds) < len(chain)

    return {
        path: part
        for path, part in found.items()
        if not _SUBSAMPLING.search(type(part).__name__) and not is_transition(path)
    }


def _repeats(path: str, parts: Modules) -> bool:
    """Whether another module of the same chain has the same class and shapes."""
    own = _signature(parts[path])
    return any(
        other != path and _parent(other) == _parent(path) and _signature(part) == own
        for other, part in parts.items()
    )


def _signature(part: nn.Module) -> tuple[Any, ...]:
    return type(part), *(parameter.shape for parameter in part.parameters())


def _count_layers(part: nn.Module) -> int:
    """Return how many modules have weights: parameters of at least two axes (a norm's have one)."""
    return sum(
        any(sum(size > 1 for size in own.shape) > 1 for own in one.parameters(recurse=False))
        for one in part.modules()
    )


def _parameters(found: Modules) -> int:
    return sum(
        {id(own): own.numel() for part in found.values() for own in part.parameters()}.values()
    )


def _composite(part: nn.Module) -> bool:
    return any(True for _ in part.children())


def _children(path: str, part: nn.Module) -> Modules:
    return {_join(path, name): child for name, child in part.named_children()}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
