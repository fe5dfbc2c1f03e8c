"""Refined self-attention: maps are computed, joined with the map before, refined, and used."""

from types import MethodType
from typing import Final

import torch
from torch import Tensor, nn

from . import fast
from .refinement import AttentionRefinement, RefineMode


class MapAttention(nn.Module):
    """What refined and shared attention have in common: to refine a map and attend with it.

    Three `nn.Identity` submodules without effect or parameters are there to be hooked: a forward
    hook on them reads (or replaces) maps (batch, H, N, N) in either path of evaluation. `raw_map`
    sees the softmax, `refined_map` what `DLA` and `adapt_bn` make of a map, and `passed_map` what
    goes on to the next block.
    """

    refines: Final[bool]

    def __init__(
        self,
        dim: int,
        heads: int,
        values: int,
        *,
        refines: bool,
        refine_mode: RefineMode,
        expansion_ratio: int | None,
        kernel_size: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        """Make the layers, `qkv` with `values` outputs, in the order of a released checkpoint."""
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.refines = refines
        self.fast_evaluation = True
        if refines:
            self.DLA = AttentionRefinement(
                heads, mode=refine_mode, ratio=expansion_ratio, kernel_size=kernel_size
            )
            # Without refinement there is nothing to adapt: the map must stay as it is.
            self.adapt_bn = nn.Identity() if refine_mode == "none" else nn.BatchNorm2d(heads)
        self.qkv = nn.Linear(dim, values, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.raw_map = nn.Identity()
        self.refined_map = nn.Identity()
        self.passed_map = nn.Identity()

    def refine(self, maps: Tensor) -> Tensor:
        """`adapt_bn(DLA(maps))`, by the fast path where it may be taken."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            folded = fast.refine(self, maps)
            if folded is not None:
                return folded
        refined: Tensor = self.adapt_bn(self.DLA(maps))
        return refined

    def attend(self, maps: Tensor, values: Tensor) -> Tensor:
        """Weigh values (batch, H, N, d) by maps (batch, H, N, N) and project: (batch, N, H d)."""
        return self.project(self.attn_drop(maps) @ values)

    def rewritten(self) -> bool:
        """Whether a subclass or an assignment replaced a step that the fast path writes out."""
        steps = ((self.refine, MapAttention.refine), (self.attend, MapAttention.attend))
        return any(step != MethodType(own, self) for step, own in steps)

    def project(self, outputs: Tensor) -> Tensor:
        """Join the outputs of the heads (batch, H, N, d) and project them: (batch, N, H d)."""
        projected: Tensor = self.proj_drop(self.proj(outputs.transpose(1, 2).flatten(2)))
        return projected


class RefinedSelfAttention(MapAttention):
    """Self-attention whose map is joined with the map before, refined, and passed on.

        S   = softmax(q k^T / sqrt(d))              the raw map
        A   = S + map_scale x A_before              A = S in the first block
        A^  = adapt_bn(DLA(A))                      where the block refines, else A^ = A
        out = W_proj concat_h(A^_h v_h)

    A^ goes on. Every block of the paper's layout refines; the plain blocks of the released layout
    do not, and leave that to the shared block after them.

    Shapes: x (batch, N, dim), map before (batch, H, N, N) -> out (batch, N, dim), map passed on
    (batch, H, N, N).

    Source: Zhou et al., Refiner, arXiv 2106.03714, "refiner"; the added map follows the reference
    model.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        refines: bool = True,
        refine_mode: RefineMode = "expand-conv",
        expansion_ratio: int | None = None,
        kernel_size: int = 3,
        map_scale: float | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        """Make attention of `heads` heads over `dim` features; `map_scale` None is d^-0.5."""
        super().__init__(
            dim,
            heads,
            3 * dim,
            refines=refines,
            refine_mode=refine_mode,
            expansion_ratio=expansion_ratio,
            kernel_size=kernel_size,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.map_scale = self.scale if map_scale is None else map_scale

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over tokens x; return the output and the map that goes on."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        queries = queries * self.scale
        if self.map_scale == 0:
            before = None
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            attended = fast.own_attention(self, queries, keys, values, before)
            if attended is not None:
                return self.project(attended[0]), attended[1]
        maps = self.raw_map((queries @ keys.transpose(-2, -1)).softmax(dim=-1))
        if before is not None:
            maps = torch.add(maps, before, alpha=self.map_scale)
        if self.refines:
            maps = self.refined_map(self.refine(maps))
        return self.attend(maps, values), self.passed_map(maps)
