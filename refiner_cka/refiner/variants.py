"""The released sizes, registered with timm: `timm.create_model("refiner_vit_s")`."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .loading import checkpoint_filter_fn
from .model import Refiner


def _cfg(crop_pct: float) -> dict[str, Any]:
    """Preprocessing at 224 and where timm finds the layers that depend on images and classes."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.conv1",
        "classifier": ("head", "aux_head"),
        "paper_ids": "arXiv:2106.03714",
        "origin_url": "https://github.com/zhoudaquan/Refiner_ViT",
    }


default_cfgs = generate_default_cfgs(
    {
        "refiner_vit_s": _cfg(crop_pct=0.9),
        "refiner_vit_m": _cfg(crop_pct=1.0),
        "refiner_vit_l": _cfg(crop_pct=1.13),
    }
)


def build(variant: str, pretrained: bool, size: dict[str, Any], kwargs: dict[str, Any]) -> Refiner:
    """Build a variant with timm's loader of weights; arguments override its size."""
    model: Refiner = build_model_with_cfg(
        Refiner,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **(size | kwargs),
    )
    return model


@register_model
def refiner_vit_s(pretrained: bool = False, **kwargs: Any) -> Refiner:
    """Refiner-ViT-S: 16 blocks of width 384 with 12 heads, 25 408 656 parameters."""
    size = {"depth": 16, "embed_dim": 384, "num_heads": 12}
    return build("refiner_vit_s", pretrained, size, kwargs)


@register_model
def refiner_vit_m(pretrained: bool = False, **kwargs: Any) -> Refiner:
    """Refiner-ViT-M: 32 blocks of width 420 with 12 heads, 55 450 932 parameters."""
    size = {"depth": 32, "embed_dim": 420, "num_heads": 12}
    return build("refiner_vit_m", pretrained, size, kwargs)


@register_model
def refiner_vit_l(pretrained: bool = False, **kwargs: Any) -> Refiner:
    """Refiner-ViT-L: 32 blocks of width 512 with 16 heads, 81 150 192 parameters."""
    size = {"depth": 32, "embed_dim": 512, "num_heads": 16}
    return build("refiner_vit_l", pretrained, size, kwargs)
