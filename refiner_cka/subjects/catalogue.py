"""Names of models: the aliases, what timm knows, and what was probably meant."""

from __future__ import annotations

from difflib import get_close_matches

from ..errors import ModelError

# ResNets: `tv_in1k`, torchvision's original weights (90 epochs of SGD). It exists for all five depths,
# and it is the ResNet that papers of the Refiner's time compare with. Later recipes (`a1_in1k`: 600
# epochs, other losses and augmentation) change the representations: `--model resnet50.a1_in1k`.
ALIASES = {
    "vit_ti": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_s": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_b": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_l": "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "deit_ti": "deit_tiny_patch16_224.fb_in1k",
    "deit_s": "deit_small_patch16_224.fb_in1k",
    "deit_b": "deit_base_patch16_224.fb_in1k",
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "resnet152": "resnet152.tv_in1k",
    "refiner_s": "refiner_vit_s",
    "refiner_m": "refiner_vit_m",
    "refiner_l": "refiner_vit_l",
    "vit_nano": "vit_nano.digits",
    "deit_nano": "deit_nano.digits",
    "resnet_nano": "resnet_nano.digits",
    "refiner_nano": "refiner_nano.digits",
}
"""Alias -> name in timm's registry, with the tag of its weights."""

_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def has_source(name: str) -> bool:
    """Whether a name says where its configuration is (`hf-hub:`, `local-dir:`) instead of naming timm's own."""
    return name.startswith(_SOURCES)


def is_factory(name: str) -> bool:
    """Whether a name is `package.module:factory`."""
    return ":" in name and not has_source(name)


def register() -> None:
    """Make timm know the models of this package: importing them registers them."""
    from .. import refiner  # noqa: F401
    from . import nano  # noqa: F401


def known_name(name: str) -> str:
    """Return a timm name if timm knows it; what took its place, of one that was renamed.

    Raises:
        ModelError: unknown, naming close matches; or a tag that the architecture does not have.
    """
    import timm
    from timm.models import get_deprecated_models

    register()
    name = get_deprecated_models().get(name) or name
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = dict.fromkeys([*ALIASES, *timm.list_models()])
        close = ", ".join(get_close_matches(architecture, known, n=4))
        hint = f"close: {close}" if close else "`refiner-cka models --search TEXT` searches"
        raise ModelError(
            f"unknown model {name!r}; {hint} (a checkpoint is NAME=FILE, an own model package.module:factory)"
        )
    variants = timm.list_models(f"{architecture}.*", include_tags=True)
    tags = [variant.partition(".")[2] for variant in variants]
    if tag and tag not in tags:
        existing = ", ".join(filter(None, tags)) or "none"
        raise ModelError(f"{architecture} has no weights tagged {tag!r}; its tags: {existing}")
    return name


def search(text: str) -> list[str]:
    """Return timm's models, with their tags, whose name contains every word of a text, in natural order."""
    import timm

    register()
    words = text.lower().split()
    names = timm.list_models(include_tags=True)
    return [name for name in names if all(word in name for word in words)]
