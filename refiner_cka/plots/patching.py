"""What others' code does, done otherwise while figures are saved."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

ALONE = threading.RLock()
"""What is replaced is so for all threads."""


@contextlib.contextmanager
def replaced(where: Any, name: str, function: Any) -> Iterator[None]:
    """Have a module or class call another function inside the block; other threads wait to replace any."""
    with ALONE:
        before = getattr(where, name)
        setattr(where, name, function)
        try:
            yield
        finally:
            setattr(where, name, before)
