"""Training a classifier: what made the embedded networks, and a start for data of one's own.

    import refiner_cka as rc
    trained = rc.train("refiner_nano=random", "digits-train", held_out="digits-test", progress=print)
    rc.accuracy(trained.subject, "digits-test")
    rc.save_weights(trained.subject, "mine.safetensors")

The recipe is the usual one of small vision transformers: AdamW, a warm-up and a cosine, label smoothing,
geometric augmentation; with a teacher, hard distillation. It is meant for one device and small data.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analysis import runtime
from .analysis.runtime import Runtime
from .errors import AnalysisWarning, DataError, ModelError, ResultFileError
from .images import Batch, ImageSource, Plan, load_batches, open_source, plan_batches
from .images.preprocessing import Preprocessing
from .refiner import TrainingOutput, dense_supervision_loss
from .results.atomic import check_writable, write_whole
from .subjects import Subject, resolve
from .subjects.provenance import Source, origin_of, seeded

_EVALUATED = 256
"""Images of a forward pass that measures accuracy."""


@dataclass(frozen=True)
class Augmentation:
    """Random affine maps of the images, drawn anew for each image and epoch, uniform within these limits.

    Attributes:
        rotation: degrees to either side.
        scale: largest relative change of size.
        shear: largest shear.
        shift: largest shift, as a share of the side.
        flip: mirror every second image, left to right: not for digits or letters.
    """

    rotation: float = 10.0
    scale: float = 0.1
    shear: float = 0.1
    shift: float = 0.1
    flip: bool = False

    def draw(self, count: int) -> Tensor:
        """Return `count` maps from places in the new image to places in the old, `(count, 2, 3)`.

        In the coordinates of `affine_grid`: -1 to 1 over each side.
        """
        angle = self._uniform(count) * math.radians(self.rotation)
        size = 1 + self._uniform(count) * self.scale
        shear = self._uniform(count) * self.shear
        across, down = (2 * self._uniform(count) * self.shift for _ in range(2))
        mirror = 1 - 2 * (torch.rand(count) < 0.5 * self.flip).float()
        cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
        rows = [cosine * mirror, shear - sine, across, sine * mirror, cosine, down]
        return torch.stack(rows, dim=1).reshape(count, 2, 3)

    @staticmethod
    def _uniform(count: int) -> Tensor:
        return 2 * torch.rand(count) - 1


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: at the end of the warm-up; it then falls to 0 along a cosine.
        weight_decay: of matrices and convolutions; biases, norms and embeddings have none.
        warmup: share of all steps; at least two.
        label_smoothing: probability spread over all classes.
        augmentation: of the images; `None` for none.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    augmentation: Augmentation | None = field(default_factory=Augmentation)


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
        """Say it in a line."""
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
    recipe = _checked(recipe or Recipe(), every)
    source = _labelled(data)
    tests = None if held_out is None else _labelled(held_out)
    if tests is not None:
        _check_classes(source, tests)
    here = runtime.detect(device, "fp32")
    writer = _Checkpoints(checkpoints, every, recipe.epochs)
    with seeded(seed):
        subject = _with_classes(_subject(model, seed), source)
        taught_by = None if teacher is None else _subject(teacher, 0)
        with ExitStack() as stack:
            stack.enter_context(_distilling(subject, taught_by))
            for each in filter(None, (subject, taught_by)):
                _tell_assumed(each, source)
                stack.enter_context(here.hosting(each.module))
            trainer = _Trainer(subject, taught_by, source, recipe, here, workers, seed)
            writer.save(subject, 0)
            epochs: list[Epoch] = []
            start = time.monotonic()
            for number in range(1, recipe.epochs + 1):
                loss = trainer.epoch(number)
                score = None if tests is None else _accuracy(subject, tests, here, workers)
                epochs.append(Epoch(number, recipe.epochs, loss, score, time.monotonic() - start))
                writer.save(subject, number)
                if progress is not None:
                    progress(epochs[-1])
    finished = _finished(subject, taught_by, source, recipe, seed)
    return Trained(finished, tuple(epochs), tuple(writer.written))


def accuracy(
    model: str | Subject, data: Any, *, device: str | None = None, workers: int = 0
) -> float:
    """Return the share of images, 0 to 1, whose class the model predicts.

    Raises:
        DataError: images without classes, or of classes that the model does not predict.
        ModelError: the model cannot be built, or is no classifier.
        CheckpointError: weights that cannot be read or do not fit.
        DeviceError: no such device.
    """
    subject = _subject(model, 0)
    source = _labelled(data)
    _tell_assumed(subject, source)
    here = runtime.detect(device, "fp32")
    with here.hosting(subject.module):
        return _accuracy(subject, source, here, workers)


def save_weights(model: Subject | nn.Module, path: str | Path) -> Path:
    """Write a network's weights as safetensors, whole or not at all, for `--model NAME=FILE`.

    Raises:
        ResultFileError: it cannot be written.
    """
    from safetensors.torch import save

    module = model.module if isinstance(model, Subject) else model
    # Safetensors refuses tensors that share their memory, and memory in another order.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    write_whole(path, save(state))
    return Path(path)


class _Trainer:
    """The optimisation: what lasts from one epoch to the next."""

    def __init__(
        self,
        student: Subject,
        teacher: Subject | None,
        source: ImageSource,
        recipe: Recipe,
        here: Runtime,
        workers: int,
        seed: int,
    ) -> None:
        from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

        self.student, self.teacher, self.source = student, teacher, source
        self.recipe, self.here, self.workers, self.seed = recipe, here, workers, seed
        self.classes = len(source.classes or ())
        self.optimizer = create_optimizer_v2(
            student.module,
            opt="adamw",
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        # One more than will be taken: the rate ends near 0, not at it.
        steps = -(-len(source.ids) // recipe.batch_size) * recipe.epochs + 1
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in self.optimizer.param_groups],
            total_steps=steps,
            # A rise within one step would be a division by zero.
            pct_start=max(recipe.warmup, 2 / steps),
            cycle_momentum=False,
        )

    def epoch(self, number: int) -> float:
        """Take one pass over the images and return the mean loss of its steps."""
        module = self.student.module.train()
        losses = []
        for images, teacher_labels, labels in self._batches(number):
            loss = self._loss(module(images), teacher_labels, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        module.eval()
        if not losses:
            raise DataError(f"no two images of {self.source.description} can be read together")
        mean = torch.stack(losses).mean().item()
        if not math.isfinite(mean):
            raise ModelError(
                f"{self.student.name}: the loss of epoch {number} is {mean}; lower the learning rate"
            )
        return mean

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield augmented images, the teacher's decisions on them, and labels."""
        plan = plan_batches(
            self.source,
            batch_size=self.recipe.batch_size,
            images=None,
            seed=self.seed * 10_000 + number,
        )
        subjects = [self.student, *([self.teacher] if self.teacher else [])]
        loaded = load_batches(
            self.source,
            plan,
            range(len(plan.batches)),
            [subject.preprocessing for subject in subjects],
            workers=self.workers,
            pin_memory=self.here.pin_memory,
        )
        for batch in loaded:
            if number == 1:
                _tell_unreadable(batch)
            # BatchNorm has nothing to normalise in a single image.
            if batch.images < 2 or batch.labels is None:
                continue
            views = self._augmented(batch.inputs)
            teacher_labels = None if self.teacher is None else self._decisions(self.teacher, views)
            own = self.student.preprocessing
            yield own.normalize(views[own]), teacher_labels, batch.labels.to(self.here.device)

    def _augmented(self, inputs: Mapping[Preprocessing, Tensor]) -> dict[Preprocessing, Tensor]:
        """Map the images of a batch at random, for student and teacher alike."""
        moved = {key: images.to(self.here.device) for key, images in inputs.items()}
        if self.recipe.augmentation is None:
            return moved
        if any(images.ndim != 4 for images in moved.values()):
            raise DataError(
                f"{self.source.description} holds no images to augment: use Recipe(augmentation=None)"
            )
        maps = self.recipe.augmentation.draw(len(next(iter(moved.values()))))
        return {key: _warp(images, maps) for key, images in moved.items()}

    @torch.no_grad()
    def _decisions(self, teacher: Subject, views: Mapping[Preprocessing, Tensor]) -> Tensor:
        """Return the class of the images that the teacher decides for."""
        own = teacher.preprocessing
        logits = _logits(teacher, teacher.module(own.normalize(views[own])))
        return logits[:, _logit_of(teacher, self.source, logits)].argmax(dim=1)

    def _loss(self, output: Any, teacher_labels: Tensor | None, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if isinstance(output, TrainingOutput):
            _logits(self.student, output.class_logits, self.classes)
            soft = F.one_hot(labels, self.classes) * (1 - smoothing) + smoothing / self.classes
            return dense_supervision_loss(output, soft)
        if teacher_labels is not None:
            logits, distilled = output
            logits = _logits(self.student, logits, self.classes)
            own = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            return (own + F.cross_entropy(distilled, teacher_labels)) / 2
        logits = _logits(self.student, output, self.classes)
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@dataclass
class _Checkpoints:
    """Where weights go along the way, if anywhere."""

    folder: str | Path | None
    every: int
    last: int
    written: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a folder that takes no files, or holds the checkpoints of a longer training."""
        if self.folder is None:
            return
        check_writable(self._path(0))
        own = {self._path(epoch) for epoch in range(self.last + 1) if self._wants(epoch)}
        if others := sorted(set(Path(self.folder).glob("epoch*.safetensors")) - own):
            raise ResultFileError(
                f"{self.folder} holds {others[0].name} of another training, which `epoch*` would mix with "
                "this one: choose another folder, or empty it"
            )

    def save(self, subject: Subject, epoch: int) -> None:
        """Save the weights after an epoch if it is one of those to save."""
        if self.folder is not None and self._wants(epoch):
            self.written.append(save_weights(subject, self._path(epoch)))

    def _wants(self, epoch: int) -> bool:
        return epoch % self.every == 0 or epoch == self.last

    def _path(self, epoch: int) -> Path:
        digits = max(2, len(str(self.last)))
        return Path(self.folder or ".") / f"epoch{epoch:0{digits}}.safetensors"


def _checked(recipe: Recipe, every: int) -> Recipe:
    if recipe.epochs < 1 or recipe.batch_size < 4 or every < 1:
        raise ModelError(
            "training needs at least 1 epoch, batches of 4, and 1 epoch per checkpoint"
        )
    if not (0 <= recipe.warmup <= 1 and 0 <= recipe.label_smoothing < 1):
        raise ModelError(
            "warm-up is a share of the steps, label smoothing one of the probability: 0 to 1"
        )
    return recipe


def _labelled(data: Any) -> ImageSource:
    source = open_source(data)
    if source.labels is None or source.classes is None or len(source.classes) < 2:
        raise DataError(
            f"{source.description} has no classes to learn: give a folder with a folder for each class"
        )
    return source


def _check_classes(source: ImageSource, tests: ImageSource) -> None:
    """Refuse held-out images of classes that are not learned."""
    unknown = [name for name in tests.classes or () if name not in (source.classes or ())]
    if unknown:
        raise DataError(
            f"{tests.description} holds the class {unknown[0]!r}, which {source.description} does not"
        )


def _subject(model: str | Subject, seed: int) -> Subject:
    if isinstance(model, Subject):
        return model
    found = resolve(model, seed=seed)
    if len(found) > 1:
        raise ModelError(f"{model} names {len(found)} files: give one")
    return found[0]


def _with_classes(subject: Subject, source: ImageSource) -> Subject:
    """Give a network's classifier the classes of the images where it can be replaced."""
    module, count = subject.module, len(source.classes or ())
    reset = getattr(module, "reset_classifier", None)
    if callable(reset) and getattr(module, "num_classes", count) != count:
        reset(count)
    return replace(subject, classes=source.classes, trained=True)


@contextmanager
def _distilling(student: Subject, teacher: Subject | None) -> Iterator[None]:
    """Have the student return the logits of its distillation token too; afterwards as it did before."""
    enable = getattr(student.module, "set_distilled_training", None)
    if teacher is not None and not callable(enable):
        raise ModelError(
            f"{student.name} has no distillation token to be taught by {teacher.name}: use a deit model "
            "with one (deit_nano, deit_tiny_distilled_patch16_224)"
        )
    if not callable(enable):
        yield
        return
    before = getattr(student.module, "distilled_training", False)
    enable(teacher is not None)
    try:
        yield
    finally:
        enable(before)


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


def _accuracy(subject: Subject, source: ImageSource, here: Runtime, workers: int) -> float:
    count = len(source.ids)
    batches = tuple(
        tuple(range(first, min(first + _EVALUATED, count))) for first in range(0, count, _EVALUATED)
    )
    plan = Plan(_EVALUATED, 0, batches, ())
    right = read = 0
    with here.session():
        for batch in load_batches(
            source, plan, range(len(batches)), [subject.preprocessing], workers=workers
        ):
            _tell_unreadable(batch)
            if not batch.images or batch.labels is None:
                continue
            images = batch.inputs[subject.preprocessing].to(here.device)
            logits = _logits(subject, subject.module(subject.preprocessing.normalize(images)))
            targets = torch.tensor(_logit_of(subject, source, logits))[batch.labels]
            right += int((logits.argmax(1).cpu() == targets).sum())
            read += batch.images
    if not read:
        raise DataError(f"no image of {source.description} can be read")
    return right / read


def _logits(subject: Subject, output: Any, classes: int | None = None) -> Tensor:
    """Return a model's output if it is logits, of so many classes if that is known."""
    if isinstance(output, Tensor) and output.ndim == 2 and classes in (None, output.shape[1]):
        return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(f"{subject.name} returns {shape}, not (images, {classes or 'classes'}) logits")


def _logit_of(subject: Subject, source: ImageSource, logits: Tensor) -> list[int]:
    """Return the logit of each class of the images.

    Raises:
        DataError: there is a class that the model does not predict.
    """
    logit_of = subject.class_map(source.classes, logits.shape[1])
    if logit_of is None or -1 in logit_of:
        missing = (
            "" if logit_of is None else f", such as {(source.classes or ())[logit_of.index(-1)]!r}"
        )
        raise DataError(
            f"{subject.name} does not predict all classes of {source.description}{missing}"
        )
    return list(logit_of)


def _warp(images: Tensor, maps: Tensor) -> Tensor:
    """Return the images mapped, of the type they had; what was outside repeats the edge."""
    # Before torch 2.13 MPS cannot repeat the edge.
    where = torch.device("cpu") if images.device.type == "mps" else images.device
    pixels, maps = images.to(where, torch.float32), maps.to(where)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    warped = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return (warped if images.is_floating_point() else warped.round_()).to(images)


def _tell_assumed(subject: Subject, source: ImageSource) -> None:
    if line := subject.assumption(source.input_shape):
        warnings.warn(line, AnalysisWarning, stacklevel=3)


def _tell_unreadable(batch: Batch) -> None:
    for image, reason in batch.unreadable:
        warnings.warn(f"{image} is left out: {reason}", AnalysisWarning, stacklevel=2)
