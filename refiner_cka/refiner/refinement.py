"""The refinement of attention maps: expansion, DLA, reduction, residual."""

from typing import Final, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .dla import DenseMapConvolution, DistributedLocalAttention
from .expansion import AttentionExpansion
from .reduction import AttentionReduction

RefineMode = Literal["expand-conv", "conv", "none"]

DEFAULT_RATIO = 3


def resolve_ratio(mode: str, ratio: int | None) -> int:
    """Check a mode and its expansion ratio; the default is 3 where maps are expanded, else 1.

    A ratio that a mode could not honour is refused, never ignored.
    """
    if mode not in get_args(RefineMode):
        known = ", ".join(get_args(RefineMode))
        raise ModelError(f"refine_mode={mode!r} is unknown; use one of {known}")
    if ratio is None:
        return DEFAULT_RATIO if mode == "expand-conv" else 1
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
