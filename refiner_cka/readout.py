"""From what a block returns to the features that CKA and the token measures read.

The rule, in order: a tensor is taken as it is; of a mapping (Hugging Face's `ModelOutput` is one) the entry
`last_hidden_state`, else the first value that holds a tensor; of a tuple or list the first entry that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .errors import LayerError
from .scaling import exact_dtype

Format = Literal["nlc", "nchw", "nhwc"]
Readout = Literal["all", "patch", "cls", "mean"]
READOUTS: tuple[Readout, ...] = ("all", "patch", "cls", "mean")


@dataclass(frozen=True)
class TokenLayout:
    """How the tokens of a model's layers lie.

    Attributes:
        prefix: number of prefix tokens (class, distillation, register) before the patch tokens of a
            `(batch, tokens, dim)` output.
        patches: number of patch tokens where the model fixes it; tells a sequence with prefix tokens from
            one without (before they are prepended). `None`: every sequence has the prefix tokens.
        spatial: how a 4-d output lies: `nchw` (channels second, convolutional networks) or `nhwc`.
        stated: how the user says that outputs lie; one with other axes is then refused where tokens are read.
    """

    prefix: int = 0
    patches: int | None = None
    spatial: Literal["nchw", "nhwc"] = "nchw"
    stated: Format | None = field(default=None, compare=False)


def tensor_of(output: Any) -> torch.Tensor | None:
    """Return the tensor that stands for a module's output by the rule above, or `None` if there is none."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        preferred = output.get("last_hidden_state")
        values = [preferred] if preferred is not None else list(output.values())
    elif isinstance(output, tuple | list):
        values = list(output)
    else:
        return None
    return next((found for value in values if (found := tensor_of(value)) is not None), None)


def tokens_of(tensor: torch.Tensor, layout: TokenLayout) -> tuple[torch.Tensor, int]:
    """Return `(batch, tokens, dim)` and how many of the first tokens are prefix tokens.

    A `(batch, dim)` output is one patch token; the positions of a 4-d output are its patch tokens.

    Raises:
        LayerError: the output has no token axis (not 2-, 3- or 4-dimensional), or not those that were stated.
    """
    if layout.stated is not None and tensor.ndim == (4 if layout.stated == "nlc" else 3):
        raise LayerError(
            f"an output of shape {tuple(tensor.shape)} is not {layout.stated}, as its tokens are said to lie: "
            "give Subject.from_module other tokens"
        )
    if tensor.ndim == 2:
        return tensor.unsqueeze(1), 0
    if tensor.ndim == 3:
        bare = tensor.shape[1] == layout.patches
        return tensor, 0 if bare else min(layout.prefix, tensor.shape[1])
    if tensor.ndim == 4:
        channels_last = tensor if layout.spatial == "nhwc" else tensor.permute(0, 2, 3, 1)
        return channels_last.flatten(1, 2), 0
    raise LayerError(
        f"an output of shape {tuple(tensor.shape)} has no token axis; only --tokens all reads it"
    )


def features_of(tensor: torch.Tensor, layout: TokenLayout, readout: Readout) -> torch.Tensor:
    """Return the features of one readout, `(batch, features)`.

    Args:
        tensor: a layer's output, batch first.
        layout: how its tokens lie.
        readout: `all` every number; `patch` all but the prefix tokens; `cls` the first prefix token; `mean`
            the mean over patch tokens, float64 where the device has it.

    Raises:
        LayerError: `cls` where there is no prefix token, or a readout of an output without tokens.
    """
    if readout == "all":
        return _flat(tensor)
    tokens, prefix = tokens_of(tensor, layout)
    if readout == "cls":
        if not prefix:
            raise LayerError("there is no class token to read: use --tokens all, patch or mean")
        return tokens[:, 0]
    patches = tokens[:, prefix:]
    if not patches.shape[1]:
        raise LayerError("there are no patch tokens to read: use --tokens all or cls")
    if readout == "patch":
        return _flat(patches)
    # Half precision would round a mean by more than images differ, where tokens share an offset.
    return patches.mean(1, dtype=exact_dtype(patches.device))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return `(batch, features)`, a view of any dense memory format.

    A Gram matrix does not depend on the order of the features, so they come as they lie in memory.
    """
    axes = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(0, *axes).flatten(1)
