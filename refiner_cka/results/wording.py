"""Numbers and names of a summary in words."""

from __future__ import annotations

import numpy as np

from .estimate import Estimate, with_se
from .findings import Comparison


def told(estimate: Estimate) -> str:
    """Return a number with its error."""
    return with_se(estimate.values, estimate.se)


def signed(comparison: Comparison) -> list[str]:
    """Return a difference with its sign and error, and its p-value."""
    difference, p = comparison.difference, comparison.p
    if not np.isfinite(difference.values):
        return ["undefined", "-"]
    value = f"{difference.values:+.3f}"
    if not np.isfinite(difference.se):
        return [value, "-"]
    return [f"{value} +- {difference.se:.3f}", "< 0.001" if p < 0.001 else f"{p:.3f}"]


def pair(model: str, other: str) -> str:
    """Return the names of two models, which may be one."""
    return model if model == other else f"{model} and {other}"


def ratio(estimate: Estimate) -> str:
    """Return a ratio with its interval, or that it says little."""
    if not np.isfinite(estimate.values):
        return "undefined"
    if not estimate.resolved:
        return "unresolved"
    return f"{estimate.values:.2f} [{estimate.lower:.2f}, {estimate.upper:.2f}]"


def listed(names: list[str]) -> str:
    """Return names as one enumerates them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
