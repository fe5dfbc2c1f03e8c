"""Forward passes of several chunks of a batch in lockstep, so that each layer is visited with the whole batch."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from greenlet import getcurrent, greenlet
from torch import nn

from ..errors import LayerError

Visit = Callable[[str, Sequence[Any]], None]
"""What happens at a layer: its path, and its output for each chunk of the batch."""


class Diverged(LayerError):
    """Chunks of a batch took different ways through the model."""


class Lockstep:
    """Runs a model over the chunks of a batch so that each layer is visited with all chunks at once.

    A Gram matrix needs a layer's features of the whole batch, also when the batch goes through the model in
    smaller chunks to save memory. So each chunk's forward pass pauses in its hook (as a coroutine) until the
    others have come to the same layer, and no layer's features outlive its hook.

    Args:
        visit: called with a layer's path and its outputs, one for each chunk.
    """

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def arrive(self, path: str, output: Any) -> None:
        """Visit the layer, or pause this chunk's pass until the others are there. For use with `capture`."""
        here = getcurrent()
        if isinstance(here, _Pass) and here.parent is not None:
            here.parent.switch((path, output))
        else:
            self._visit(path, [output])

    @staticmethod
    def first_image() -> int:
        """Return the number of the first image of the chunk that is passing through the model now."""
        here = getcurrent()
        return here.first if isinstance(here, _Pass) else 0

    def run(self, module: nn.Module, chunks: Sequence[Any]) -> list[Any]:
        """Return the model's output for each chunk.

        Raises:
            Diverged: chunks took different ways through the model.
        """
        if len(chunks) == 1:
            return [module(chunks[0])]
        firsts = [0, *itertools.accumulate(map(len, chunks[:-1]))]
        passes = [_Pass(module, first) for first in firsts]
        try:
            arrivals = [one.switch(chunk) for one, chunk in zip(passes, chunks, strict=True)]
            while not all(one.dead for one in passes):
                if any(one.dead for one in passes) or len({path for path, _ in arrivals}) > 1:
                    raise Diverged(
                        "the model calls different layers for different images, so its batches cannot be split "
                        "to save memory; use a smaller --batch-size"
                    )
                self._visit(arrivals[0][0], [output for _, output in arrivals])
                arrivals.clear()  # The outputs just visited are not to live through the next step.
                arrivals.extend(one.switch() for one in passes)
            return arrivals
        finally:
            # A pass that is left half done leaves its contexts here, and not whenever memory is tidied up.
            for one in reversed(passes):
                if not one.dead:
                    one.throw()


class _Pass(greenlet):
    """One chunk's forward pass.

    Args:
        module: the model.
        first: number of the chunk's first image in the batch.
    """

    def __init__(self, module: nn.Module, first: int) -> None:
        super().__init__(module)
        self.first = first
        # A greenlet begins with no context variables; what the caller set holds inside the model too.
        self.gr_context = contextvars.copy_context()
