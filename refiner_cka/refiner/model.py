"""The Refiner model: stem, blocks, heads; the interface of timm's vision transformer."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from timm.layers.helpers import to_2tuple
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pool1d import global_pool_nlc
from timm.layers.weight_init import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import ModelError
from .attention import AttentionConfig, RefinedSelfAttention
from .backbone import Backbone
from .block import Block
from .conditions import is_scripting
from .heads import EMPTY_BOX, TrainingOutput, combine_logits, mix_tokens, random_box
from .refinement import RefineMode
from .sharing import SharedAttention
from .stem import ConvStem

Pool = Literal["token", "avg", "max", "avgmax", ""]


class Refiner(Backbone):
    """A vision transformer that refines its attention maps.

    Layouts. With `share_attention` (the released checkpoints): blocks alternate between plain
    self-attention, whose map goes on unrefined, and shared attention, which refines the map of the
    block before. Without (the paper): every block refines a map of its own.

    Shapes: images (batch, in_chans, h, w) -> logits (batch, num_classes); tokens between blocks
    (batch, 1 + (h / p)(w / p), embed_dim), the class token first.

    Source: Zhou et al., Refiner: Refining Self-attention for Vision Transformers, arXiv 2106.03714.
    """

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
        size: tuple[int, int] = to_2tuple(img_size)
        make_stem: Any = ConvStem if conv_stem else PatchEmbed

        def block(index: int) -> Block:
            attention = (
                SharedAttention(config)
                if share_attention and index % 2
                else RefinedSelfAttention(config, refines=not share_attention)
            )
            return Block(
                embed_dim,
                attention,
                mlp_ratio=mlp_ratio,
                proj_drop=proj_drop_rate,
                drop_path=drop_path_rate * index / max(1, depth - 1),
            )

        super().__init__(
            make_stem(size, patch_size, in_chans, embed_dim, strict_img_size=not dynamic_img_size),
            map(block, range(depth)),
            embed_dim,
            pos_drop_rate=pos_drop_rate,
            dynamic_img_size=dynamic_img_size,
        )
        self.in_chans = in_chans
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens = 1
        self.dense_supervision = dense_supervision or token_mixing
        self.token_mixing = token_mixing
        self.feature_info = [
            {"module": f"blocks.{index}", "num_chs": embed_dim, "reduction": patch_size}
            for index in range(depth)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

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
        return combine_logits(logits, self.aux_head(x[:, 1:]))

    def forward_train(self, x: Tensor) -> TrainingOutput:
        """Images to class logits, patch logits and the mixed box.

        Patch logits are put back under the image that the patch came from.
        """
        grid = self._grid(x)
        box = random_box(grid) if self.token_mixing else EMPTY_BOX
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
