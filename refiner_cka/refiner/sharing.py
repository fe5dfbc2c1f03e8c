"""Attention sharing: a block that takes the map of the block before instead of computing one."""

import torch
from torch import Tensor

from . import fast
from .attention import MapAttention
from .refinement import RefineMode


class SharedAttention(MapAttention):
    """Attention with a refined copy of the map before; it has values, no queries and no keys.

        A^  = adapt_bn(DLA(A_before))
        out = W_proj concat_h(d^-0.5 A^_h v_h)

    What goes on is A_before, unrefined. In refinement mode `none` there is no A^ to scale: the
    block attends with A_before itself.

    Shapes: x (batch, N, dim), map before (batch, H, N, N) -> out (batch, N, dim), map before.

    Source: the released layout of the Refiner reference model (arXiv 2106.03714), in which every
    second block is of this kind.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        refine_mode: RefineMode = "expand-conv",
        expansion_ratio: int | None = None,
        kernel_size: int = 3,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        """Make attention of `heads` heads over `dim` features that shares the map before."""
        super().__init__(
            dim,
            heads,
            dim,
            refines=True,
            refine_mode=refine_mode,
            expansion_ratio=expansion_ratio,
            kernel_size=kernel_size,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.refined_scale = 1.0 if refine_mode == "none" else self.scale

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over tokens x with the map before; return the output and that map."""
        if before is None:
            raise ValueError("a block that shares attention needs the map of the block before")
        batch, tokens, dim = x.shape
        values = self.qkv(x).reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            outputs = fast.shared_attention(self, before, values)
            if outputs is not None:
                return self.project(outputs), before
        maps = self.refined_map(self.refine(before)) * self.refined_scale
        return self.attend(maps, values), self.passed_map(before)
