"""Similarity of layers: Gram matrices of all layers of all models, and the indices made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..images import Batch
from ..subjects.model import Model, Row
from ..subjects.readout import features_of
from ..sums import FOLDS, LAYERS, ROWS, along_depth, fold_of
from . import hsic, references
from .folds import Folded
from .indices import chosen
from .meter import Meter, Setting, Site
from .pairs import batch_sums
from .scaling import block_bytes, sums_device

REVISION = 5
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
    """The similarity indices that the options name, between all rows of the matrix.

    One stack for everything: its product with itself holds each model's own similarities in its diagonal blocks
    and those between models beside them.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        indices = chosen(setting.options.index)
        images = max(map(len, setting.plan.batches))
        self._references = references.choose(setting.options.against, setting.source)
        self.reserved = tuple(self._references)
        axis = ROWS if self._references else LAYERS
        described = {index.described(images): index for index in indices}
        self._indices = {replace(of, axes=(axis, axis)): index for of, index in described.items()}
        self.quantities = tuple(self._indices)
        self.identity = {"estimator": dict(ESTIMATOR)}
        if self._references:
            source = setting.source
            about = {name: dict(of.about(source)) for name, of in self._references.items()}
            self.identity["against"] = about
            is_prepared = source.input_shape is None
            ways = [of.inputs for of in self._references.values()] if is_prepared else []
            self.inputs = tuple(way for way in ways if way is not None)
        if others := indices[1:]:
            named = {index.quantity.name: dict(index.parameters) for index in others}
            self.identity["indices"] = {name: of or "no parameters" for name, of in named.items()}

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Look at every layer, the whole batch at once."""
        names = [(model.name, row.path, row.readout) for model in models for row in model.rows]
        self._first_reference = len(names)
        self._rows = len(names) + len(self._references)
        if self._references:
            self.axes = {ROWS: (*along_depth(names), *map(references.row_of, self._references))}
        found = [
            Site(model, path, partial(self._see, rows), model.places[path])
            for model in models
            for path, rows in model.rows_by_layer().items()
        ]
        return found, ()

    def memory(self, images: int) -> Mapping[str, int]:
        """Return the bytes of the stack and of what a batch adds.

        The stack is in float32 and, while an index is made of it, in float64, with a row for each image and up to
        two more for each fold; of a block of layers there are a few more matrices. Of all pairs there are 4 sums
        and one for each fold.
        """
        matrices = 8 * images**2
        made_at_once = block_bytes(sums_device(self.setting.device))
        block = min(max(made_at_once, matrices), self._rows * matrices)
        stack = self._rows * images * (4 * images + 8 * (images + 2 * FOLDS)) + 6 * block
        sums = 8 * (4 + FOLDS) * self._rows**2 * len(self._indices)
        return {"Gram matrices": stack, "what a batch adds": sums}

    def begin(self, batch: Batch) -> None:
        """Make room for the batch."""
        shape, device = (self._rows, batch.images), self.setting.device
        self._grams = torch.zeros(*shape, batch.images, device=device)
        self._scales = torch.ones(shape, device=device)
        self._workspace = hsic.Workspace()
        self._folded = Folded(fold_of(batch.places), sums_device(device))
        with torch.autocast(device.type, enabled=False):
            for row, reference in enumerate(self._references.values(), self._first_reference):
                features = reference.features(batch).to(device, non_blocking=True)
                hsic.gram([features], self._grams[row], self._scales[row], self._workspace)

    def _see(self, rows: Sequence[Row], chunks: Sequence[torch.Tensor], _images: slice) -> None:
        """Reduce a layer's features to its Gram matrices, one for each readout."""
        for row in rows:
            features = [features_of(chunk, row.layout, row.readout) for chunk in chunks]
            place = row.position
            hsic.gram(features, self._grams[place], self._scales[place], self._workspace)

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return the sums of all pairs of rows, for each index."""
        device = sums_device(self.setting.device)
        grams, scales = self._grams.to(device), self._scales.to(device)
        folded = self._folded
        # Between runs they would only take memory.
        del self._grams, self._scales, self._workspace, self._folded
        return {
            quantity.sum(part): values
            for quantity, index in self._indices.items()
            for part, values in batch_sums(index, grams, scales, folded).items()
        }
