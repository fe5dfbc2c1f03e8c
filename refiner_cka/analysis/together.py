"""The processes of one run: waiting for one another, and noticing that one of them ended."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store

from ..errors import ProcessError, one_line

Sent = TypeVar("Sent")

_PATIENCE = timedelta(days=365)
_measurements = itertools.count()


def join() -> int:
    """Join the processes that a launcher such as `torchrun` started, and return the number of this one.

    Gloo also for GPUs: what crosses is the sums, once and at the end, and with Gloo a process may wait for a
    slower one as long as it takes, sees at once when another dies, and hears signals meanwhile.
    """
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    return distributed.get_rank()


class Together:
    """The processes of one measurement. Of one process alone no method does anything.

    Every process makes as many of these, in the same order.

    Args:
        world: how many processes there are.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self._ended = f"refiner-cka/{next(_measurements)}/ended"
        self._looked = time.monotonic()

    def wait(self) -> None:
        """Wait until all processes are here, however long that takes.

        Raises:
            ProcessError: one of them ended.
        """
        if self.world == 1:
            return
        with reaching():
            arrived = distributed.barrier(async_op=True)
            # A wait inside torch would keep signals waiting too.
            while not arrived.is_completed():
                time.sleep(0.02)
            arrived.wait()

    def exchange(self, mine: Sent) -> list[Sent]:
        """Return what each process sends, in their order.

        Raises:
            ProcessError: one of them ended.
        """
        if self.world == 1:
            return [mine]
        self.wait()
        everyone = [mine] * self.world
        with reaching():
            distributed.all_gather_object(everyone, mine)
        return everyone

    def check(self) -> None:
        """Notice, at most once a second, that another process left or that the launcher is gone.

        The launcher ends the other processes of its own machine, not those of others.

        Raises:
            ProcessError: that is so.
        """
        if self.world == 1 or time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        with reaching():
            ended = _get_default_store().check([self._ended])
        if ended:
            time.sleep(
                1.0
            )  # until that process has said why; the launcher may end all with this one
            raise ProcessError(_ENDED)

    def leave(self) -> None:
        """Let the other processes know that this one ends before its time."""
        if self.world > 1:
            with suppress(RuntimeError):
                _get_default_store().set(self._ended, "")


_ENDED = "another process of this run ended before its time; what was measured can be resumed"


@contextmanager
def reaching() -> Iterator[None]:
    """Say what it means that other processes cannot be reached.

    Raises:
        ProcessError: torch says so.
    """
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(f"{_ENDED} ({one_line(error)})") from error
