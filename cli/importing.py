"""Importing what takes long: torch and timm, or matplotlib, and what they bring along."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import inside without looking for garbage, and have what is there at the end never looked through again.

    torch and timm make some 400,000 objects that stay and 10,000 that do not, and Python would look through them
    again and again, also later. Processes that are forked keep sharing that memory, which a search for garbage
    writes to (see `gc.freeze`).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
