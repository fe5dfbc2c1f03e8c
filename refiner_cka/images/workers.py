"""Processes that load ahead."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, one_line

Item = TypeVar("Item")


def load_ahead(
    items: Dataset[Item], wanted: Sequence[int], workers: int, pin_memory: bool
) -> Iterator[Item]:
    """Yield the wanted items in the order asked for.

    Args:
        items: each is loaded by its index.
        wanted: indices.
        workers: processes that load two items each ahead of time; 0 loads in this process.
        pin_memory: call `pin_memory()` of each item, if this machine has a GPU.

    Raises:
        DataError: the processes cannot be started, or one of them died.
    """
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # else it draws from the global one, and so changes it
    )
    try:
        yield from _started(loader)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            f"a loading process died ({one_line(error)}): memory, or shared memory (/dev/shm), may "
            "be too small; use fewer --workers (0: none) or a smaller --batch-size"
        ) from error


def _started(loader: DataLoader[Item]) -> Iterator[Item]:
    """Start the workers, and undo torch's signal handler: it raises their death wherever the main process is.

    Without it the death is found by whoever waits for that worker's item, and can be explained.
    """
    handled = sys.platform != "win32" and threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if handled else None
    with warnings.catch_warnings():
        # More workers than cores, a fork in a process with threads: the user's choice.
        warnings.simplefilter("ignore")
        try:
            return iter(loader)
        except OSError as error:
            raise DataError(
                f"cannot start {loader.num_workers} loading processes: {one_line(error)}"
            ) from error
        finally:
            if handled:
                signal.signal(signal.SIGCHLD, handler)


def _ignore_interrupt(_worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers; else each prints a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
