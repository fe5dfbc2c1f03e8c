"""Where the name of a model is looked up: one row a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import catalogue, factories, timm_models
from .provenance import Source
from .spec import Size, Spec
from .subject import Subject


class Family(NamedTuple):
    """Models that are made in one way.

    Attributes:
        claims: whether a name is of this family.
        make: from what `--model` says, a pattern for `find_layers` and the (height, width) asked for, if any, to
            the subject and what it was made of. Its label, provenance and stated layout are added afterwards.
        describes_on: device on which its models are built and run to learn the shapes of their outputs; on `meta`
            they have no numbers.
    """

    claims: Callable[[str], bool]
    make: Callable[[Spec, str, Size | None], tuple[Subject, Source]]
    describes_on: str = "cpu"


FAMILIES: dict[str, Family] = {
    "factory": Family(catalogue.is_factory, factories.make),
    # This package's own networks too, which are registered with timm.
    "timm": Family(lambda name: True, timm_models.make, describes_on="meta"),
}
"""By name; of those that claim a model's name the first makes it."""


def family_of(name: str) -> Family:
    """Return the family that a model's name is of."""
    return next(family for family in FAMILIES.values() if family.claims(name))
