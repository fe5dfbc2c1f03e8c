"""How the tokens of each layer lie: from the shape of its output, its parameters and what is known of the model.

A model may mix layouts: stages of convolutions and then of transformer blocks, sequences with and without prefix
tokens. So each layer is decided by itself. Where shape and parameters allow several readings, the one is taken
whose tokens answer to their own part of the image (`locality`); where that does not tell, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..errors import LayerError
from .locality import Reading, Verdict, locate
from .readout import Format, Grid, ModelLayout, TokenLayout

_PREFIXES = (0, 1, 2, 4, 5)
"""Prefix tokens that models have: none, class, distillation, and four registers without and with a class."""

_REGISTERS_ALONE = 4

_WHERE = "in --model or Subject.from_module"


class NoTokens(LayerError):
    """An output that is not made of tokens."""


@dataclass(frozen=True)
class _Ways:
    """The readings that a layer's shape and parameters allow, and whether they leave no doubt of a single one."""

    readings: Sequence[Reading]
    sure: bool = True
    guessed: bool = False
    """Whether prefix tokens were found by their number alone, so that they need not come first."""


@dataclass(frozen=True)
class _Model:
    """What is known of the model: by its attributes and its user, by its modules; and the size of its images."""

    known: ModelLayout
    module: nn.Module
    size: Sequence[int]

    def grid(self, count: int) -> Grid | None:
        return grid_of(count, self.module, self.size)

    @property
    def images(self) -> str:
        return f"images of {self.size[0]}x{self.size[1]}"


@dataclass
class _Channels:
    """Numbers of channels in a layer's modules.

    Attributes:
        first: of modules that put them on the axis after the images (convolutions and their norms).
        last: of modules that put them on the last axis (linear layers, layer norms).
        linear: of linear layers alone.
    """

    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    linear: set[int] = field(default_factory=set)

    def __contains__(self, channels: int) -> bool:
        return channels in self.first or channels in self.last


def readings_of(
    module: nn.Module,
    outputs: Mapping[str, torch.Tensor],
    known: ModelLayout,
    forward: Callable[[torch.Tensor], Any],
    image: Sequence[int],
    *,
    on_grid: bool,
) -> dict[str, Reading | LayerError | None]:
    """Return how each layer's tokens are read, or why that cannot be said.

    Args:
        module: the model.
        outputs: a layer's path and its output, of which only the shape matters.
        known: what is known of the model.
        forward: runs the model on `(3, channels, height, width)` images, where shapes do not tell.
        image: `(channels, height, width)`.
        on_grid: whether the places of the patches matter. They are then confirmed, and else left unknown.

    Returns:
        `None` for an output `(images, channels)`, which is one patch.
    """
    model = _Model(known, module, image[-2:])
    found: dict[str, Reading | LayerError | None] = {}
    in_question: dict[str, _Ways] = {}
    for path, output in outputs.items():
        try:
            ways = _ways(output.shape, model, module.get_submodule(path))
        except LayerError as error:
            found[path] = error
            continue
        found[path] = ways.readings[0] if ways.readings else None
        has_grid = any(way.grid is not None for way in ways.readings)
        if ways.guessed or (has_grid and (on_grid or not ways.sure)):
            in_question[path] = ways
    if in_question:
        readings = {path: ways.readings for path, ways in in_question.items()}
        for path, verdicts in locate(module, readings, forward, image).items():
            found[path] = _settled(outputs[path].shape, verdicts, in_question[path].sure)
    if on_grid:
        return found
    return {
        path: replace(each, grid=None) if isinstance(each, Reading) else each
        for path, each in found.items()
    }


def prefix_of(count: int, known: ModelLayout, module: nn.Module, size: Sequence[int]) -> int:
    """Return how many of so many tokens are prefix tokens, on images of a size (height, width).

    Raises:
        LayerError: it cannot be said.
    """
    prefixes = _prefixes(count, _Model(known, module, size))
    if len(prefixes) > 1:
        raise LayerError(_several_prefixes(count, prefixes))
    return prefixes[0]


