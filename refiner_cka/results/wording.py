"""Numbers and names of a summary in words."""

from __future__ import annotations

import numpy as np

from .chance import ALPHA
from .estimate import Estimate, error_told, with_se
from .findings import Comparison


def told(estimate: Estimate) -> str:
    """Return a number with its error."""
    return with_se(estimate.values, estimate.se)


def difference(comparison: Comparison, *, reverse: bool = False) -> str:
    """Return a difference with its sign and error, marked by `*` where it is beyond chance.

    Args:
        comparison: of two models.
        reverse: whether to tell the second minus the first.
    """
    found, sign = comparison.difference, -1 if reverse else 1
    if not np.isfinite(found.values):
        return "undefined"
    return f"{sign * found.values:+.3f}{error_told(found.se)}{'*' if comparison.p < ALPHA else ''}"


def pair(model: str, other: str) -> str:
    """Return the names of two models, which may be one."""
    return model if model == other else f"{model} and {other}"


def listed(names: list[str]) -> str:
    """Return names as one enumerates them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
