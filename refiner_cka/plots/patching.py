"""What others' code does, done otherwise while figures are saved."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_ALONE = threading.RLock()


@contextlib.contextmanager
def replaced(where: Any, name: str, function: Any) -> Iterator[None]:
    """Have a module or class call another function inside the block; other threads wait to replace any."""
    with _ALONE:
        before = getattr(where, name)
        setattr(where, name, function)
        try:
            yield
        finally:
            setattr(where, name, before)
