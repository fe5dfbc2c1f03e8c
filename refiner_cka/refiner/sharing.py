"""Attention sharing: a block that takes the map of the block before instead of computing one."""

from torch import Tensor

from .attention import AttentionConfig, MapAttention
from .conditions import is_scripting
from .pieces import in_pieces
from .refinement import fold_refinement


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

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config, projections=1, refines=True)
        self.refined_scale = 1.0 if config.refine_mode == "none" else self.scale

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over tokens x with the map before; return the output and that map."""
        if before is None:
            raise ValueError("a block that shares attention needs the map of the block before")
        batch, tokens, dim = x.shape
        values = self.qkv(x).reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)
        if not is_scripting():  # noqa: SIM102
            if self._allows_pieces(values, before):
                return self.project(self._attend_in_pieces(before, values)), before
        maps = self.refined_map(self.refine(before)) * self.refined_scale
        return self.attend(maps, values), self.passed_map(before)

    def _attend_in_pieces(self, before: Tensor, values: Tensor) -> Tensor:
        """The heads' outputs (batch, H, N, d)."""
        refine = fold_refinement(self.DLA, self.adapt_bn)

        def attend(piece: slice) -> tuple[Tensor]:
            # Scaling the outputs is scaling the maps, on fewer numbers.
            return ((refine(before[piece]) @ values[piece]) * self.refined_scale,)

        (outputs,) = in_pieces(attend, values, self._image_bytes(values))
        return outputs
