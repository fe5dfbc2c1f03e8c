"""The Refiner model: stem, blocks, heads; the interface of timm's vision transformer."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final, Literal, get_args

import torch
from timm.layers.helpers import to_2tuple
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pool1d import global_pool_nlc
from timm.layers.weight_init import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import ModelError
from .attention import AttentionConfig, MapAttention, RefinedSelfAttention
from .block import Block
from .checkpointing import checkpointed
from .conditions import is_scripting
from .heads import Box, TrainingOutput, mix_tokens, random_box
from .loading import fit_positions, note_grid, resample
from .refinement import RefineMode
from .sharing import SharedAttention
from .stem import ConvStem

Pool = Literal["token", "avg", "max", "avgmax", ""]


class Refiner(nn.Module):
    """A vision transformer that refines its attention maps.

    Layouts. With `share_attention` (the released checkpoints): blocks alternate between plain
    self-attention, whose map goes on unrefined, and shared attention, which refines the map of the
    block before. Without (the paper): every block refines a map of its own.

    Shapes: images (batch, in_chans, h, w) -> logits (batch, num_classes); tokens between blocks
    (batch, 1 + (h / p)(w / p), embed_dim), the class token first.

    Source: Zhou et al., Refiner: Refining Self-attention for Vision Transformers, arXiv 2106.03714.
    """

    # Scripting would compile the property, which only concerns eager evaluation.
    __jit_unused_properties__: Final = ["fast_evaluation"]

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Pool = "token",
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 12,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        conv_stem: bool = True,
        share_attention: bool = True,
        refine_mode: RefineMode = "expand-conv",
        expansion_ratio: int | None = None,
        kernel_size: int = 3,
        map_scale: float | None = None,
        dense_supervision: bool = False,
        token_mixing: bool = False,
        dynamic_img_size: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the model.

        Args:
            img_size: height and width of the images, or one number for both.
            patch_size: side of a patch in pixels.
            in_chans: channels of an image.
            num_classes: classes; 0 for no heads.
            global_pool: what the class head sees: the class token (`token`), the mean of the patch
                tokens (`avg`), their maximum (`max`), half the sum of both (`avgmax`), or every
                token (empty).
            embed_dim: width of a token.
            depth: number of blocks.
            num_heads: attention heads in a block.
            mlp_ratio: hidden width of the MLP over `embed_dim`.
            qkv_bias: whether queries, keys and values have a bias.
            conv_stem: the convolutional stem, or a plain patch embedding.
            share_attention: the released layout, or the paper's.
            refine_mode: `expand-conv`, `conv` (one dense convolution) or `none`.
            expansion_ratio: maps after expansion over heads; 3 if not given. Only with
                `expand-conv`.
            kernel_size: side of the convolution over the maps, odd.
            map_scale: factor of the map added from the block before; d^-0.5 if not given.
            dense_supervision: in training return a `TrainingOutput` instead of logits.
            token_mixing: the same, and mix the patches of two images in training.
            dynamic_img_size: accept any image of whole patches, interpolating positions.
            drop_rate: dropout before the heads.
            pos_drop_rate: dropout after the position embedding.
            proj_drop_rate: dropout after the projections of attention and MLP.
            attn_drop_rate: dropout of attention maps.
            drop_path_rate: stochastic depth, rising linearly to this rate in the last block.
        """
        super().__init__()
        self.in_chans = in_chans
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens = 1
        self.dense_supervision = dense_supervision or token_mixing
        self.token_mixing = token_mixing
        self.dynamic_img_size = dynamic_img_size
        self.grad_checkpointing = False
        self.feature_info = [
            {"module": f"blocks.{index}", "num_chs": embed_dim, "reduction": patch_size}
            for index in range(depth)
        ]
        size = to_2tuple(img_size)
        kind: Any = ConvStem if conv_stem else PatchEmbed
        stem = kind(size, patch_size, in_chans, embed_dim, strict_img_size=not dynamic_img_size)
        config = AttentionConfig(
            embed_dim,
            num_heads,
            refine_mode=refine_mode,
            expansion_ratio=expansion_ratio,
            kernel_size=kernel_size,
            map_scale=map_scale,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
        )

        def block(index: int) -> Block:
            attention = (
                SharedAttention(config)
                if share_attention and index % 2
                else RefinedSelfAttention(config, refines=not share_attention)
            )
            drop_path = drop_path_rate * index / max(1, depth - 1)
            return Block(attention, mlp_ratio, proj_drop_rate, drop_path)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + prod(stem.grid_size), embed_dim))
        self.patch_embed = stem
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(map(block, range(depth)))
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()
        self.register_state_dict_post_hook(note_grid)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(fit_positions)  # type: ignore[no-untyped-call]

    def init_weights(self) -> None:
        """Draw positions, class token and linear layers from a normal of deviation 0.02, cut at 2.

        Convolutions and normalisations keep torch's own initial values, `scale_channel` its 1e-5.
        """
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, beside biases and norms."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into a stem and blocks, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def get_classifier(self) -> nn.Module:
        """The class head (`aux_head` is the patch head)."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """Replace both heads by fresh ones for `num_classes` classes, or remove them with 0."""
        if global_pool is not None:
            if global_pool not in get_args(Pool):
                known = ", ".join(map(repr, get_args(Pool)))
                raise ModelError(f"global_pool={global_pool!r} is unknown; use one of {known}")
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head, self.aux_head = (
            nn.Linear(self.embed_dim, num_classes).to(self.cls_token)
            if num_classes
            else nn.Identity()
            for _ in range(2)
        )

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

    def pool(self, x: Tensor) -> Tensor:
        """What the class head sees of the normalised tokens."""
        pooled: Tensor = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=1)
        return pooled

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Normalised tokens to logits, or to what the class head sees if `pre_logits`.

            logits = head(class token) + 0.5 x max over patches of aux_head(patch)

        With an empty `global_pool` the class head is applied to every token, as in timm.
        """
        x = self.head_drop(x)
        pooled = self.pool(x)
        if pre_logits or self.num_classes == 0:
            return pooled
        logits: Tensor = self.head(pooled)
        if self.global_pool == "":
            return logits
        best: Tensor = self.aux_head(x[:, 1:]).amax(dim=1)
        return logits + 0.5 * best

    def forward_train(self, x: Tensor) -> TrainingOutput:
        """Images to class logits, patch logits and the mixed box.

        Patch logits are put back under the image that the patch came from.
        """
        grid = self._grid(x)
        box = random_box(grid) if self.token_mixing else Box(0, 0, 0, 0)
        tokens: Tensor = self.head_drop(self._run_blocks(self._embed(x, box)))
        class_logits = self.head(self.pool(tokens))
        patch_logits = self.aux_head(tokens[:, 1:])
        return TrainingOutput(class_logits, mix_tokens(patch_logits, grid, box), box)

    def forward(self, x: Tensor) -> Any:
        """Images to logits; in training with dense supervision to a `TrainingOutput`."""
        if not is_scripting():
            supervised = self.training and self.dense_supervision
            if supervised:
                return self.forward_train(x)
        return self.forward_head(self.forward_features(x))

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the chosen intermediates do not need; return their indices."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)
