"""When what has been measured is saved."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import DataError
from ..results.result import Result

Save = Callable[[Result], None]
"""Called with what this process has measured until then."""


def check_every(seconds: float) -> None:
    """Refuse what is no time between two saves; 0 saves after each batch, infinity only at an early end.

    Raises:
        DataError: it is negative, or not a number.
    """
    if not seconds >= 0:
        raise DataError(f"--save-every {seconds}: it takes seconds, 0 or more")


class Saver:
    """Hands over what has been measured.

    Args:
        save: takes it; `None` if nothing is to be saved.
        measured: returns it; `None` as long as there is nothing.
        every: seconds between two saves.
    """

    def __init__(
        self, save: Save | None, measured: Callable[[], Result | None], every: float
    ) -> None:
        self._save, self._measured, self._every = save, measured, every
        self._last = time.monotonic()

    def after_batch(self) -> None:
        """Save when it is time."""
        if time.monotonic() - self._last >= self._every:
            self.save()
            # The time that saving took is not time measured.
            self._last = time.monotonic()

    def save(self) -> None:
        """Save, if there is anything to save."""
        if self._save is not None and (result := self._measured()) is not None:
            self._save(result)
