"""Named float64 sums, kept in groups of batches.

Everything an analysis measures is a sum over batches. Streaming, resuming, merging shards, reducing over
processes and leaving one group out for an error are then all additions of these arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch


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
        self._groups = groups
        self.device = sums_device(device)
        self._sums = {
            name: torch.zeros(groups, *shape, dtype=torch.float64, device=self.device)
            for name, shape in shapes.items()
        }
        self._batches: set[int] = set()

    @property
    def batches(self) -> frozenset[int]:
        """The batches the sums hold."""
        return frozenset(self._batches)

    def add(self, batch: int, values: Mapping[str, torch.Tensor | float]) -> None:
        """Add one batch's values, all of them or none.

        Raises:
            ValueError: the batch is held already, or `values` names other sums than the accumulator.
        """
        if batch in self._batches:
            raise ValueError(f"batch {batch} is held already")
        if values.keys() != self._sums.keys():
            raise ValueError(f"expected values for {sorted(self._sums)}, got {sorted(values)}")
        for name, value in values.items():
            self._sums[name][batch % self._groups] += value
        self._batches.add(batch)

    def skip(self, batch: int) -> None:
        """Record a batch that adds nothing: too few of its images were readable."""
        self._batches.add(batch)

    def load(self, sums: Mapping[str, npt.NDArray[np.float64]], batches: set[int]) -> None:
        """Continue from sums that hold `batches`.

        Raises:
            ValueError: the names differ, or the accumulator is not empty.
        """
        if self._batches or sums.keys() != self._sums.keys():
            raise ValueError("sums load into an empty accumulator of the same names")
        for name, value in sums.items():
            self._sums[name].copy_(torch.from_numpy(value))
        self._batches = set(batches)

    def all_reduce(self) -> None:
        """Replace the sums by their totals over all processes of the default group."""
        from torch import distributed

        for value in self._sums.values():
            distributed.all_reduce(value)
        held: list[set[int]] = [set() for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(held, self._batches)
        self._batches = set().union(*held)

    def sums(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the sums as NumPy arrays, `(groups, ...)` each. Waits for the device."""
        return {name: value.cpu().numpy().copy() for name, value in self._sums.items()}


def sums_device(device: torch.device) -> torch.device:
    """Return `device`, or the CPU for a device that has no float64 (Apple's MPS)."""
    return torch.device("cpu") if device.type == "mps" else device
