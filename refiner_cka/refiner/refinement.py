"""The refinement of attention maps: expansion, DLA, reduction, residual; plain, and folded for evaluation."""

from collections.abc import Callable
from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .conditions import as_built
from .convolutions import (
    AttentionExpansion,
    AttentionReduction,
    DenseMapConvolution,
    DistributedLocalAttention,
)
from .folding import as_affine, fold, folded

RefineMode = Literal["expand-conv", "conv", "none"]


def resolve_ratio(mode: str, ratio: int | None) -> int:
    """Check a mode and its expansion ratio; the default is 3 where maps are expanded, else 1.

    A ratio that a mode could not honour is refused, never ignored.
    """
    if mode not in get_args(RefineMode):
        known = ", ".join(get_args(RefineMode))
        raise ModelError(f"refine_mode={mode!r} is unknown; use one of {known}")
    if ratio is None:
        return 3 if mode == "expand-conv" else 1
    if ratio < 1:
        raise ModelError(f"expansion_ratio={ratio} leaves no maps; use 1 or more")
    if mode != "expand-conv" and ratio != 1:
        raise ModelError(
            f"expansion_ratio={ratio} has no effect with refine_mode={mode!r}; "
            "leave it out or use refine_mode='expand-conv'"
        )
    return ratio


class AttentionRefinement(nn.Module):
    """Refine attention maps before they meet the values; named `DLA` in a released checkpoint.

    Mode `expand-conv`, the paper's, for maps A, with ReLU6(x) = min(max(x, 0), 6):

        A~ = ReLU6(BatchNorm(expand(A)))        left out when the ratio is 1
        A* = ReLU6(BatchNorm(DLA(A~)))
        R  = BatchNorm(reduce(A*)) + A

    Mode `conv`: R is a dense k x k convolution of A, with neither BatchNorm nor residual.
    Mode `none`: R = A.

    Shapes: (batch, H, N, N) -> (batch, H, N, N).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "refiner"; BatchNorm, ReLU6 and the residual
    follow the reference model.
    """

    # Constants for scripting, which then leaves out branches whose layers do not exist.
    refines: Final[bool]
    dense: Final[bool]
    expands: Final[bool]

    def __init__(
        self,
        heads: int,
        *,
        mode: RefineMode = "expand-conv",
        ratio: int | None = None,
        kernel_size: int = 3,
    ) -> None:
        """Make the refinement of the maps of `heads` heads; see `resolve_ratio` for the ratio."""
        super().__init__()
        self.ratio = resolve_ratio(mode, ratio)
        self.refines = mode != "none"
        self.dense = mode == "conv"
        self.expands = self.ratio > 1
        if mode == "conv":
            self.conv = DenseMapConvolution(heads, kernel_size)
        if mode == "expand-conv":
            maps = self.ratio * heads
            if self.expands:
                self.conv_exp = AttentionExpansion(heads, self.ratio)
                self.bn1 = nn.BatchNorm2d(maps)
            self.depth_sep_conv = DistributedLocalAttention(maps, kernel_size)
            self.bn2 = nn.BatchNorm2d(maps)
            self.conv_pro = AttentionReduction(maps, heads)
            self.bn3 = nn.BatchNorm2d(heads)

    def forward(self, maps: Tensor) -> Tensor:
        """Refine maps of shape (batch, H, N, N) to the same shape."""
        if not self.refines:
            return maps
        if self.dense:
            convolved: Tensor = self.conv(maps)
            return convolved
        expanded = maps
        if self.expands:
            expanded = F.relu6(self.bn1(self.conv_exp(maps)))
        local = F.relu6(self.bn2(self.depth_sep_conv(expanded)))
        reduced: Tensor = self.bn3(self.conv_pro(local))
        return reduced + maps


