"""What determines the numbers of an analysis, and what else is worth recording about it.

The fingerprint is of the former alone: results whose fingerprints are equal are parts of one analysis.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..images import Digest, ImageSource, Plan
from ..images.preprocessing import Preprocessing
from ..options import Options
from ..subjects.groups import grouped
from ..subjects.locality import Reading
from ..subjects.model import Model, Row
from ..subjects.provenance import ASIDE
from ..subjects.subject import Subject
from .runtime import Runtime


def identity(
    models: Sequence[Model],
    source: ImageSource,
    plan: Plan,
    digest: Digest,
    here: Runtime,
    *,
    fast_pixels: bool,
) -> dict[str, Any]:
    """Return what determines the numbers whatever is measured, as JSON types; meters add what theirs depend on."""
    order = list(itertools.chain.from_iterable(plan.batches))
    return {
        "models": [
            {
                "name": model.name,
                "origin": {key: of for key, of in model.subject.origin.items() if key not in ASIDE},
                "preprocessing": _preprocessing(model.subject.preprocessing, source),
                "layers": [_layer(row, model) for row in model.rows],
            }
            for model in models
        ],
        "images": {
            "digest": digest.sha256,
            "transform": digest.transform,
            "labels": _labels(source, order),
            "count": len(order),
            "fast_pixels": fast_pixels and source.input_shape is None,
        },
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "precision": here.precision,
    }


def _layer(row: Row, model: Model) -> list[Any]:
    """Return a row as JSON types: path, readout and, where they matter, how its tokens lie and their grid."""
    reading = model.readings.get(row.path)
    if not isinstance(reading, Reading):
        return [row.path, row.readout]
    layout = {"format": reading.layout.format, "prefix_tokens": reading.layout.prefix}
    return [row.path, row.readout, {**layout, "grid": reading.grid and list(reading.grid)}]


def fingerprint(of: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what determines the numbers."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def circumstances(
    models: Sequence[Model],
    source: ImageSource,
    plan: Plan,
    digest: Digest,
    here: Runtime,
    options: Options,
) -> dict[str, Any]:
    """Return what is worth recording and does not determine the numbers."""
    subjects = [model.subject for model in models]
    is_cuda = here.device.type == "cuda"
    gpu = f" ({torch.cuda.get_device_name(here.device)})" if is_cuda else ""
    versions = {"python": platform.python_version()}
    for package in ("refiner-cka", "torch", "timm", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "data": source.description,
        "fingerprint_of_images": {"covers": digest.covers, "whole": digest.whole},
        "left_out": len(plan.left_out),
        "notes": _of_origins(subjects, "note"),
        "training": _of_origins(subjects, "training"),
        "groups": {
            name: [each.name for each in members] for name, members in grouped(subjects).items()
        },
        "preprocessing_assumed": [
            subject.name for subject in subjects if subject.assumption(source.input_shape)
        ],
        "stated": {
            subject.name: {"layout": known.stated, "prefix_tokens": known.stated_prefix}
            for subject in subjects
            if (known := subject.layout).stated is not None or known.stated_prefix is not None
        },
        "device": here.device.type + gpu,
        "processes": here.world,
        "versions": versions,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "faint_parameters": {model.name: model.faint for model in models if model.faint},
        "shard": list(options.shard),
        "command": options.command,
        "options": options.as_json(),
    }


def _of_origins(subjects: Sequence[Subject], key: str) -> dict[str, Any]:
    return {subject.name: subject.origin[key] for subject in subjects if key in subject.origin}


def _preprocessing(value: Preprocessing, source: ImageSource) -> dict[str, Any]:
    """Return what becomes of an image before the model is given it."""
    if source.input_shape is not None:
        return {"input_size": list(source.input_shape), "inputs": "floating, fed as they are"}
    stated = {name: list(of) if isinstance(of, tuple) else of for name, of in asdict(value).items()}
    del stated["assumed"]
    return stated


def _labels(source: ImageSource, order: Sequence[int]) -> str | None:
    """Return the SHA-256 of class names and of each image's label, on which accuracy rests."""
    labels = source.labels
    if labels is None:
        return None
    named = json.dumps([list(source.classes or ()), [int(labels[index]) for index in order]])
    return hashlib.sha256(named.encode()).hexdigest()
