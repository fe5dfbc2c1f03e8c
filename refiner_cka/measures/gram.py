"""Similarity of layers: Gram matrices of all layers of all models, and the indices made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..images import Batch
from ..subjects.model import Model, Row
from ..subjects.readout import features_of
from . import hsic, pairs
from .indices import INDICES
from .meter import Meter, Setting, Site
from .scaling import sums_device

REVISION = 3
"""Of the numbers: to be raised whenever a change of the code changes any number that a result holds, so that a
part measured before it does not merge with one measured after."""

ESTIMATOR: Mapping[str, Any] = {
    "name": "minibatch CKA",
    "revision": REVISION,
    "formula": "HSIC_1 of Song et al. 2012, eq. 5; summed over batches as in Nguyen, Raghu and Kornblith, "
    "arXiv 2010.15327",
    "unbiased": True,
    "kernel": "linear",
    "batch_weight": "n (n - 3) for a batch of n images",
}
"""What `cka` is, in the file of every result."""


class Similarity(Meter):
    """Every similarity index between all rows of the matrix.

    One stack for everything: its product with itself holds each model's own similarities in its diagonal blocks
    and those between models beside them.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._indices = tuple(INDICES.values())
        self.quantities = tuple(index.quantity for index in self._indices)
        self.identity = {"estimator": dict(ESTIMATOR)}

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Look at every layer, the whole batch at once."""
        self._layers = sum(len(model.rows) for model in models)
        found = [
            Site(model, path, partial(self._see, rows), model.places[path])
            for model in models
            for path, rows in model.rows_by_layer().items()
        ]
        return found, ()

    def memory(self, images: int) -> Mapping[str, int]:
        """Return the bytes of the stack: float32, and float64 while products are taken."""
        return {"Gram matrices": (4 + 8) * self._layers * images**2}

    def begin(self, batch: Batch) -> None:
        """Make room for the batch."""
        shape, device = (self._layers, batch.images), self.setting.device
        self._grams = torch.zeros(*shape, batch.images, device=device)
        self._scales = torch.ones(shape, device=device)
        self._workspace = hsic.Workspace()
        self._folds = batch.folds

    def _see(self, rows: Sequence[Row], chunks: Sequence[torch.Tensor], _images: slice) -> None:
        """Reduce a layer's features to its Gram matrices, one for each readout."""
        for row in rows:
            features = [features_of(chunk, row.layout, row.readout) for chunk in chunks]
            place = row.position
            hsic.gram(features, self._grams[place], self._scales[place], self._workspace)

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return the products of all pairs of rows, for each index."""
        device = sums_device(self.setting.device)
        grams, scales = self._grams.to(device), self._scales.to(device)
        del self._grams, self._scales, self._workspace  # Between runs they would only take memory.
        return {
            index.quantity.sum(part): values
            for index in self._indices
            for part, values in pairs.added(index.represent(grams, scales), self._folds).items()
        }
