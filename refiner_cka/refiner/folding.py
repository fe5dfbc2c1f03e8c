"""Folding: a convolution and the BatchNorm after it are one convolution.

Nothing folded outlives a forward pass: weights are folded from the modules' present tensors each time (some 10
microseconds for each BatchNorm), so optimiser steps, loading, in-place edits and swapped averages need no
invalidation.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def as_affine(norm: nn.BatchNorm2d, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel by which a BatchNorm maps x + added in evaluation.

        scale = weight / sqrt(var + eps);    shift = bias - (mean - added) x scale

    Half precision tensors are folded in fp32: a variance below 6e-5 would lose its digits.
    """
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


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The weight and bias with which a convolution does its own work and its BatchNorm's."""
    scale, shift = as_affine(norm, conv.bias)
    dtype = conv.weight.dtype
    return (conv.weight * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """A function that does what a convolution and its BatchNorm do, in one convolution."""
    weight, bias = fold(conv, norm)
    return partial(conv._conv_forward, weight=weight, bias=bias)
