"""Four small networks, trained on the embedded digits. Importing this registers them with timm.

All are 12 blocks deep, take 32 x 32 images and have 0.26 to 0.35 million parameters, so that they differ in
what they are and not in how large they are. `docs/nano.md` says how they were trained and what they can show.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, TypeVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from ..refiner import Refiner, variants

Network = TypeVar("Network", bound=VisionTransformer)
# Timm's usual initial weights, of deviation 0.02, are made for widths of hundreds: at 48 a network begins
# as nearly the identity and is slow to leave it.
_XAVIER = {"weight_init": "jax"}
_TRANSFORMER = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 12, "num_heads": 4}
_RESNET: dict[str, Any] = {
    "block": BasicBlock,
    "layers": (3, 3, 3, 3),
    "channels": (16, 24, 32, 56),
    # Convolutions of 3 x 3 in the stem, and a last stage that keeps its grid.
    "stem_type": "deep",
    "stem_width": 8,
    "output_stride": 16,
}


class NanoResNet(ResNet):
    """A ResNet for small images: no max-pooling."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.maxpool = nn.Identity()  # type: ignore[assignment]


def _cfg(name: str, classifier: str | tuple[str, ...], **where: Any) -> dict[str, Any]:
    """Preprocessing of digits and where their weights are: in this package."""
    return {
        "file": str(resources.files("refiner_cka").joinpath(f"data/{name}.safetensors")),
        "num_classes": 10,
        "label_names": tuple("0123456789"),
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "classifier": classifier,
        "license": "mit",
        "description": (
            "trained on the first 1,437 embedded digits (digits-train), not on the other 360 (digits-test)"
        ),
        **where,
    }


_PATCHES = {"first_conv": "patch_embed.proj", "fixed_input_size": True}
default_cfgs = generate_default_cfgs(
    {
        "vit_nano.digits": _cfg("vit_nano", "head", **_PATCHES),
        "deit_nano.digits": _cfg("deit_nano", ("head", "head_dist"), **_PATCHES),
        "resnet_nano.digits": _cfg("resnet_nano", "fc", first_conv="conv1.0"),
        "refiner_nano.digits": _cfg("refiner_nano", ("head", "aux_head"), **_PATCHES),
    }
)


@register_model
def vit_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A vision transformer of 12 blocks of width 48 with 4 heads: 345 370 parameters."""
    return _vit(VisionTransformer, "vit_nano", pretrained, kwargs)


@register_model
def deit_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformerDistilled:
    """`vit_nano` with a distillation token, the second prefix token, and a head on it."""
    return _vit(VisionTransformerDistilled, "deit_nano", pretrained, kwargs)


@register_model
def refiner_nano(pretrained: bool = False, **kwargs: Any) -> Refiner:
    """A Refiner of 12 blocks of width 48 with 4 heads and a plain patch embedding: 263 948 parameters."""
    size = {**_TRANSFORMER, "conv_stem": False}
    return variants.build("refiner_nano", pretrained, size, kwargs)


@register_model
def resnet_nano(pretrained: bool = False, **kwargs: Any) -> NanoResNet:
    """A residual network of 12 basic blocks, 16 to 56 channels wide: 260 722 parameters."""
    return build_model_with_cfg(NanoResNet, "resnet_nano", pretrained, **(_RESNET | kwargs))


def _vit(network: type[Network], variant: str, pretrained: bool, kwargs: dict[str, Any]) -> Network:
    """Build a vision transformer with timm's loader of weights; arguments override its size."""
    return build_model_with_cfg(
        network,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **(_TRANSFORMER | _XAVIER | kwargs),
    )
