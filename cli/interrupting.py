"""Ctrl-C, SIGTERM and SIGHUP while a run is measured."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupting:
    """A context in which the first signal stops the run, a second waits for it to be saved, a third ends at once.

    Attributes:
        number: of the first signal.
    """

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self._count = 0
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal ended."""
        return 128 + self.number

    def __enter__(self) -> Interrupting:
        # What is ignored, as in the background or under nohup, stays so.
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {n: handler for n, handler in found.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self.number = signal.Signals(number)
            raise KeyboardInterrupt
        if self._count > 2:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
