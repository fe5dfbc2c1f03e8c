"""Named float64 sums, kept in groups of batches.

Everything an analysis measures is a sum over batches. Streaming, resuming, merging shards, reducing over
processes and leaving one group out for an error are then all additions of these arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ResultError
from ..measures.scaling import sums_device


@dataclass(frozen=True)
class Seen:
    """What one batch was made of.

    Attributes:
        planned: images that the plan of the run gives the batch.
        images: how many of them the sums hold; 0 if too few were readable.
        digests: for each model the SHA-256 of what it was given, see `images.Batch`.
    """

    planned: int
    images: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class _Group:
    """The sums of one group and the batches they hold: replaced as one, so that neither is ever ahead."""

    sums: Mapping[str, torch.Tensor]
    seen: Mapping[int, Seen]


class Accumulator:
    """Sums per group on one device.

    Batch k of the whole run belongs to group k mod `groups`, whoever processes it.

    Args:
        shapes: name of each sum and the shape of what a batch adds to it.
        groups: number of groups.
        device: where the sums live; a device without float64 keeps them on the CPU.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], *, groups: int, device: torch.device
    ) -> None:
        self.device = sums_device(device)
        self._shapes = dict(shapes)
        self._groups = [
            _Group(
                {
                    name: torch.zeros(shape, dtype=torch.float64, device=self.device)
                    for name, shape in shapes.items()
                },
                {},
            )
            for _ in range(groups)
        ]

    @property
    def seen(self) -> dict[int, Seen]:
        """The batches the sums hold, ascending, and what each was made of."""
        return dict(sorted((k, seen) for group in self._groups for k, seen in group.seen.items()))

    @property
    def batches(self) -> frozenset[int]:
        """The batches the sums hold."""
        return frozenset(self.seen)

    def add(self, batch: int, values: Mapping[str, torch.Tensor | float], seen: Seen) -> None:
        """Add one batch's values: all of them or none, also when interrupted.

        Raises:
            ValueError: the batch is held already, or `values` names other sums than the accumulator.
        """
        index = batch % len(self._groups)
        group = self._groups[index]
        if batch in group.seen:
            raise ValueError(f"batch {batch} is held already")
        if values.keys() != group.sums.keys():
            raise ValueError(f"expected values for {sorted(group.sums)}, got {sorted(values)}")
        sums = {name: value + values[name] for name, value in group.sums.items()}
        self._groups[index] = _Group(sums, {**group.seen, batch: seen})

    def skip(self, batch: int, seen: Seen) -> None:
        """Record a batch that adds nothing: too few of its images were readable."""
        self.add(batch, dict.fromkeys(self._shapes, 0.0), seen)

    def load(self, sums: Mapping[str, npt.NDArray[np.float64]], seen: Mapping[int, Seen]) -> None:
        """Continue from sums of the batches in `seen`.

        Raises:
            ValueError: names, shapes or groups differ, or the accumulator is not empty.
        """
        shapes = {name: (len(self._groups), *shape) for name, shape in self._shapes.items()}
        if self.batches or {name: value.shape for name, value in sums.items()} != shapes:
            raise ValueError("sums load into an empty accumulator of the same names and shapes")
        self._groups = [
            _Group(
                {
                    # In the accumulator's own order, in which processes add theirs.
                    name: torch.as_tensor(sums[name][index], dtype=torch.float64).to(self.device)
                    for name in self._shapes
                },
                self._of_group(index, seen),
            )
            for index in range(len(self._groups))
        ]

    def all_reduce(self) -> None:
        """Replace the sums by their totals over all processes of the default group.

        Raises:
            ResultError: two processes hold the same batch, which would count twice.
        """
        from torch import distributed

        held: list[dict[int, Seen]] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(held, self.seen)
        everything: dict[int, Seen] = {}
        for part in held:
            if twice := sorted(everything.keys() & part.keys()):
                raise ResultError(
                    f"batch {twice[0]} is in the sums of two processes and would count twice; "
                    "measure each batch in one of them"
                )
            everything.update(part)
        for group in self._groups:
            for value in group.sums.values():
                distributed.all_reduce(value)
        self._groups = [
            _Group(group.sums, self._of_group(index, everything))
            for index, group in enumerate(self._groups)
        ]

    def sums(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the sums as NumPy arrays, `(groups, ...)` each. Waits for the device."""
        return {
            name: torch.stack([group.sums[name] for group in self._groups]).cpu().numpy()
            for name in self._shapes
        }

    def _of_group(self, index: int, seen: Mapping[int, Seen]) -> dict[int, Seen]:
        return {batch: of for batch, of in seen.items() if batch % len(self._groups) == index}
