"""What a result stores: sums, what they are sums of, and where they are from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ResultError
from ..sums import FOLDS, IMAGES, LAYERS, ROWS, Array, Layer, Quantity, fold_of, lengths_of
from .checks import check_count, check_groups, check_provenance, check_quantities, check_sums


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out: its name in the source and why."""

    image: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Contents:
    """Everything measured in one analysis, or in part of one.

    Attributes:
        axes: name of an axis -> its entries. `layers` are those of the models, one after the other; `rows`, where
            there are references, the layers and these; `attention`, where it was measured, the blocks with
            attention maps.
        quantities: what was measured.
        sums: float64 sums by path: `images` `(20,)`, and those that the quantities say.
        batches: `(B,)` int64, sorted: which batches of the run the sums hold.
        batch_planned: `(B,)` int64: of each of these batches the images that the run plans for it.
        batch_images: `(B,)` int64: how many of them the sums hold; 0 if fewer than 4 were readable.
        batch_digests: `(B, models, 32)` uint8: SHA-256 of what each model was given; see
            `images.batches.digests_of`.
        image_digests: `(B, batch size)` uint64: of each image by its place, 0 for one not held by the sums; see
            there.
        total_batches: how many batches the whole run has.
        unreadable: images left out.
        image_names: of every image that the run plans for its batches, in their order: the relative path in the
            source, or the index. Empty if they are not known.
        warnings: what is undefined or was left out, one line each.
        provenance: JSON types only: models, preprocessing, images, batch size, seed, precision, versions,
            command.
        fingerprint: SHA-256 of what determines the numbers; results merge if it is equal. The keys of
            `provenance` that it is of are listed there under `identity`.

    Raises:
        ResultError: no run can have made this, however it came together: sums that are not what they are said to
            be, or hold more images than their batches; a batch of more images than were planned, or twice.
    """

    axes: Mapping[str, tuple[Layer, ...]]
    quantities: tuple[Quantity, ...]
    sums: Mapping[str, Array]
    batches: npt.NDArray[np.int64]
    batch_planned: npt.NDArray[np.int64]
    batch_images: npt.NDArray[np.int64]
    batch_digests: npt.NDArray[np.uint8]
    image_digests: npt.NDArray[np.uint64]
    total_batches: int
    unreadable: tuple[Unreadable, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    image_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check everything that can be checked."""
        check_provenance(self.provenance)
        check_groups(self.provenance.get("groups", {}), self.axes.get(LAYERS, ()))
        self._check_axes()
        self._check_batches()
        self._check_images()
        check_sums(self.sums, self.quantities, lengths_of(self.axes))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The models' layers."""
        return self.axes[LAYERS]

    @property
    def stack(self) -> tuple[Layer, ...]:
        """The rows of the similarity matrices: the layers, then the references."""
        return self.axes.get(ROWS, self.layers)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the references that the models were compared with: `labels`, `pixels`."""
        return tuple(row.model for row in self.stack[len(self.layers) :])

    @property
    def attention(self) -> tuple[Layer, ...]:
        """The blocks whose attention maps were measured."""
        return self.axes.get("attention", ())

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order they were given."""
        return tuple(dict.fromkeys(layer.model for layer in self.layers))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Groups of models that are several trainings of one recipe: name of each -> names of its models."""
        return {name: tuple(models) for name, models in self.provenance.get("groups", {}).items()}

    def trainings(self, name: str) -> tuple[str, ...]:
        """Return the models that a name stands for: the trainings of a group, or the model itself."""
        return self.groups.get(name, (name,))

    @property
    def complete(self) -> bool:
        """Whether the sums hold every batch of the run."""
        return len(self.batches) == self.total_batches

    def _check_axes(self) -> None:
        """Refuse entries beyond their models' depth, and quantities that do not go together."""
        if not self.axes.get(LAYERS):
            raise ResultError("there are no layers")
        if self.stack[: len(self.layers)] != self.layers:
            raise ResultError("rows does not begin with the layers")
        if set(self.references) & {*self.models, *self.groups}:
            raise ResultError("a reference has the name of a model or a group")
        for axis, entries in self.axes.items():
            if not all(0 <= entry.depth <= 1 for entry in entries):
                raise ResultError(f"{axis}/depth is not within 0 and 1")
        check_quantities(self.quantities, self.axes)

    def _check_batches(self) -> None:
        """Refuse batches that the run does not have, twice the same, or of more images than were planned."""
        batches, count = self.batches, self.batches.size
        shapes = dict.fromkeys(("batches", "batch_planned", "batch_images"), (count,))
        for name, shape in {**shapes, "batch_digests": (count, len(self.models), 32)}.items():
            if (found := getattr(self, name).shape) != shape:
                raise ResultError(
                    f"{name} has shape {found}, not {shape} as the batches and models have"
                )
        if (np.diff(batches) <= 0).any():
            raise ResultError("batches is not ascending, or holds a batch twice")
        if count and not (batches[0] >= 0 and batches[-1] < self.total_batches):
            raise ResultError("batches holds a batch that the run does not have")
        planned, images = self.batch_planned, self.batch_images
        most = self.provenance.get("images", {}).get("count", math.inf)
        if planned.sum() > most:
            raise ResultError(
                f"batch_planned counts {planned.sum()} images where the run has {most}"
            )
        if (wrong := np.flatnonzero((images < 0) | (images > planned))).size:
            at = wrong[0]
            raise ResultError(
                f"batch_images counts {images[at]} images in batch {batches[at]}, for which {planned[at]} "
                "were planned"
            )

    def _check_images(self) -> None:
        """Refuse sums of more or fewer images than their batches have, as a whole and in each fold."""
        check_count(IMAGES, self.sums)
        counted = self.sums[IMAGES.path]
        if counted.sum() != self.batch_images.sum():
            raise ResultError(
                f"images counts {counted.sum():.0f} images in the sums where their batches have "
                f"{self.batch_images.sum()}: something was added twice, or not at all"
            )
        most = self.provenance.get("images", {}).get("count", len(self.image_names))
        if self.image_names and len(self.image_names) != most:
            raise ResultError(
                f"image_names has {len(self.image_names)} entries where the run has {most} images"
            )
        held = self.image_digests > 0
        if held.ndim != 2 or not np.array_equal(held.sum(1), self.batch_images):
            raise ResultError("image_digests has others than one for each image of its batch")
        batch, place = np.nonzero(held)
        folds = fold_of(self.batches[batch] * held.shape[1] + place)
        in_folds = np.bincount(folds, minlength=FOLDS)
        if (wrong := np.flatnonzero(counted != in_folds)).size:
            raise ResultError(
                f"images counts {counted[wrong[0]]:.0f} images in fold {wrong[0]} where its batches have "
                f"{in_folds[wrong[0]]}"
            )
