"""Refined self-attention: maps are computed, joined with the map before, refined, and used."""

from dataclasses import dataclass
from types import MethodType
from typing import Final

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .conditions import allowed, as_built, is_scripting, worthwhile
from .pieces import in_pieces
from .refinement import AttentionRefinement, RefineMode, fold_refinement, foldable


@dataclass(frozen=True)
class AttentionConfig:
    """The arguments of `Refiner` that the attention of all its blocks has in common."""

    embed_dim: int
    num_heads: int
    refine_mode: RefineMode = "expand-conv"
    expansion_ratio: int | None = None
    kernel_size: int = 3
    map_scale: float | None = None
    qkv_bias: bool = True
    attn_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ModelError(
                f"embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}"
            )


class MapAttention(nn.Module):
    """What refined and shared attention have in common: to refine a map and attend with it.

    Three `nn.Identity` submodules without effect or parameters are there to be hooked: a forward
    hook on them reads (or replaces) maps (batch, H, N, N) in either path of evaluation. `raw_map`
    sees the softmax, `refined_map` what `DLA` and `adapt_bn` make of a map, and `passed_map` what
    goes on to the next block.
    """

    refines: Final[bool]

    def __init__(self, config: AttentionConfig, *, projections: int, refines: bool) -> None:
        """Make the layers in the order of a released checkpoint; `projections` of x are in `qkv`."""
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.refines = refines
        self.fast_evaluation = True
        if refines:
            self.DLA = AttentionRefinement(
                heads,
                mode=config.refine_mode,
                ratio=config.expansion_ratio,
                kernel_size=config.kernel_size,
            )
            # Without refinement there is nothing to adapt: the map must stay as it is.
            self.adapt_bn = nn.BatchNorm2d(heads) if self.DLA.refines else nn.Identity()
        self.qkv = nn.Linear(dim, projections * dim, bias=config.qkv_bias)
        self.attn_drop = nn.Dropout(config.attn_drop_rate)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(config.proj_drop_rate)
        self.raw_map = nn.Identity()
        self.refined_map = nn.Identity()
        self.passed_map = nn.Identity()

    def refine(self, maps: Tensor) -> Tensor:
        """`adapt_bn(DLA(maps))` for maps (batch, H, N, N), folded where that may be done."""
        if not is_scripting():  # noqa: SIM102
            if allowed(self, maps) and self._foldable(maps):
                return self._refine_in_pieces(maps)
        refined: Tensor = self.adapt_bn(self.DLA(maps))
        return refined

    def attend(self, maps: Tensor, values: Tensor) -> Tensor:
        """Weigh values (batch, H, N, d) by maps (batch, H, N, N) and project: (batch, N, H d)."""
        return self.project(self.attn_drop(maps) @ values)

    def project(self, outputs: Tensor) -> Tensor:
        """Join the outputs of the heads (batch, H, N, d) and project them: (batch, N, H d)."""
        projected: Tensor = self.proj_drop(self.proj(outputs.transpose(1, 2).flatten(2)))
        return projected

    def _refine_in_pieces(self, maps: Tensor) -> Tensor:
        folded = fold_refinement(self.DLA, self.adapt_bn)
        (refined,) = in_pieces(lambda piece: (folded(maps[piece]),), maps, self._image_bytes(maps))
        return refined

    def _allows_pieces(self, values: Tensor, before: Tensor | None) -> bool:
        """Whether the way from queries, keys and values to the heads' outputs may go in pieces.

        Not if somebody reads the maps: they are then made for the whole batch, and still refined fast.
        """
        readers = (self.raw_map, self.refined_map, self.passed_map)
        return (
            allowed(self, values, before)
            and self.refine == MethodType(MapAttention.refine, self)
            and self.attend == MethodType(MapAttention.attend, self)
            and all(as_built(reader, nn.Identity) for reader in readers)
            and as_built(self.attn_drop, nn.Dropout)
            and (not self.refines or self._foldable(values))
        )

    def _foldable(self, like: Tensor) -> bool:
        """Whether refinement may be folded, and is worth it for maps or values (batch, H, N, ...)."""
        return foldable(self.DLA, self.adapt_bn) and worthwhile(
            like, len(like) * self.DLA.ratio * self._map_bytes(like)
        )

    def _image_bytes(self, like: Tensor) -> int:
        """Bytes of the maps of one image that are at work at once."""
        # Scores, their softmax and the map before; or the expanded maps before and after the DLA.
        return max(3, 2 * self.DLA.ratio if self.refines else 0) * self._map_bytes(like)

    def _map_bytes(self, like: Tensor) -> int:
        """Bytes of one image's maps, one for each head."""
        return self.heads * like.shape[2] ** 2 * like.element_size()


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

    def __init__(self, config: AttentionConfig, *, refines: bool = True) -> None:
        super().__init__(config, projections=3, refines=refines)
        self.map_scale = self.scale if config.map_scale is None else config.map_scale

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over tokens x; return the output and the map that goes on."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        queries = queries * self.scale
        if self.map_scale == 0:
            before = None
        if not is_scripting():  # noqa: SIM102
            if self._allows_pieces(values, before):
                outputs, passed = self._attend_in_pieces(queries, keys, values, before)
                return self.project(outputs), passed
        maps = self.raw_map((queries @ keys.transpose(-2, -1)).softmax(dim=-1))
        if before is not None:
            maps = torch.add(maps, before, alpha=self.map_scale)
        if self.refines:
            maps = self.refined_map(self.refine(maps))
        return self.attend(maps, values), self.passed_map(maps)

    def _attend_in_pieces(
        self, queries: Tensor, keys: Tensor, values: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The heads' outputs (batch, H, N, d) and the map that goes on."""
        refine = fold_refinement(self.DLA, self.adapt_bn) if self.refines else nn.Identity()

        def attend(piece: slice) -> tuple[Tensor, Tensor]:
            maps = (queries[piece] @ keys[piece].transpose(-2, -1)).softmax(dim=-1)
            if before is not None:
                maps.add_(before[piece], alpha=self.map_scale)
            maps = refine(maps)
            return maps @ values[piece], maps

        outputs, passed = in_pieces(attend, values, self._image_bytes(values))
        return outputs, passed
