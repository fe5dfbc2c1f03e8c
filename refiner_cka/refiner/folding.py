"""Folding: a convolution and the BatchNorm after it are one convolution.

Nothing folded outlives a forward pass: weights are folded from the modules' present tensors each time (some 10
microseconds for each BatchNorm), so optimiser steps, loading, in-place edits and swapped averages need no
invalidation.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Folded(NamedTuple):
    """A convolution (its stride, padding, dilation ...) with other weights; bias (out,) or None."""

    conv: nn.Conv2d
    weight: Tensor
    bias: Tensor | None

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve x (images, in, rows, columns)."""
        convolved: Tensor = self.conv._conv_forward(x, self.weight, self.bias)
        return convolved


def as_affine(norm: nn.Module, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel by which a BatchNorm maps x + added in evaluation.

        scale = weight / sqrt(var + eps);    shift = bias - (mean - added) x scale

    Half precision tensors are folded in fp32: a variance below 6e-5 would lose its digits.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias, mean, var = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = weight * torch.rsqrt(var + norm.eps)
    if added is not None:
        mean = mean - added
    return scale, torch.addcmul(bias, mean, scale, value=-1)


def fold(conv: nn.Conv2d, norm: nn.Module) -> Folded:
    """One convolution that does a convolution and its BatchNorm."""
    scale, shift = as_affine(norm, conv.bias)
    dtype = conv.weight.dtype
    return Folded(conv, (conv.weight * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype))
