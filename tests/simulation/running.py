"""Repetitions of one thing, spread over processes: the same numbers for any number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Seeds = Sequence[np.random.SeedSequence]
Repeated = Mapping[str, Array]

CHUNKS = 24
"""Into which the repetitions of a cell are cut; a process does one at a time."""


def repeat(
    executor: Executor, function: Callable[..., Repeated], *what: object, repetitions: int
) -> dict[str, Array]:
    """Return arrays by name with an entry for each repetition first.

    Args:
        executor: of the processes.
        function: takes `what` and a seed for each repetition, and returns such arrays; importable by name.
        what: to repeat; its text is the seed.
        repetitions: how many.
    """
    seeds = np.random.SeedSequence([*repr((function.__name__, *what)).encode()]).spawn(repetitions)
    size = -(-repetitions // CHUNKS)
    chunks = [seeds[first : first + size] for first in range(0, repetitions, size)]
    done = list(executor.map(function, *([each] * len(chunks) for each in what), chunks))
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float) -> str:
    """Return a share in per cent with one decimal."""
    return f"{100 * share:.1f}"
