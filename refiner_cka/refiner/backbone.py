"""The backbone: images to tokens, through stem, positions, blocks and the final norm."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, Final

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import ModelError
from .attention import MapAttention
from .block import Block
from .checkpointing import checkpointed
from .conditions import is_scripting
from .heads import Box, mix_tokens
from .positions import resample, square_grid
from .stem import ConvStem

# The key under which a state dict's metadata says which grid its positions belong to: their number
# alone does not tell 14x14 from 7x28.
GRID = "grid"


class Backbone(nn.Module):
    """A Refiner without its heads, put together from its parts.

    Shapes: images (batch, channels, h, w) -> tokens (batch, 1 + (h / p)(w / p), embed_dim), the class
    token first.
    """

    # Scripting would compile the property, which only concerns eager evaluation.
    __jit_unused_properties__: Final = ["fast_evaluation"]

    def __init__(
        self,
        stem: Any,
        blocks: Iterable[Block],
        embed_dim: int,
        *,
        pos_drop_rate: float = 0.0,
        dynamic_img_size: bool = False,
    ) -> None:
        """Put together a stem (`ConvStem` or timm's `PatchEmbed`) and blocks for its tokens.

        Args:
            stem: images to patch tokens (batch, patches, embed_dim).
            blocks: made one by one, after the stem and before the norm.
            embed_dim: width of a token.
            pos_drop_rate: dropout after the position embedding.
            dynamic_img_size: interpolate positions for images of another size.
        """
        super().__init__()
        rows, columns = stem.grid_size
        self.dynamic_img_size = dynamic_img_size
        self.grad_checkpointing = False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, embed_dim))
        self.patch_embed = stem
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6)
        self.register_state_dict_post_hook(note_grid)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(fit_positions)  # type: ignore[no-untyped-call]

    @property
    def fast_evaluation(self) -> bool:
        """Whether evaluation without gradients may take the fast path. Set it to switch that."""
        return all(module.fast_evaluation for module in self._mechanisms())

    @fast_evaluation.setter
    def fast_evaluation(self, enable: bool) -> None:
        for module in self._mechanisms():
            module.fast_evaluation = enable

    def _mechanisms(self) -> list[ConvStem | MapAttention]:
        return [module for module in self.modules() if isinstance(module, (ConvStem, MapAttention))]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def _embed(self, images: Tensor, box: Box | None = None) -> Tensor:
        """Tokens before the first block, positions added: (batch, 1 + patches, embed_dim)."""
        tokens = self.patch_embed(images)
        grid = self._grid(images)
        if box is not None:
            tokens = mix_tokens(tokens, grid, box)
        positions: Tensor = self.pos_embed
        if self.dynamic_img_size:
            positions = resample(positions, self.patch_embed.grid_size, grid)
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        embedded: Tensor = self.pos_drop(torch.cat([cls_token, tokens], dim=1) + positions)
        return embedded

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of these images."""
        rows, columns = self.patch_embed.patch_size
        return images.shape[-2] // rows, images.shape[-1] // columns

    def _run_block(
        self, block: nn.Module, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One block, recomputed in the backward pass if gradient checkpointing asks for it."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpointed(block, x, before)
        x, passed = block(x, before)
        return x, passed

    def _run_blocks(self, x: Tensor) -> Tensor:
        """All blocks and the final norm; the map goes from block to block beside the tokens."""
        before: Tensor | None = None
        for block in self.blocks:
            if is_scripting():
                x, before = block(x, before)
            else:
                x, before = self._run_block(block, x, before)
        normed: Tensor = self.norm(x)
        return normed

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to normalised tokens (batch, 1 + patches, embed_dim)."""
        return self._run_blocks(self._embed(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, with the arguments and results of timm's vision transformer.

        Masks are none of them: refinement mixes neighbouring entries of a map, masked or not.

        Args:
            x: images.
            indices: the last n blocks, these blocks, or all.
            return_prefix_tokens: pair every intermediate with its class token.
            norm: apply the final norm to intermediates.
            stop_early: skip the blocks after the last one asked for.
            output_fmt: `NCHW` maps or `NLC` tokens.
            intermediates_only: leave out the final features.
            output_dict: return a dictionary with `image_features`, `image_intermediates` and, if
                asked for, `image_intermediates_prefix`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ModelError(f"output_fmt={output_fmt!r} is unknown; use 'NCHW' or 'NLC'")
        take, last = feature_take_indices(len(self.blocks), indices)
        grid = self._grid(x)
        x = self._embed(x)
        before: Tensor | None = None
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x, before = self._run_block(block, x, before)
            if index in take:
                outputs.append(self.norm(x) if norm else x)
        prefix = [output[:, :1] for output in outputs]
        patches = [output[:, 1:] for output in outputs]
        if output_fmt == "NCHW":
            patches = [torch.unflatten(patch.mT, 2, grid).contiguous() for patch in patches]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": patches}
            if return_prefix_tokens:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = self.norm(x)
            return result
        intermediates = list(zip(patches, prefix, strict=True)) if return_prefix_tokens else patches
        return intermediates if intermediates_only else (self.norm(x), intermediates)


def note_grid(
    model: Backbone, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """State dict hook: note the grid of the positions in the metadata, which adds no key."""
    local_metadata[GRID] = tuple(model.patch_embed.grid_size)


def fit_positions(
    model: Backbone,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Mapping[str, Any],
    *_: object,
) -> None:
    """Load hook: interpolate the positions of a state dict made for another grid.

    The metadata says which grid they belong to, unless their number has been changed since. Without
    it, positions whose number fits are taken as they are, and others to be those of a square grid.
    """
    positions = state_dict.get(prefix + "pos_embed")
    if positions is None:
        return
    new = model.patch_embed.grid_size
    noted = tuple(local_metadata.get(GRID, new))
    count = positions.shape[1] - 1
    old = next((grid for grid in (noted, new) if prod(grid) == count), None)
    state_dict[prefix + "pos_embed"] = resample(positions, old or square_grid(positions), new)