def grid_of(count: int, module: nn.Module, size: Sequence[int]) -> Grid | None:
    """Return rows and columns of so many patches, or `None` if no grid, or several, have so many.

    The model's own grid; or one of the image's proportions; or the image in patches of a whole number of pixels,
    an incomplete last patch on both sides left out or taken in.
    """
    own = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if own is not None and own[0] * own[1] == count:
        return int(own[0]), int(own[1])
    height, width = size
    rows = round((count * height / width) ** 0.5)
    if rows and count % rows == 0 and rows * width == count // rows * height:
        return rows, count // rows
    grids = {
        grid
        for side in range(1, min(height, width) + 1)
        for grid in ((height // side, width // side), (-(-height // side), -(-width // side)))
        if grid[0] * grid[1] == count
    }
    return grids.pop() if len(grids) == 1 else None


def _ways(shape: Sequence[int], model: _Model, layer: nn.Module) -> _Ways:
    """Return how an output of a layer can be read, as far as its shape and the layer's parameters tell.

    Raises:
        LayerError: in no way, or not as it was stated.
    """
    if len(shape) == 2:
        return _Ways(())
    no_axis = len(shape) not in (3, 4)
    if no_axis or isinstance(layer, nn.Softmax):
        reason = "which has no token axis" if no_axis else "weights and not tokens"
        raise NoTokens(f"returns {tuple(shape)}, {reason}; only --tokens all reads it")
    stated = model.known.stated
    if stated is not None and len(shape) == (4 if stated == "nlc" else 3):
        raise LayerError(
            f"returns {tuple(shape)}, which is not {stated}: give another layout= {_WHERE}, or none"
        )
    return (_of_sequence if len(shape) == 3 else _of_map)(shape, model, _channels_of(layer))


def _of_sequence(shape: Sequence[int], model: _Model, features: _Channels) -> _Ways:
    known = model.known
    count, channels = shape[1:]
    over_tokens = channels == known.patches and count - channels not in _PREFIXES
    if known.stated is None and (
        over_tokens or (count in features.first and channels not in features)
    ):
        raise NoTokens(
            f"returns {tuple(shape)}, (images, channels, tokens); only --tokens all reads it"
        )
    prefixes = _prefixes(count, model)
    unsaid = known.own_prefix is None
    readings = []
    for prefix in prefixes:
        has_class = known.class_token and not (unsaid and prefix == _REGISTERS_ALONE)
        readings.append(Reading(TokenLayout("nlc", prefix, has_class), model.grid(count - prefix)))
    return _Ways(readings, sure=len(readings) == 1, guessed=unsaid and any(prefixes))


def _prefixes(count: int, model: _Model) -> Sequence[int]:
    """Return how many of so many tokens may be prefix tokens; more than one if nothing known decides.

    Raises:
        LayerError: no usual number makes a grid of the rest, or another than what the model or the user says does.
    """

    def makes_grid(prefix: int) -> bool:
        return count - prefix > 1 and model.grid(count - prefix) is not None

    known, own = model.known, model.known.own_prefix
    if count == known.patches:
        return [0]  # before they are prepended
    if known.stated_prefix is None and known.patches and count > known.patches:
        if count - known.patches in (*_PREFIXES, own):
            return [count - known.patches]
        raise LayerError(
            f"returns {count} tokens, of which {known.patches} cannot be the patches: say how many come before "
            f"them, prefix_tokens=N {_WHERE}, or choose other layers"
        )
    fitting = [prefix for prefix in _PREFIXES if makes_grid(prefix)]
    if own is not None:
        if makes_grid(own) or not fitting:
            return [min(own, count)]
        if 0 in fitting:
            return [0]
        raise LayerError(
            f"returns {count} tokens, which without {own} prefix tokens make no grid on {model.images}, "
            f"and do without {fitting[0]}: give prefix_tokens={fitting[0]} {_WHERE}"
        )
    if not fitting and count > 1:
        raise LayerError(
            f"returns {count} tokens, which make no grid on {model.images} without 0, 1, 2, 4 or 5 "
            f"prefix tokens: say how many there are, prefix_tokens=N {_WHERE}"
        )
    return fitting or [0]


def _of_map(shape: Sequence[int], model: _Model, features: _Channels) -> _Ways:
    stated = model.known.stated
    first, second, third = shape[1:]
    grids: dict[Format, Grid] = {"nchw": (second, third), "nhwc": (first, second)}
    fitting = [format for format, grid in grids.items() if _fits(grid, model.size)]
    if stated is not None:
        if fitting and stated not in fitting:
            raise LayerError(
                f"returns {tuple(shape)}, which is {fitting[0]} and not {stated} on {model.images}: give "
                f"layout={fitting[0]} {_WHERE}"
            )
        return _Ways([Reading(TokenLayout(stated), grids[stated])])
    supported = [
        format for format, channels in (("nchw", first), ("nhwc", third)) if channels in features
    ]
    # Where only the other axis has as many channels as the layer makes, a grid's shape is chance: heads x tokens.
    by_chance = (fitting == ["nchw"] and supported == ["nhwc"] and third in features.last) or (
        fitting == ["nhwc"] and supported == ["nchw"] and first in features.first
    )
    if by_chance or not fitting:
        return _Ways([_without_map(shape, model, features)])
    if len(fitting) == 2 and len(supported) == 1:
        fitting = [format for format in fitting if format in supported]
    readings = [Reading(TokenLayout(format), grids[format]) for format in fitting]
    return _Ways(readings, sure=len(fitting) == 1 and fitting[0] in supported)


def _without_map(shape: Sequence[int], model: _Model, features: _Channels) -> Reading:
    """Return how to read an output with four axes that are no map: (images, windows, tokens, channels), for one.

    Raises:
        LayerError: neither channels nor tokens are known: heads, for one.
    """
    first, second, third = shape[1:]
    if third in features.linear and model.grid(first * second) is not None:
        return Reading(TokenLayout("nhwc"), model.grid(second) if first == 1 else None)
    if first in features.first and third not in features.last:
        return Reading(TokenLayout("nchw"), None)
    raise LayerError(
        f"returns {tuple(shape)}, which is no map of {model.images}: choose other layers, or say how "
        f"it lies, layout=nchw or layout=nhwc {_WHERE}"
    )


def _settled(
    shape: Sequence[int], found: Mapping[Reading, Verdict], sure: bool
) -> Reading | LayerError:
    """Return the reading that the places of the tokens leave."""
    likely = [way for way, verdict in found.items() if verdict != "stray"]
    if not likely:
        return LayerError(
            f"returns {shape[1]} tokens, of which the first answers to one part of the image, as a patch does: "
            "tokens that are no patches come later, and cannot be told apart"
        )
    if len(found) == 1:
        if found[likely[0]] != "misplaced":
            return likely[0]
        if sure:
            return Reading(likely[0].layout, None)
        return LayerError(
            f"returns {tuple(shape)}, whose positions are not those of the image; say how it lies, layout=nchw or "
            f"layout=nhwc {_WHERE}"
        )
    left = [way for way in likely if found[way] == "placed"] or [
        way for way in likely if found[way] == "unknown"
    ]
    if len(left) == 1:
        return left[0]
    if len(shape) == 3:
        return LayerError(_several_prefixes(shape[1], [way.layout.prefix for way in likely]))
    return LayerError(
        f"returns {tuple(shape)}, which may be nchw or nhwc: say which, layout=nchw or layout=nhwc {_WHERE}"
    )


def _several_prefixes(count: int, prefixes: Sequence[int]) -> str:
    numbers = " or ".join(map(str, prefixes))
    return (
        f"returns {count} tokens, of which {numbers} may be prefix tokens: say how many, "
        f"prefix_tokens=N {_WHERE}"
    )


def _fits(grid: Grid, size: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the image, give or take the row that a padding adds or takes."""
    height, width = size
    return grid[0] <= height and abs(grid[0] - grid[1] * height / width) <= 1


def _channels_of(layer: nn.Module) -> _Channels:
    found = _Channels()
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            found.linear.add(part.out_features)
            found.last.add(part.out_features)
        elif isinstance(shape := getattr(part, "normalized_shape", None), tuple):
            # timm's LayerNorm2d is a LayerNorm over the second axis.
            (found.first if "2d" in type(part).__name__ else found.last).add(shape[-1])
        elif isinstance(part, nn.Conv1d | nn.Conv2d):
            found.first.add(part.out_channels)
        elif isinstance(part, nn.BatchNorm2d | nn.InstanceNorm2d):
            found.first.add(part.num_features)
        elif isinstance(part, nn.GroupNorm):
            found.first.add(part.num_channels)
    return found
