"""A training from beginning to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..analysis import runtime
from ..errors import ModelError
from ..images import ImageSource
from ..subjects import Subject
from ..subjects.provenance import Source, origin_of, seeded
from .evaluation import labelled, share_correct, subject_of, warn_of_assumed
from .recipe import Recipe
from .trainer import Trainer
from .weights import Checkpoints


@dataclass(frozen=True)
class Epoch:
    """One pass over the images.

    Attributes:
        number: from 1.
        of: how many there will be.
        loss: mean over its steps.
        accuracy: on the held-out images afterwards, 0 to 1; `None` without held-out images.
        seconds: since training began.
    """

    number: int
    of: int
    loss: float
    accuracy: float | None
    seconds: float

    def __str__(self) -> str:
        held_out = "" if self.accuracy is None else f", held-out accuracy {self.accuracy:.1%}"
        return f"epoch {self.number} of {self.of}: loss {self.loss:.3f}{held_out}, {self.seconds:.0f} s"


@dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        subject: the trained network, ready for `analyze`.
        epochs: how it went.
        checkpoints: the files written along the way.
    """

    subject: Subject
    epochs: tuple[Epoch, ...]
    checkpoints: tuple[Path, ...] = ()


def train(
    model: str | Subject,
    data: Any,
    *,
    held_out: Any = None,
    teacher: str | Subject | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str | None = None,
    workers: int = 0,
    checkpoints: str | Path | None = None,
    every: int = 5,
    progress: Callable[[Epoch], object] | None = None,
) -> Trained:
    """Train a network on labelled images.

    The same arguments on the same machine give the same weights on a CPU; other machines round otherwise.

    Args:
        model: as for `analyze`, `refiner_nano=random` or `deit_s` to go on from pretrained weights; or a
            subject, whose module is trained in place. Its classifier gets as many classes as the data have.
        data: images with classes, as for `analyze`: a folder of class folders, or `digits-train`.
        held_out: images to measure the accuracy on after each epoch.
        teacher: a trained classifier that knows the classes of the images; its decisions are the targets of
            the distillation token (hard distillation of DeiT, arXiv 2012.12877).
        recipe: how to train.
        seed: of untrained weights, the order of the images and augmentation; on a CPU of dropout too.
        device: `cpu`, `cuda`, ...; the best there is by default.
        workers: processes that load images; 0 loads in this one.
        checkpoints: folder for `epoch00.safetensors` (untrained) and the weights after every few epochs.
        every: epochs from one checkpoint to the next; the last epoch is saved too.
        progress: called after each epoch; `print` prints a line.

    Raises:
        DataError: images without classes or too few, or classes that the teacher or, of held-out images, the
            training does not know.
        ModelError: the network cannot be built, returns no logits, has no distillation token for the
            teacher; or its loss is no number any more.
        CheckpointError: weights that cannot be read or do not fit.
        DeviceError: no such device.
        ResultFileError: a checkpoint cannot be written, or would be mixed with those of another training.
    """
    recipe = recipe or Recipe()
    source = labelled(data)
    tests = None if held_out is None else labelled(held_out, learned=source.classes)
    here = runtime.detect(device, "fp32")
    writer = Checkpoints(checkpoints, every, recipe.epochs)
    with seeded(seed):
        subject = _with_classes(subject_of(model, seed), source)
        taught_by = None if teacher is None else subject_of(teacher, 0)
        with ExitStack() as stack:
            _distil(subject, taught_by, stack)
            for each in filter(None, (subject, taught_by)):
                warn_of_assumed(each, source)
                stack.enter_context(here.hosting(each.module))
            trainer = Trainer(subject, taught_by, source, recipe, here, workers, seed)
            writer.save(subject, 0)
            epochs: list[Epoch] = []
            start = time.monotonic()
            for number in range(1, recipe.epochs + 1):
                loss = trainer.epoch(number)
                score = None if tests is None else share_correct(subject, tests, here, workers)
                epochs.append(Epoch(number, recipe.epochs, loss, score, time.monotonic() - start))
                writer.save(subject, number)
                if progress is not None:
                    progress(epochs[-1])
    finished = _finished(subject, taught_by, source, recipe, seed)
    return Trained(finished, tuple(epochs), tuple(writer.written))


def _with_classes(subject: Subject, source: ImageSource) -> Subject:
    """Give a network's classifier the classes of the images where it can be replaced."""
    module, count = subject.module, len(source.classes or ())
    reset = getattr(module, "reset_classifier", None)
    if callable(reset) and getattr(module, "num_classes", count) != count:
        reset(count)
    return replace(subject, classes=source.classes, trained=True)


def _distil(student: Subject, teacher: Subject | None, until: ExitStack) -> None:
    """Have the student return the logits of its distillation token too; afterwards as it did before."""
    enable = getattr(student.module, "set_distilled_training", None)
    if callable(enable):
        until.callback(enable, getattr(student.module, "distilled_training", False))
        enable(teacher is not None)
    elif teacher is not None:
        raise ModelError(
            f"{student.name} has no distillation token to be taught by {teacher.name}: use a deit model "
            "with one (deit_nano, deit_tiny_distilled_patch16_224)"
        )


def _finished(
    subject: Subject, teacher: Subject | None, source: ImageSource, recipe: Recipe, seed: int
) -> Subject:
    """Return the subject with the provenance of its new weights."""
    origin = origin_of(
        subject.module,
        Source(str(subject.origin.get("model", type(subject.module).__qualname__)), "trained"),
        subject.preprocessing.input_size[1:],
        arguments=subject.origin.get("arguments"),
        seed=seed,
    )
    return replace(
        subject,
        name=subject.name.replace("=random", "=trained", 1),
        # What it was trained with is what it expects.
        preprocessing=replace(subject.preprocessing, assumed=False),
        origin={
            **origin,
            "trained_on": source.description,
            "teacher": teacher.name if teacher else None,
            "recipe": asdict(recipe),
        },
    )
