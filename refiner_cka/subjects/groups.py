"""Groups: several trainings of one recipe, whose spread says how far a finding depends on the training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from ..errors import LayerError, ModelError
from .model import Model
from .subject import Subject


def grouped(subjects: Iterable[Subject]) -> dict[str, list[Subject]]:
    """Return the trainings of each group, in the order in which they were given."""
    found: dict[str, list[Subject]] = {}
    for subject in subjects:
        if subject.group:
            found.setdefault(subject.group, []).append(subject)
    return found


def check_groups(subjects: Sequence[Subject], reserved: Sequence[str] = ()) -> None:
    """Refuse what is no group of trainings of one recipe, and names that something else has.

    Args:
        subjects: all models of the run.
        reserved: names of what models are compared with.

    Raises:
        ModelError: a name that a model has, that is reserved, or that can be no path in a file; a single
            training; the same weights twice.
        LayerError: trainings with different layers.
    """
    names = {subject.name for subject in subjects}
    for name in reserved:
        if name in names:
            raise ModelError(
                f"--against {name}: a model is called so too; give it another name with label="
            )
    for name, members in grouped(subjects).items():
        if name in reserved:
            raise ModelError(f"--against {name}: a group is called so too; write another group=")
        _check_name(name, names)
        if len(members) == 1:
            raise ModelError(
                f"the group {name!r} has one training, {members[0].name}: an error over trainings takes "
                f"two or more; add another with group={name}, or leave the group out"
            )
        for one, two in itertools.combinations(members, 2):
            if one.origin.get("sha256", one) == two.origin.get("sha256", two):
                raise ModelError(
                    f"{one.name} and {two.name} of the group {name!r} have the same weights: name each "
                    "training once"
                )
        check_layers(name, {member.name: member.layers for member in members})


def check_rows(models: Sequence[Model]) -> None:
    """Refuse groups of which some layer was found in one training and not in another.

    Raises:
        LayerError: names them.
    """
    rows = {model.name: [(row.path, row.readout) for row in model.rows] for model in models}
    for name, members in grouped(model.subject for model in models).items():
        check_layers(name, {member.name: rows[member.name] for member in members})


def check_layers(group: str, layers: Mapping[str, Sequence[object]]) -> None:
    """Refuse trainings that do not have the same layers in the same order.

    Args:
        group: its name.
        layers: of each training.

    Raises:
        LayerError: names the two that differ.
    """
    (first, wanted), *others = layers.items()
    for other, found in others:
        if list(found) != list(wanted):
            raise LayerError(
                f"{first} and {other} of the group {group!r} do not have the same layers: a group is "
                "several trainings of one network"
            )


def _check_name(name: str, models: set[str]) -> None:
    if name in models:
        raise ModelError(
            f"{name!r} is the name of a group and of a model: give the model another by label="
        )
    if "/" in name or not name.isprintable() or not name.strip("."):
        raise ModelError(
            f"group={name!r}: its numbers lie under this name in the file, where it can hold no '/' and no "
            "control character, and not be '.' or '..'"
        )
