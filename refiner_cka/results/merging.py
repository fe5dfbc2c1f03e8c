"""Adding the results of the parts of an analysis, and saying what differs where they are of different ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ResultError
from .contents import Unreadable
from .hdf5 import BATCHES
from .remarks import derived_lines
from .result import Result


def merge(results: Sequence[Result]) -> Result:
    """Return the sum of results of disjoint batches of one analysis.

    Raises:
        ResultError: nothing to merge; different analyses; a batch held twice, whether its pixels were the
            same or not.
    """
    if not results:
        raise ResultError("nothing to merge: give at least one result")
    _check_parts(results)
    first = results[0]
    order = np.argsort(np.concatenate([r.batches for r in results]))
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(r, name) for r in results])[order] for name in BATCHES
    }
    merged = replace(
        first,
        sums={name: np.sum([r.sums[name] for r in results], axis=0) for name in first.sums},
        **joined,
        image_names=next((r.image_names for r in results if r.image_names), ()),
        unreadable=unique_images(image for r in results for image in r.unreadable),
        provenance={
            **first.provenance,
            "shard": [1, 1],
            "command": "; ".join(dict.fromkeys(str(r.provenance.get("command")) for r in results)),
        },
    )
    # What is undefined in a part need not be in the whole.
    derived = {line for part in results for line in derived_lines(part)}
    lasting = [line for part in results for line in part.warnings if line not in derived]
    return replace(merged, warnings=tuple(dict.fromkeys([*lasting, *derived_lines(merged)])))


def _check_parts(results: Sequence[Result]) -> None:
    """Refuse results of different analyses, and a batch held twice, whether its pixels were the same or not."""
    first = results[0]
    shapes = [{name: values.shape for name, values in each.sums.items()} for each in results]
    for other, shape in zip(results, shapes, strict=True):
        if other.fingerprint != first.fingerprint:
            found = differences(first.provenance, other.provenance)
            raise ResultError(
                f"the results are of different analyses: {found or 'their fingerprints differ'}; "
                "use the same command for every shard"
            )
        if shape != shapes[0]:
            raise ResultError(
                "the results hold different sums; measure every shard with one version of refiner-cka"
            )
    for one, two in itertools.combinations(results, 2):
        if differing := one.other_pixels(two):
            raise ResultError(
                f"{differing} in two of the results: the images, or what decodes them, changed in between; "
                "measure all parts from the same images"
            )
        if (both := np.intersect1d(one.batches, two.batches)).size:
            raise ResultError(
                f"batch {both[0]} is in two of the results, of the same pixels; merge each shard once"
            )


def unique_images(unreadable: Iterable[Unreadable]) -> tuple[Unreadable, ...]:
    """Return each image once, by name, with the first reason given."""
    first = {entry.image: entry for entry in reversed([*unreadable])}
    return tuple(first[image] for image in sorted(first))


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Say what differs between what determines the numbers of two analyses, at most three things.

    Args:
        one: provenance of a result or an analysis.
        two: provenance of another.

    Returns:
        `revision of estimator differs (1 / 2)`, several with commas; nothing if nothing is found.
    """
    found = list(changes(one, two, lambda of: of.get("identity", ())))
    lines = [f"{what} differs ({_short(here)} / {_short(there)})" for what, here, there in found]
    return ", ".join(lines[:3]) + (" and more" if len(lines) > 3 else "")


def changes(
    one: Mapping[str, Any],
    two: Mapping[str, Any],
    keys: Callable[[Mapping[str, Any]], Iterable[str]],
) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between the provenances of two results: in words, here, there.

    Args:
        one: provenance of a result or an analysis.
        two: provenance of another.
        keys: from a provenance to those of its entries that are looked at.
    """
    first, second = (
        {
            path: text
            for key in keys(each)
            if key in each
            for path, text in _leaves(each[key], (key,))
        }
        for each in (one, two)
    )
    for path in dict.fromkeys([*first, *second]):
        here, there = (of.get(path, "none") for of in (first, second))
        if here != there:
            yield " of ".join(reversed(path)), here, there


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each number and text in nested provenance with the words that lead to it."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        # Models go by their names, and need no other word.
        value = {str(item.get("name", index)): item for index, item in enumerate(value)}
        path = ()
    if isinstance(value, dict):
        for key, item in value.items():
            words = {"origin": (), "sha256": ("weights", "sha256")}.get(key, (str(key),))
            yield from _leaves(item, (*path, *words))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}..."
