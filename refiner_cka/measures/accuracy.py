"""How many images' classes a model predicts: that it is the model one thinks it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import LayerError
from ..images import Batch
from ..subjects.model import Model
from ..subjects.readout import tensor_at
from ..sums import MODELS, Quantity
from .meter import Meter, Setting, Site
from .scaling import sums_device

TOP1 = Quantity(
    "top1",
    "top1",
    "share",
    (MODELS,),
    "Top-1 accuracy",
    "share of the images whose class the model predicted, of those whose class it knows",
    (0.0, 1.0),
)


class Accuracy(Meter):
    """Top-1 accuracy of the models whose classes are those of the data."""

    quantities = (TOP1,)

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._classes: dict[Model, torch.Tensor] = {}

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Look at no layer: what models return is enough."""
        self._models = len(models)
        return (), ()

    def begin(self, batch: Batch) -> None:
        """Take in the labels."""
        device, labels = self.setting.device, batch.labels
        self._counts = torch.zeros(2, self._models, dtype=torch.int64, device=device)
        self._labels = None if labels is None else labels.to(device, non_blocking=True)

    def end(self, model: Model, outputs: Sequence[Any]) -> None:
        """Count the images whose class was predicted, and those with a class to predict."""
        if model.classes is None or self._labels is None:
            return
        if model not in self._classes:
            self._classes[model] = torch.tensor(model.classes, device=self.setting.device)
        wanted = self._classes[model][self._labels]
        logits = [tensor_at(output, model.logits_place) for output in outputs]
        predicted = [each.argmax(1) for each in logits if each is not None]
        if len(predicted) < len(logits):
            raise LayerError(f"{model.name} returned no tensor for some images")
        self._counts[0, model.number] = (torch.cat(predicted) == wanted).sum()
        self._counts[1, model.number] = (wanted >= 0).sum()

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return hits and trials of each model."""
        hits, trials = self._counts.to(sums_device(self.setting.device)).to(torch.float64)
        return {TOP1.sum("hits"): hits, TOP1.sum("trials"): trials}
