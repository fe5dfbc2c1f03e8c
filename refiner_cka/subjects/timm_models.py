"""Models of timm's registry: built, with weights from a hub, a cache or a file, and what timm knows of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, ModelError, RefinerCkaError
from ..images.preprocessing import Preprocessing
from . import catalogue, checkpoint, hub
from .checkpoint import Fit, first_line
from .readout import ModelLayout
from .spec import Spec

Size = tuple[int, int]
# Given by NAME=WEIGHTS; beside it they would load weights that no result file tells of.
_RESERVED = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "features_only",
    "cache_dir",
)


@dataclass(frozen=True)
class Built:
    """A network with its weights in it.

    Attributes:
        module: the network.
        source: `pretrained`, `random` or the file's name.
        fit: what was loaded; `None` for random weights, and where the loader does not tell.
        entry: the entry of a nested checkpoint that was taken.
        image_size: (height, width) asked for; `None` for the model's own.
    """

    module: nn.Module
    source: str
    fit: Fit | None = None
    entry: str = ""
    image_size: Size | None = None


def build(spec: Spec, image_size: Size | None = None) -> Built:
    """Build a timm model as a `Spec` says, for images of a size.

    Raises:
        ModelError: unknown, without weights to fetch, out of reach, or its arguments do not fit.
        CheckpointError: the file does not fit.
    """
    name = catalogue.full_name(spec.name)
    arguments, size = _sized(dict(spec.arguments), image_size)
    name = hub.located(name) if catalogue.has_source(name) else catalogue.known_name(name)
    if isinstance(spec.weights, Path):
        built = _from_file(name, spec.weights, arguments, size)
    elif spec.weights == "random":
        built = Built(_create(name, arguments, size), "random")
    else:
        built = _pretrained(spec.name, name, arguments, size)
    _check_size(built.module, name, size)
    return replace(built, image_size=size)


def full_name(module: nn.Module, name: str) -> str:
    """Return the architecture with its tag, as timm's configuration of the built model has them."""
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", {})
    architecture, tag = config.get("architecture"), config.get("tag")
    if catalogue.has_source(name) or not architecture:
        return name
    return f"{architecture}.{tag}" if tag else str(architecture)


def layout(module: nn.Module) -> ModelLayout:
    """Return what the attributes that timm's models have say of how tokens lie in a network's layers."""
    embedding = _patch_embedding(module)
    patches = getattr(embedding, "num_patches", None)
    if patches is None and (grid := getattr(embedding, "grid_size", None)):
        patches = math.prod(grid)
    if getattr(module, "dynamic_img_size", False):
        patches = None
    prefix = getattr(module, "num_prefix_tokens", None)
    learned = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
    return ModelLayout(
        prefix=None if prefix is None else int(prefix),
        patches=patches,
        class_token="cls_token" in learned or "reg_token" not in learned,
    )


def preprocessing(module: nn.Module, image_size: Size | None = None) -> Preprocessing:
    """Return what a timm model expects of an image, at the size it was built for unless another is given.

    `test_input_size`, a larger size at which some ResNets score best, is not used: the representations asked
    about are those of the size the model was made for.
    """
    from timm.data import config as data_config

    resolve: Callable[..., dict[str, Any]] = data_config.resolve_model_data_config

    height, width = image_size or _built_size(module)
    channels = int(getattr(module, "in_chans", 3))
    config = resolve(module, args={"input_size": (channels, height, width)})
    return Preprocessing(
        input_size=(channels, height, width),
        mean=_per_channel(config["mean"], channels),
        std=_per_channel(config["std"], channels),
        interpolation=str(config["interpolation"]),
        crop_pct=float(config["crop_pct"]),
        crop_mode=str(config["crop_mode"]),
    )


