"""The state of a run: float64 sums, and which batches they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from ..errors import ResultError
from ..measures.scaling import sums_device
from ..sums import Sum


@dataclass(frozen=True)
class Seen:
    """What one batch was made of.

    Attributes:
        planned: images that the plan of the run gives the batch.
        images: how many of them the sums hold; 0 if too few were readable.
        digests: for each model the SHA-256 of what it was given, see `images.Batch`.
        image_digests: 8 bytes for each place of a batch, of its image; 0 where the sums do not hold one.
    """

    planned: int
    images: int
    digests: tuple[bytes, ...]
    image_digests: bytes


class State:
    """Sums on one device.

    Args:
        sums: by path.
        lengths: of their axes.
        device: where the sums live; a device without float64 keeps them on the CPU.
    """

    def __init__(
        self, sums: Mapping[str, Sum], lengths: Mapping[str, int], *, device: torch.device
    ) -> None:
        self.device = sums_device(device)
        shapes = {path: [lengths[axis] for axis in each.axes] for path, each in sums.items()}
        self._values = {
            path: torch.zeros(shape, dtype=torch.float64, device=self.device)
            for path, shape in shapes.items()
        }
        # Counts additions where the sums are, so that it changes in one call with them.
        self._count = torch.zeros((), dtype=torch.float64, device=self.device)
        self._one = torch.ones_like(self._count)
        self._seen: dict[int, Seen] = {}
        self._pending: tuple[int, Seen] | None = None

    @property
    def seen(self) -> dict[int, Seen]:
        """The batches the sums hold, ascending, and what each was made of."""
        self._settle()
        return dict(sorted(self._seen.items()))

    @property
    def batches(self) -> frozenset[int]:
        """The batches the sums hold."""
        return frozenset(self.seen)

    def add(self, batch: int, values: Mapping[str, torch.Tensor], seen: Seen) -> None:
        """Add one batch's values: all of them or none, also when interrupted. Makes no copy of the sums.

        Args:
            batch: its number in the whole run.
            values: for each sum what is added to it, of its shape; empty for a batch that adds nothing.
            seen: what the batch was made of.

        Raises:
            ValueError: the batch is held already, or `values` is of other sums or shapes than the state.
        """
        self._settle()
        if batch in self._seen:
            raise ValueError(f"batch {batch} is held already")
        if values and values.keys() != self._values.keys():
            raise ValueError(f"expected values for {sorted(self._values)}, got {sorted(values)}")
        targets = [self._values[path] for path in values]
        # An addition that fails has made those before it.
        if [value.shape for value in values.values()] != [target.shape for target in targets]:
            raise ValueError(f"batch {batch} adds values of other shapes than the sums have")
        self._pending = (batch, seen)
        # One call, which an interrupt precedes or follows but does not enter.
        torch._foreach_add_([*targets, self._count], [*values.values(), self._one])
        self._seen[batch] = seen
        self._pending = None

    def _settle(self) -> None:
        """Note the batch whose addition was interrupted, if it was added. Only then waits for the device."""
        if self._pending is not None and int(self._count) > len(self._seen):
            self._seen.update([self._pending])
        self._pending = None

    def load(self, sums: Mapping[str, npt.NDArray[np.float64]], seen: Mapping[int, Seen]) -> None:
        """Continue from sums of the batches in `seen`.

        Raises:
            ResultError: names or shapes differ, or the state is not empty.
        """
        shapes = {path: tuple(value.shape) for path, value in self._values.items()}
        if self.batches or {path: value.shape for path, value in sums.items()} != shapes:
            raise ResultError("the part holds other measures, or this run has begun: start anew")
        for path, value in self._values.items():
            value.copy_(torch.as_tensor(sums[path], dtype=torch.float64))
        self._replace_seen(seen)

    def all_reduce(self) -> None:
        """Replace the sums by their totals over all processes of the default group, added in the order of these.

        torch's own `all_reduce` adds each part of an array in another order: what is symmetric would not stay so.

        Raises:
            ResultError: two processes hold the same batch, which would count twice.
        """
        world, here = distributed.get_world_size(), distributed.get_rank()
        held = [self.seen] * world
        distributed.all_gather_object(held, self.seen)
        everything: dict[int, Seen] = {}
        for part in held:
            if twice := sorted(everything.keys() & part.keys()):
                raise ResultError(
                    f"batch {twice[0]} is in the sums of two processes and would count twice; "
                    "measure each batch in one of them"
                )
            everything.update(part)
        for value in self._values.values():
            total = torch.zeros_like(value)
            for rank in range(world):
                theirs = value if rank == here else torch.empty_like(value)
                distributed.broadcast(theirs, src=rank)
                total += theirs
            value.copy_(total)
        self._replace_seen(everything)

    def _replace_seen(self, seen: Mapping[int, Seen]) -> None:
        self._seen = dict(seen)
        self._count.fill_(len(seen))

    def sums(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return a copy of the sums as NumPy arrays. Waits for the device, once."""
        values = self._values.values()
        flat = torch.cat([value.flatten() for value in values]).cpu()
        parts = torch.split(flat, [value.numel() for value in values])
        shaped = [part.view_as(value).numpy() for part, value in zip(parts, values, strict=True)]
        return dict(zip(self._values, shaped, strict=True))
