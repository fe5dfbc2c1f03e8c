"""Models of timm's registry, with weights from a hub, a cache or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError, RefinerCkaError, one_line
from . import catalogue, hub, timm_attributes, timm_loading
from .fitting import classifiers
from .layers import choose_layers
from .provenance import Source
from .spec import Size, Spec
from .subject import Subject

# Given by NAME=WEIGHTS; beside it they would load weights that no result file tells of.
_RESERVED = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "features_only",
    "cache_dir",
)


def make(spec: Spec, layers: str, image_size: Size | None) -> tuple[Subject, Source]:
    """Return a timm model as a `Spec` says, for images of a size, and where its weights are from.

    Raises:
        ModelError: unknown, without weights to fetch, out of reach, or its arguments do not fit.
        CheckpointError: the file does not fit.
        LayerError: a pattern that matches nothing.
    """
    full = catalogue.ALIASES.get(spec.name, spec.name)
    arguments, size = _sized(dict(spec.arguments), image_size)
    name = hub.located(full) if catalogue.has_source(full) else catalogue.known_name(full)
    resize_head = "num_classes" not in arguments
    create = partial(_create, name, arguments, size)
    fit, entry, weights = None, "", "random"
    if isinstance(spec.weights, Path):
        weights = spec.weights.name
        module, fit, entry = timm_loading.from_file(create, name, spec.weights, resize_head)
    elif spec.weights == "random":
        module = create(pretrained=False)
    else:
        weights = "pretrained"
        file = None if catalogue.has_source(name) else hub.published(spec.name, name)
        module, fit = timm_loading.published(create, name, file, resize_head)
    _check_size(module, name, size)
    chosen, is_pattern = choose_layers(module, layers)
    config = timm_attributes.config(module)
    note = str(config.get("description") or "") if weights == "pretrained" else ""
    source = Source(_tagged(config, full), weights, fit, entry, note)
    return Subject(
        name=spec.label,
        module=module,
        layers=chosen,
        pattern=is_pattern,
        layout=timm_attributes.layout(module),
        preprocessing=timm_attributes.preprocessing(module, size),
        classes=_class_names(module, source),
    ), source


def _tagged(config: Mapping[str, Any], name: str) -> str:
    """Return the architecture with its tag, as timm's configuration of the built model has them."""
    architecture, tag = config.get("architecture"), config.get("tag")
    if catalogue.has_source(name) or not architecture:
        return name
    return f"{architecture}.{tag}" if tag else str(architecture)


def _class_names(module: nn.Module, source: Source) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of the logits where they are known, else `None`.

    Published weights may name them. A classifier of 1000 classes that came with the weights is taken as
    ImageNet-1k's: its synsets.
    """
    missing = source.fit.missing if source.fit else ()
    if source.weights == "random" or any(name.startswith(classifiers(module)) for name in missing):
        return None
    count = getattr(module, "num_classes", None)
    names: Any = timm_attributes.config(module).get("label_names")
    if source.weights == "pretrained" and isinstance(names, tuple | list) and len(names) == count:
        return tuple(names)
    if count != 1000:
        return None
    from timm.data.imagenet_info import ImageNetInfo

    synsets: Callable[[], list[str]] = ImageNetInfo("imagenet-1k").label_names
    return tuple(synsets())


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
    match (size, size) if isinstance(size, int) else size:
        case (int(height), int(width)) if height > 0 and width > 0:
            return arguments, (height, width)
    raise ModelError(f"img_size={size!r} is no image size: write a number or (height, width)")


def _check_size(module: nn.Module, name: str, size: Size | None) -> None:
    patch = getattr(timm_attributes.patch_embedding(module), "patch_size", None)
    if size is None or patch is None:
        return
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    good = [
        max(1, round(side / step)) * step for side, step in zip(size, (rows, columns), strict=True)
    ]
    if good != [*size]:
        raise ModelError(
            f"image size {size[0]} x {size[1]} is not divisible into {name}'s patches of {rows} x {columns}: "
            f"use {good[0]} x {good[1]}"
        )


def _create(
    name: str, arguments: Mapping[str, Any], size: Size | None, pretrained: bool = True
) -> nn.Module:
    import timm

    try:
        if size and _takes_size(name):
            arguments = {"img_size": size, **arguments}
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except RefinerCkaError:
        raise
    except Exception as error:  # whatever a constructor, a hub or a parser raises
        written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        given = f" with {written}" if written else ""
        reason = one_line(error, path=True)
        raise ModelError(f"{name} cannot be built{given}: {reason}") from error
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