def foldable(refinement: nn.Module, adapt_bn: nn.Module) -> bool:
    """Whether a refinement and the norm after it are as built, with nobody looking inside."""
    if not as_built(refinement, AttentionRefinement):
        return False
    if not refinement.refines:
        return as_built(adapt_bn, nn.Identity)
    kinds = (
        AttentionExpansion,
        DistributedLocalAttention,
        DenseMapConvolution,
        AttentionReduction,
        nn.BatchNorm2d,
    )
    return all(as_built(part, *kinds) for part in (*refinement.children(), adapt_bn))


def fold_refinement(
    refinement: AttentionRefinement, adapt_bn: nn.Module
) -> Callable[[Tensor], Tensor]:
    """`adapt_bn(refinement(A))` for one forward pass, from the weights as they are now."""
    if not isinstance(adapt_bn, nn.BatchNorm2d):
        return nn.Identity()
    if refinement.dense:
        return folded(refinement.conv, adapt_bn)
    return FoldedRefinement(refinement, adapt_bn)


class FoldedRefinement:
    """`adapt_bn(refinement(A))` in mode `expand-conv`, its four BatchNorms folded.

    With s, b the scale and shift of `bn3` and s', b' those of `adapt_bn`, reduction, residual and
    both norms are one matrix product and one multiply-add:

        s' (s W_R A* + b + A) + b'  =  (s' s W_R) A* + s' A + (s' b + b')

    The 1 x 1 convolutions are matrix products. With `channels_last`, the default on a CPU, expanded
    maps lie in memory that way, in which its depthwise convolution is an order of magnitude faster.
    """

    def __init__(self, refinement: AttentionRefinement, adapt_bn: nn.BatchNorm2d) -> None:
        expands = refinement.expands
        self.expansion = fold(refinement.conv_exp, refinement.bn1) if expands else None
        self.convolve = folded(refinement.depth_sep_conv, refinement.bn2)
        scale, shift = as_affine(refinement.bn3, refinement.conv_pro.bias)
        gain, offset = as_affine(adapt_bn)
        weight = refinement.conv_pro.weight.flatten(1)
        self.reduction = (weight * (scale * gain).unsqueeze(1)).to(weight.dtype)
        self.gain = gain.to(weight.dtype).unsqueeze(1)
        self.shift = torch.addcmul(offset, gain, shift).to(weight.dtype).unsqueeze(1)
        self.channels_last = weight.device.type == "cpu"

    def __call__(self, maps: Tensor) -> Tensor:
        """Refine maps (images, H, N, N)."""
        flat = maps.flatten(2)
        expanded = maps if self.expansion is None else self._expand(maps, flat, *self.expansion)
        local = self.convolve(expanded).clamp_(0, 6)
        return self._reduce(local, flat).view_as(maps)

    def _expand(self, maps: Tensor, flat: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Expansion, BatchNorm, ReLU6: (images, H', N, N)."""
        weight = weight.flatten(1)
        count, (images, _, rows, columns) = len(weight), maps.shape
        if not self.channels_last:
            weight = weight.expand(images, -1, -1)
            expanded = torch.baddbmm(bias.unsqueeze(1), weight, flat)
            return expanded.clamp_(0, 6).view(images, count, rows, columns)
        expanded = torch.baddbmm(bias, flat.transpose(1, 2), weight.t().expand(images, -1, -1))
        return expanded.clamp_(0, 6).view(images, rows, columns, count).permute(0, 3, 1, 2)

    def _reduce(self, local: Tensor, flat: Tensor) -> Tensor:
        """Reduction, both BatchNorms and the residual: (images, H, N N)."""
        if local.is_contiguous():
            local = local.flatten(2)
        else:
            local = local.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
        # Under autocast maps, products and weights may differ in precision; the result is a map.
        shift, gain = self.shift.to(flat.dtype), self.gain.to(flat.dtype)
        refined = torch.addcmul(shift, flat, gain)
        if refined.dtype == local.dtype == self.reduction.dtype:
            return refined.baddbmm_(self.reduction.expand(len(local), -1, -1), local)
        return refined.add_(self.reduction @ local)
