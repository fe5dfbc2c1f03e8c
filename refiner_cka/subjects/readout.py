"""From what a block returns to the features that CKA and the token measures read.

The rule, in order: a tensor is taken as it is; of a mapping (Hugging Face's `ModelOutput` is one) the entry
`last_hidden_state`, else the first value that holds a tensor; of a tuple or list the first entry that does, if
possible one with an entry for each image (of TNT's pixels and patches, the patches).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..errors import LayerError

Format = Literal["nlc", "nchw", "nhwc"]
FORMATS: tuple[Format, ...] = get_args(Format)
Readout = Literal["all", "patch", "cls", "mean"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
Grid = tuple[int, int]
"""Rows and columns of patches."""


@dataclass(frozen=True)
class TokenLayout:
    """How the tokens of one layer lie in its output.

    Attributes:
        format: `nlc` (images, tokens, channels), `nchw` or `nhwc`; every position of the last two is a token.
        prefix: how many of the first tokens of an `nlc` output are no patches (class, distillation, register).
        class_token: whether the first of these is a class token.
    """

    format: Format = "nlc"
    prefix: int = 0
    class_token: bool = True

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.prefix > 0 and self.class_token


@dataclass(frozen=True)
class ModelLayout:
    """What is known of how tokens lie in a model's layers: by its attributes, and by the user, who comes first.

    Each layer's own `TokenLayout` follows from this, its output's shape and its parameters: see `layouts`.

    Attributes:
        prefix: prefix tokens where a layer has them, by the model; `None` if it does not say.
        patches: patch tokens where the model fixes their number.
        class_token: false if the model has prefix tokens and none of them is a class token.
        stated: how outputs lie, by the user.
        stated_prefix: prefix tokens where a layer has them, by the user.
    """

    prefix: int | None = None
    patches: int | None = None
    class_token: bool = True
    stated: Format | None = None
    stated_prefix: int | None = None

    @property
    def own_prefix(self) -> int | None:
        """How many prefix tokens its layers have where they have them, if anybody says."""
        return self.prefix if self.stated_prefix is None else self.stated_prefix


def tensor_of(output: Any, images: int | None = None) -> torch.Tensor | None:
    """Return the tensor that stands for a module's output by the rule above, or `None` if there is none.

    Args:
        output: what the module returned.
        images: how many images it was given; `None` if that is not known.
    """
    return tensor_at(output, place_of(output, images))


def place_of(output: Any, images: int | None) -> int:
    """Return which of an output's tensors stands for it, counted from 0.

    To be asked once and then kept: with as many images as something else has entries, such as heads, the rule
    would take another tensor of the same module's output.
    """
    fitting = (
        place for place, one in enumerate(_tensors(output)) if one.ndim and one.shape[0] == images
    )
    return next(fitting, 0)


def tensor_at(output: Any, place: int) -> torch.Tensor | None:
    """Return a tensor of an output by its place, or `None` if there are fewer."""
    return next(itertools.islice(_tensors(output), place, None), None)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensor that an output is, the one that stands for a mapping, or those of a tuple or list."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        preferred = output.get("last_hidden_state")
        values = [preferred] if preferred is not None else list(output.values())
        yield from itertools.islice((found for value in values for found in _tensors(value)), 1)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def tokens_of(tensor: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Return the tokens of an output, prefix tokens first, `(images, tokens, channels)`."""
    if layout.format == "nlc":
        return tensor
    channels_last = tensor if layout.format == "nhwc" else tensor.permute(0, 2, 3, 1)
    return channels_last.flatten(1, 2)


def patches_of(tensor: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Return the tokens of an output without prefix tokens, `(images, tokens, channels)`."""
    return tokens_of(tensor, layout)[:, layout.prefix :]


def features_of(tensor: torch.Tensor, layout: TokenLayout | None, readout: Readout) -> torch.Tensor:
    """Return the features of one readout, `(images, features)`.

    Args:
        tensor: a layer's output, images first.
        layout: how its tokens lie; of no account for `all`, and for an output `(images, channels)`, one patch.
        readout: `all` every number; `patch` all but the prefix tokens; `cls` the first prefix token; `mean`
            the mean over patch tokens, float64 where the device has it.

    Raises:
        LayerError: `cls` where there is no class token, or `patch` or `mean` where there is no patch.
    """
    if readout == "all" or (tensor.ndim == 2 and readout != "cls"):
        return _flat(tensor)
    if readout == "cls":
        if tensor.ndim == 2 or layout is None or not layout.has_class_token:
            raise LayerError("there is no class token to read: use --tokens all, patch or mean")
        return tensor[:, 0]
    # Only an output with several axes of which something is said is a row.
    assert layout is not None
    patches = patches_of(tensor, layout)
    if not patches.shape[1]:
        raise LayerError("there are no patch tokens to read: use --tokens all or cls")
    if readout == "patch":
        return _flat(patches)
    # Half precision would round a mean by more than images differ, where tokens share an offset.
    return patches.mean(1, dtype=exact_dtype(patches.device))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return `(batch, features)`, a view: in the order of the memory, which no Gram matrix depends on."""
    axes = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(0, *axes).flatten(1)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for numbers that stay on a device that has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
