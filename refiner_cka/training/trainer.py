"""The optimisation of a network: AdamW on smoothed labels, and on a teacher's decisions if there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor

from ..analysis.runtime import Runtime
from ..errors import DataError, ModelError
from ..images import ImageSource, load_batches, plan_batches
from ..images.preprocessing import Preprocessing
from ..refiner import TrainingOutput, dense_supervision_loss
from ..subjects import Subject
from .evaluation import class_logits, logits_of, warn_of_unreadable
from .recipe import Recipe


@dataclass
class Trainer:
    """What lasts from one epoch to the next: the networks on their device, the optimiser, its schedule."""

    student: Subject
    teacher: Subject | None
    source: ImageSource
    recipe: Recipe
    here: Runtime
    workers: int
    seed: int

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.optimizer = create_optimizer_v2(
            self.student.module,
            opt="adamw",
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        # One more than will be taken: the rate ends near 0, not at it.
        steps = math.ceil(len(self.source.ids) / recipe.batch_size) * recipe.epochs + 1
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            recipe.learning_rate,
            total_steps=steps,
            # A rise within one step would be a division by zero.
            pct_start=max(recipe.warmup, 2 / steps),
            cycle_momentum=False,
        )

    def epoch(self, number: int) -> float:
        """Take one pass over the images and return the mean loss of its steps."""
        module = self.student.module.train()
        losses = []
        for images, labels, decisions in self._batches(number):
            loss = self._loss(module(images), labels, decisions)
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

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield augmented images, their labels, and what the teacher decides on them."""
        plan = plan_batches(
            self.source,
            batch_size=self.recipe.batch_size,
            images=None,
            seed=self.seed * 10_000 + number,
        )
        own = self.student.preprocessing
        loaded = load_batches(
            self.source,
            plan,
            range(len(plan.batches)),
            [own, *([self.teacher.preprocessing] if self.teacher else [])],
            workers=self.workers,
            pin_memory=self.here.pin_memory,
        )
        for batch in loaded:
            if number == 1:
                warn_of_unreadable(batch)
            # BatchNorm has nothing to normalise in a single image.
            if batch.images < 2 or batch.labels is None:
                continue
            views = self._augmented(batch.inputs)
            decisions = None if self.teacher is None else self._decisions(self.teacher, views)
            yield own.normalize(views[own]), batch.labels.to(self.here.device), decisions

    def _augmented(self, inputs: Mapping[Preprocessing, Tensor]) -> dict[Preprocessing, Tensor]:
        """Change each image of a batch at random, in the same way for student and teacher."""
        views = {key: images.to(self.here.device) for key, images in inputs.items()}
        if self.recipe.augmentation is None:
            return views
        if any(images.ndim != 4 for images in views.values()):
            raise DataError(
                f"{self.source.description} holds no images to augment: use Recipe(augmentation=None)"
            )
        augment = self.recipe.augmentation.transform()
        # From the same state of the generator, images of another size are changed in the same way.
        state = torch.get_rng_state()
        for key, images in views.items():
            torch.set_rng_state(state)
            views[key] = torch.stack([augment(image) for image in images])
        return views

    @torch.no_grad()
    def _decisions(self, teacher: Subject, views: Mapping[Preprocessing, Tensor]) -> Tensor:
        """Return the class that the teacher decides for, of each image."""
        own = teacher.preprocessing
        logits = logits_of(teacher, teacher.module(own.normalize(views[own])))
        return logits[:, class_logits(teacher, self.source, logits.shape[1])].argmax(dim=1)

    def _loss(self, output: Any, labels: Tensor, decisions: Tensor | None) -> Tensor:
        classes, smoothing = len(self.source.classes or ()), self.recipe.label_smoothing
        if isinstance(output, TrainingOutput):
            logits_of(self.student, output.class_logits, classes)
            soft = F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
            return dense_supervision_loss(output, soft)
        logits = logits_of(self.student, output if decisions is None else output[0], classes)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return loss if decisions is None else (loss + F.cross_entropy(output[1], decisions)) / 2
