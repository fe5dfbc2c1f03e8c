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


def choose_meters(setting: Setting) -> tuple[Meter, ...]:
    """Return the meters of a run.

    Raises:
        LayerError: an option names what no meter measures.
    """
    made = (make(setting) for make in METERS.values())
    return tuple(meter for meter in made if meter is not None)
