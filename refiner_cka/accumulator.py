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


@dataclass(frozen=True)
class _Group:
    """The sums of one group and the batches they hold: replaced as one, so that neither is ever ahead."""

    sums: Mapping[str, torch.Tensor]
    batches: frozenset[int] = frozenset()


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
        self._names = tuple(shapes)
        self._groups = [
            _Group(
                {
                    name: torch.zeros(shape, dtype=torch.float64, device=self.device)
                    for name, shape in shapes.items()
                }
            )
            for _ in range(groups)
        ]

    @property
    def batches(self) -> frozenset[int]:
        """The batches the sums hold."""
        return frozenset().union(*(group.batches for group in self._groups))

    def add(self, batch: int, values: Mapping[str, torch.Tensor | float]) -> None:
        """Add one batch's values: all of them or none, also when interrupted.

        Raises:
            ValueError: the batch is held already, or `values` names other sums than the accumulator.
        """
        index = batch % len(self._groups)
        group = self._groups[index]
        if batch in group.batches:
            raise ValueError(f"batch {batch} is held already")
        if values.keys() != group.sums.keys():
            raise ValueError(f"expected values for {sorted(group.sums)}, got {sorted(values)}")
        sums = {name: value + values[name] for name, value in group.sums.items()}
        self._groups[index] = _Group(sums, group.batches | {batch})

    def skip(self, batch: int) -> None:
        """Record a batch that adds nothing: too few of its images were readable."""
        index = batch % len(self._groups)
        group = self._groups[index]
        self._groups[index] = _Group(group.sums, group.batches | {batch})

    def load(self, sums: Mapping[str, npt.NDArray[np.float64]], batches: set[int]) -> None:
        """Continue from sums that hold `batches`.

        Raises:
            ValueError: the names differ, or the accumulator is not empty.
        """
        if self.batches or set(sums) != set(self._names):
            raise ValueError("sums load into an empty accumulator of the same names")
        self._groups = [
            _Group(
                {
                    name: torch.as_tensor(value[index], dtype=torch.float64).to(self.device)
                    for name, value in sums.items()
                },
                frozenset(batch for batch in batches if batch % len(self._groups) == index),
            )
            for index in range(len(self._groups))
        ]

    def all_reduce(self) -> None:
        """Replace the sums by their totals over all processes of the default group."""
        from torch import distributed

        held: list[frozenset[int]] = [frozenset() for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(held, self.batches)
        for group in self._groups:
            for value in group.sums.values():
                distributed.all_reduce(value)
        everything = frozenset().union(*held)
        self._groups = [
            _Group(group.sums, frozenset(k for k in everything if k % len(self._groups) == index))
            for index, group in enumerate(self._groups)
        ]

    def sums(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the sums as NumPy arrays, `(groups, ...)` each. Waits for the device."""
        return {
            name: torch.stack([group.sums[name] for group in self._groups]).cpu().numpy()
            for name in self._names
        }


def sums_device(device: torch.device) -> torch.device:
    """Return `device`, or the CPU for a device that has no float64 (Apple's MPS)."""
    return torch.device("cpu") if device.type == "mps" else device