def class_names(built: Built) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of the logits where they are known, else `None`.

    Published weights may name them. A classifier of 1000 classes that came with the weights is taken as
    ImageNet-1k's: its synsets.
    """
    own = checkpoint.classifiers(built.module)
    missing = built.fit.missing if built.fit else ()
    if built.source == "random" or any(name.startswith(own) for name in missing):
        return None
    count = getattr(built.module, "num_classes", None)
    names: Any = getattr(built.module, "pretrained_cfg", {}).get("label_names")
    if built.source == "pretrained" and isinstance(names, tuple | list) and len(names) == count:
        return tuple(names)
    if count != 1000:
        return None
    from timm.data.imagenet_info import ImageNetInfo

    synsets: Callable[[], list[str]] = ImageNetInfo("imagenet-1k").label_names
    return tuple(synsets())


def description(built: Built) -> str:
    """Return what a model's configuration says of its published weights, if these were loaded."""
    config: Mapping[str, Any] = getattr(built.module, "pretrained_cfg", {})
    return str(config.get("description") or "") if built.source == "pretrained" else ""


def _sized(
    arguments: dict[str, Any], image_size: Size | None
) -> tuple[dict[str, Any], Size | None]:
    """Take `img_size` out of the arguments: it is this model's own image size, whatever family it is of."""
    reserved = [key for key in arguments if key in _RESERVED]
    if reserved:
        raise ModelError(
            f"{reserved[0]} cannot be set for a model: weights are NAME=FILE, NAME=random, or pretrained"
        )
    size = arguments.pop("img_size", None)
    if size is None:
        return arguments, image_size
    sides = (size, size) if isinstance(size, int) else size
    match sides:
        case (int(height), int(width)) if height > 0 and width > 0:
            return arguments, (height, width)
    raise ModelError(f"img_size={size!r} is no image size: write a number or (height, width)")


def _patch_embedding(module: nn.Module) -> nn.Module | None:
    """Return what cuts an image into patches, where there is such a part (mixers call it a stem)."""
    parts = (getattr(module, name, None) for name in ("patch_embed", "stem"))
    return next((part for part in parts if hasattr(part, "patch_size")), None)


def _built_size(module: nn.Module) -> Size:
    size = getattr(_patch_embedding(module), "img_size", None)
    if not (isinstance(size, tuple) and len(size) == 2):
        size = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-2:]
    return int(size[0]), int(size[1])


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(map(float, values))
    return (float(sum(values) / len(values)),) * channels


def _check_size(module: nn.Module, name: str, size: Size | None) -> None:
    patch = getattr(_patch_embedding(module), "patch_size", None)
    if size is None or patch is None:
        return
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if any(side % step for side, step in zip(size, sides, strict=True)):
        good = " x ".join(
            str(max(1, round(side / step)) * step) for side, step in zip(size, sides, strict=True)
        )
        raise ModelError(
            f"image size {size[0]} x {size[1]} is not divisible into {name}'s patches of {sides[0]} x {sides[1]}: "
            f"use {good}"
        )


def _create(
    name: str, arguments: Mapping[str, Any], size: Size | None, *, pretrained: bool = False
) -> nn.Module:
    import timm

    sized: dict[str, Any] = {}
    try:
        if size and _takes_size(name):
            sized = {"img_size": size}
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **sized, **arguments)
    except RefinerCkaError:
        raise
    except Exception as error:  # whatever a constructor, a hub or a parser raises
        written = ", ".join(f"{key}={value!r}" for key, value in {**sized, **arguments}.items())
        given = f" with {written}" if written else ""
        raise ModelError(f"{name} cannot be built{given}: {first_line(error)}") from error
    return module


def _takes_size(name: str) -> bool:
    """Whether a family is built for one image size; the others take any."""
    from timm.models import get_pretrained_cfg, load_model_config_from_hf

    source, _, location = name.partition(":")
    if source == "local-dir":
        name = json.loads((Path(location) / "config.json").read_text())["architecture"]
    elif catalogue.has_source(name):
        name = load_model_config_from_hf(location)[1]
    config = get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size)


