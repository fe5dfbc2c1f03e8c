"""Which of several processes speaks, as what all of them meet, one says; and for how many there is room."""

from __future__ import annotations

import os
import time

import refiner_cka as rc


def rank() -> int:
    """Return the number of this process among those that a launcher such as `torchrun` started; 0 if alone."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def local_rank() -> int:
    """Return its number among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", str(rank()))) if rank() else 0


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def speaks(error: BaseException) -> bool:
    """Return whether this process is to say why it ends.

    What is refused is mostly refused in every process, and the first one speaks for all: it is given the time to,
    after which the launcher ends this one. If it has nothing to say, then the fault is here.
    """
    if rank() == 0:
        return True
    if isinstance(error, rc.ProcessError | KeyboardInterrupt):
        return False
    if isinstance(error, rc.RefinerCkaError) or hasattr(error, "format_message"):  # the parser's
        # The first process of another machine has a launcher of its own to wait for.
        time.sleep(3.0 if local_rank() == 0 else 6.0)
    return True
