"""How many images a classifier gets right, and whether images and models are fit to be learned or asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..analysis import runtime
from ..analysis.runtime import Runtime
from ..errors import DataError, ModelError, warn
from ..images import Batch, ImageSource, Plan, load_batches, open_source
from ..subjects import Subject, resolve

BATCH = 256
"""Images of a forward pass that measures accuracy."""


def accuracy(
    model: str | Subject, data: Any, *, device: str | None = None, workers: int = 0
) -> float:
    """Return the share of images, 0 to 1, whose class the model predicts.

    Args:
        model: as for `analyze`, or a subject.
        data: images with classes.
        device: as for `train`.
        workers: as for `train`.

    Raises:
        DataError: images without classes, or of classes that the model does not predict.
        ModelError: the model cannot be built, or is no classifier.
        CheckpointError: weights that cannot be read or do not fit.
        DeviceError: no such device.
    """
    subject = subject_of(model, 0)
    source = labelled(data)
    warn_of_assumed(subject, source)
    here = runtime.detect(device, "fp32")
    with here.hosting(subject.module):
        return share_correct(subject, source, here, workers)


def share_correct(subject: Subject, source: ImageSource, here: Runtime, workers: int) -> float:
    """Return the share of images, 0 to 1, whose class a model on its device predicts."""
    every = range(len(source.ids))
    batches = tuple(tuple(every[first : first + BATCH]) for first in every[::BATCH])
    plan = Plan(BATCH, 0, batches, ())
    own = subject.preprocessing
    correct = read = 0
    with here.session():
        for batch in load_batches(source, plan, range(len(batches)), [own], workers=workers):
            warn_of_unreadable(batch)
            if not batch.images or batch.labels is None:
                continue
            images = batch.inputs[own].to(here.device)
            logits = logits_of(subject, subject.module(own.normalize(images)))
            targets = torch.tensor(class_logits(subject, source, logits.shape[1]))[batch.labels]
            correct += int((logits.argmax(1).cpu() == targets).sum())
            read += batch.images
    if not read:
        raise DataError(f"no image of {source.description} can be read")
    return correct / read


def labelled(data: Any, *, learned: tuple[str, ...] | None = None) -> ImageSource:
    """Return the images that `data` names, refusing those without classes or of classes not learned."""
    source = open_source(data)
    if source.labels is None or source.classes is None or len(source.classes) < 2:
        raise DataError(
            f"{source.description} has no classes to learn: give a folder with a folder for each class"
        )
    if unknown := [name for name in source.classes if learned and name not in learned]:
        raise DataError(
            f"{source.description} holds the class {unknown[0]!r}, which is not learned"
        )
    return source


def subject_of(model: str | Subject, seed: int) -> Subject:
    """Return the one model that a text names, or the subject that is given."""
    if isinstance(model, Subject):
        return model
    found = resolve(model, seed=seed)
    if len(found) > 1:
        raise ModelError(f"{model} names {len(found)} files: give one")
    return found[0]


def logits_of(subject: Subject, output: Any, classes: int | None = None) -> Tensor:
    """Return a model's output, refusing what is not logits, or not of so many classes."""
    if isinstance(output, Tensor) and output.ndim == 2 and classes in (None, output.shape[1]):
        return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(f"{subject.name} returns {shape}, not (images, {classes or 'classes'}) logits")


def class_logits(subject: Subject, source: ImageSource, count: int) -> list[int]:
    """Return which of so many logits each class of the images is, refusing classes that have none."""
    found = subject.class_map(source.classes, count)
    if found is None or -1 in found:
        missing = "" if found is None else f", such as {(source.classes or ())[found.index(-1)]!r}"
        raise DataError(
            f"{subject.name} does not predict all classes of {source.description}{missing}"
        )
    return list(found)


def warn_of_assumed(subject: Subject, source: ImageSource) -> None:
    """Say so where a model's preprocessing is assumed and matters for these images."""
    if line := subject.assumption(source.input_shape):
        warn(line)


def warn_of_unreadable(batch: Batch) -> None:
    """Name the images of a batch that are left out."""
    for image, reason in batch.unreadable:
        warn(f"{image} is left out: {reason}")