def _from_file(name: str, file: Path, arguments: Mapping[str, Any], size: Size | None) -> Built:
    """Load a file through the family's own conversion and resizing."""
    weights = checkpoint.read(file)
    source = f"{file.name} does not fit {name}"
    fits: list[Fit] = []

    def load(module: nn.Module, convert_and_load: Callable[..., None]) -> None:
        state = checkpoint.unwrap(weights.state, module)
        _check_patches(module, state, source)

        def fit(converted: Mapping[str, torch.Tensor]) -> None:
            fits.append(
                checkpoint.fit(
                    module, converted, source, resize_head="num_classes" not in arguments
                )
            )

        with _loading_by(module, fit):
            try:
                # Without a classifier's name timm leaves the classifier's tensors as they are.
                convert_and_load(state_dict=state, source="", classifier=None)
            except RefinerCkaError:
                raise
            except (
                Exception
            ) as error:  # a conversion that was written for another model may raise anything
                raise checkpoint.misfit(module, state, source, first_line(error)) from error

    with _loader(load):
        module = _create(name, arguments, size, pretrained=True)
    if not fits:
        raise CheckpointError(
            f"{name} does not load weights by timm's loader: use package.module:factory"
        )
    return Built(module, file.name, fits[0], weights.entry)


def _pretrained(given: str, name: str, arguments: Mapping[str, Any], size: Size | None) -> Built:
    """Load published weights: from the local cache if they are there, else from where they are published."""
    file = None if catalogue.has_source(name) else hub.published(given, name)
    fits: list[Fit] = []

    def load(module: nn.Module, convert_and_load: Callable[..., None]) -> None:
        def fit(converted: Mapping[str, torch.Tensor]) -> None:
            source = f"{name}'s published weights"
            fits.append(
                checkpoint.fit(
                    module, converted, source, resize_head="num_classes" not in arguments
                )
            )

        with _loading_by(module, fit):
            convert_and_load(**({"file": str(file), "hf_hub_id": None} if file else {}))

    with _loader(load):
        module = _create(name, arguments, size, pretrained=True)
    return Built(module, "pretrained", fits[0] if fits else None)


def _check_patches(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse other patches: timm would resample them, and the result would be neither model."""
    own = getattr(getattr(getattr(module, "patch_embed", None), "proj", None), "weight", None)
    given = state.get("patch_embed.proj.weight")
    if (
        own is not None
        and given is not None
        and own.ndim == given.ndim == 4
        and own.shape[2:] != given.shape[2:]
    ):
        raise checkpoint.misfit(module, state, source)


@contextmanager
def _loader(load: Callable[[nn.Module, Callable[..., None]], None]) -> Iterator[None]:
    """Have timm call `load(module, convert_and_load)` where it would load pretrained weights.

    `convert_and_load(**config)` is timm's own loader with entries of the pretrained configuration replaced. It
    converts and resizes a state dict by the family's functions, which timm does not offer in another way.
    """
    from timm.models import _builder

    original = _builder.load_pretrained

    def replaced(model: nn.Module, pretrained_cfg: Mapping[str, Any], **options: Any) -> None:
        def convert_and_load(**config: Any) -> None:
            original(model, pretrained_cfg={**pretrained_cfg, **config}, **options)

        load(model, convert_and_load)

    vars(_builder)["load_pretrained"] = replaced
    try:
        yield
    finally:
        vars(_builder)["load_pretrained"] = original


@contextmanager
def _loading_by(
    module: nn.Module, load: Callable[[Mapping[str, torch.Tensor]], object]
) -> Iterator[None]:
    """Have `module.load_state_dict(state)` call `load(state)` instead."""

    def load_state_dict(state: Mapping[str, torch.Tensor], **_: Any) -> Any:
        del module.__dict__["load_state_dict"]
        load(state)
        return nn.modules.module._IncompatibleKeys([], [])

    module.__dict__["load_state_dict"] = load_state_dict
    try:
        yield
    finally:
        module.__dict__.pop("load_state_dict", None)
