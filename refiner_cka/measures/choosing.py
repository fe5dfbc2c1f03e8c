"""Which meters a run has: one table."""

from __future__ import annotations

from collections.abc import Callable

from .accuracy import Accuracy
from .attention import attention
from .gram import Similarity
from .meter import Meter, Setting
from .smoothing import smoothing

METERS: dict[str, Callable[[Setting], Meter | None]] = {
    "similarity": Similarity,
    "accuracy": Accuracy,
    "smoothing": smoothing,
    "attention": attention,
}
"""Name -> what makes the meter for a run; `None` where its options do not ask for it."""
