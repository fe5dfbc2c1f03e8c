"""Means over several trainings of one recipe, with errors over trainings, in NumPy alone.

Errors over images say how well these networks are known; these say how a recipe varies from training to training,
on the images of the run. The two are of different things and are never added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ..errors import ResultError
from ..sums import Array
from .estimate import Estimate
from .jackknife import Band, t_quantile

Groups: TypeAlias = Mapping[str, tuple[str, ...]]
"""Name of a group -> names of the models that are its trainings."""


def mean(trainings: Sequence[Estimate]) -> Estimate:
    """Return the mean over trainings with their spread, SE = SD / sqrt(r), and Student's interval.

    Args:
        trainings: r estimates of one shape, two or more; their own errors do not enter.

    Returns:
        An estimate over trainings, r - 1 degrees of freedom. Undefined where one of them is, resolved if all are.
    """
    first, count = trainings[0], len(trainings)
    values, spread = _moments(np.stack([each.values for each in trainings]))
    se = spread / np.sqrt(count)
    margin = t_quantile(count) * se
    ends = values - margin, values + margin
    freedom = np.full(values.shape, count - 1.0)
    found = _estimate(values, se, *ends, first.depth, freedom, trainings, spread=spread)
    counts = [each.images for each in trainings if each.images is not None]
    return replace(found, images=np.minimum.reduce(counts)) if counts else found


def contrast(one: Sequence[Estimate], two: Sequence[Estimate]) -> Estimate:
    """Return the mean of some trainings minus that of others over relative depth, with Welch's interval.

    Trainings of two recipes are not paired, and need not vary alike: SE^2 = SD^2 / r of the one plus that of the
    other, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        one: estimates along depth `(L,)`, two or more.
        two: the same of what is taken away, `(L',)`.

    Returns:
        Over trainings, at the union of both relative depths; between these values are interpolated linearly.
    """
    depth = np.union1d(one[0].depth, two[0].depth)
    sides = [
        np.stack([np.interp(depth, each.depth, each.values) for each in side])
        for side in (one, two)
    ]
    (first, spread), (second, other) = map(_moments, sides)
    shares = [spread**2 / len(one), other**2 / len(two)]
    variance = shares[0] + shares[1]
    # Where no training varies, such as at the end of a raw curve, the interval is a point whatever its quantile.
    varies = np.where(variance > 0, variance, 1.0)
    rest = [
        (share / varies) ** 2 / (len(side) - 1) for share, side in zip(shares, sides, strict=True)
    ]
    freedom = 1.0 / np.where(variance > 0, rest[0] + rest[1], 1.0)
    se = np.sqrt(variance)
    margin = t_quantile(freedom + 1.0) * se
    values = first - second
    return _estimate(values, se, values - margin, values + margin, depth, freedom, [*one, *two])


def defined(estimates: Sequence[Estimate], measure: str) -> list[Estimate]:
    """Return the values of estimates at those places along depth at which all of them are defined.

    Args:
        estimates: of a measure in several trainings; their errors stay as they are.
        measure: its name.

    Raises:
        ResultError: it is of pairs, which have no course along depth; there is no such place.
    """
    if estimates[0].values.ndim > 1:
        raise ResultError(f"{measure} is of pairs, which have no course along depth to compare")
    at = np.flatnonzero(np.isfinite([each.values for each in estimates]).all(0))
    if not at.size:
        raise ResultError(f"{measure} is defined at no layer")
    return [replace(each, values=each.values[at], depth=each.depth[at]) for each in estimates]


def named(path: str, estimate: Estimate) -> dict[str, Array]:
    """Return the arrays of an estimate with a spread, under names that say what its errors are over.

    `<path>`; `<path>_se_trainings` and `<path>_sd_trainings`, or of a ceiling `<path>_se_images` and
    `<path>_sd_pairs`.
    """
    assert estimate.spread is not None
    spread = "trainings" if estimate.over == "trainings" else "pairs"
    return {
        path: estimate.values,
        f"{path}_se_{estimate.over}": estimate.se,
        f"{path}_sd_{spread}": estimate.spread,
    }


def of(groups: Groups, name: str | None, band: Band = "pointwise") -> tuple[str, ...]:
    """Return the trainings of a group by its name; none if that is no group.

    Raises:
        ResultError: a band that errors over trainings do not have.
    """
    found = groups.get(name or "", ())
    if found and band != "pointwise":
        raise ResultError(
            f"{name!r} is a group of {len(found)} trainings, too few for a {band} band: ask for pointwise, or "
            "for one training"
        )
    return found


def both(groups: Groups, one: str, other: str, band: Band) -> tuple[tuple[str, ...], ...]:
    """Return the trainings of two groups by their names; nothing if neither is one.

    Raises:
        ResultError: only one of them is; a band that errors over trainings do not have.
    """
    found = tuple(filter(None, (of(groups, one, band), of(groups, other, band))))
    if len(found) == 1:
        group, model = (one, other) if one in groups else (other, one)
        raise ResultError(
            f"{group!r} is a group and {model!r} is none, so that no error over trainings of it is known: "
            f"compare two groups, or two models such as {found[0][0]}"
        )
    return found


def _moments(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation over the first axis."""
    return values.mean(0), values.std(0, ddof=1)


def _estimate(
    values: Array,
    se: Array,
    lower: Array,
    upper: Array,
    depth: Array,
    freedom: Array,
    trainings: Sequence[Estimate],
    spread: Array | None = None,
) -> Estimate:
    return Estimate(
        values,
        se,
        lower,
        upper,
        depth,
        trainings[0].folds,
        over="trainings",
        resolved=all(each.resolved for each in trainings),
        trainings=len(trainings),
        spread=spread,
        freedom=freedom,
    )
