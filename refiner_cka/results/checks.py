"""What sums can be: each is checked by its kind and by what is made of it, whatever it measures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ResultError
from ..sums import BY_FOLD, IMAGES, Array, Layer, Quantity, Sum, all_sums, lengths_of
from .scales import reserved

AGREEMENT = 1e-9
"""How far numbers may lie apart that are the same but for rounding, of numbers of size 1."""


TAKEN = (
    "batches batch_digests batch_images batch_planned cka cka_se folds groups image_digests image_names images "
    "models provenance unreadable warnings"
)
"""What lies in the file of every result, beside the scales of its dimensions."""


def check_quantities(quantities: Sequence[Quantity], axes: Mapping[str, Sequence[Layer]]) -> None:
    """Refuse quantities of one name or along no axis, and what has no place of its own in the file.

    Raises:
        ResultError: it names the quantity.
    """
    lengths, taken = lengths_of(axes), set(TAKEN.split()) | reserved(axes)
    for path in sorted([*axes, *(quantity.path for quantity in quantities)]):
        words = path.split("/")
        is_path = all(word.isprintable() and word.strip(".") for word in words)
        if not is_path or taken.intersection(itertools.accumulate(words, "{}/{}".format)):
            raise ResultError(f"{path!r} is no path in the file, or that of something else")
        taken.add(path)
    if len({quantity.name for quantity in quantities}) < len(quantities):
        raise ResultError("two quantities have the same name")
    for quantity in quantities:
        axis, *other = quantity.axes or ("",)
        if axis not in lengths or (other and other != [axis]):
            raise ResultError(f"{quantity.path} has values for {quantity.axes}, which is no axis")
        if not set(quantity.absent) <= set(range(lengths[axis])):
            raise ResultError(f"{quantity.path} is absent where its axis has no place")
        if quantity.estimator == "cosine" and not other:
            raise ResultError(f"{quantity.path} compares no pairs")


def check_groups(groups: Any, layers: Sequence[Layer]) -> None:
    """Refuse groups that are not several models of the result with the same layers.

    Args:
        groups: what the provenance holds: name -> names of models.
        layers: of all models.

    Raises:
        ResultError: it names the group.
    """
    rows: dict[str, list[tuple[str, str]]] = {}
    for layer in layers:
        rows.setdefault(layer.model, []).append((layer.path, layer.tokens))
    if not isinstance(groups, Mapping):
        raise ResultError("groups in provenance is no table of names")
    for name, models in groups.items():
        if not isinstance(models, list) or not all(isinstance(each, str) for each in models):
            raise ResultError(f"the group {name!r} is no list of models")
        if name in rows or not set(models) <= set(rows):
            raise ResultError(
                f"the group {name!r} has the name of a model, or a model that is not there"
            )
        if len(models) < 2 or len(set(models)) < len(models):
            raise ResultError(f"the group {name!r} is not several models")
        if any(rows[model] != rows[models[0]] for model in models):
            raise ResultError(f"the models of the group {name!r} have different layers")


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Refuse a record of the run in which an entry that is read here is of another form than a run gives it.

    Raises:
        ResultError: it names the entry.
    """
    for key, fits in _RECORDED.items():
        if key in provenance and not fits(provenance[key]):
            raise ResultError(f"{key} in provenance is not what a run records there")


def _has(**fields: type) -> Callable[[Any], bool]:
    """Return whether something is a table with these entries."""
    return lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(value.get(key), kind) for key, kind in fields.items())
    )


def _table_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether something is a table of which every entry fits."""
    return lambda value: isinstance(value, Mapping) and all(map(fits, value.values()))


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether something is a list of which every entry fits."""
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_moment(value: Any) -> bool:
    """Return whether something can say which run a model is a state of, and when."""
    return _has(run=str, time=list)(value) and all(isinstance(each, int) for each in value["time"])


_RECORDED: dict[str, Callable[[Any], bool]] = {
    "models": _list_of(
        lambda value: _has(name=str)(value) and isinstance(value.get("origin", {}), Mapping)
    ),
    "images": lambda value: _has()(value) and isinstance(value.get("count", 0), int),
    "identity": _list_of(_is_text),
    "left_out": lambda value: isinstance(value, int),
    "fingerprint_of_images": _has(covers=str, whole=bool),
    "notes": _table_of(_is_text),
    "faint_parameters": _table_of(_is_text),
    "training": _table_of(_is_moment),
}
"""What is read of the record of a run, and whether something can be that."""


def check_sums(
    sums: Mapping[str, Array], quantities: Sequence[Quantity], lengths: Mapping[str, int]
) -> None:
    """Refuse sums that are missing, of another shape than what they are of, or that no run can have made.

    Args:
        sums: by path.
        quantities: what was measured.
        lengths: of each axis.

    Raises:
        ResultError: it names the sum.
    """
    described = all_sums(quantities)
    for each in described.values():
        if each.path not in sums:
            raise ResultError(f"{each.path} is missing")
        shape = tuple(lengths[axis] for axis in each.axes)
        if sums[each.path].shape != shape:
            raise ResultError(f"{each.path} has shape {sums[each.path].shape}, not {shape}")
    for each in described.values():
        if each.kind == "count":
            check_count(each, sums)
        elif each.kind in ("pairs", "products"):
            _check_pairs(each, sums[each.path])
    for quantity in quantities:
        _check_absent(quantity, sums)


def check_count(of: Sum, sums: Mapping[str, Array]) -> None:
    """Refuse what is no count, or counts more than there is.

    Raises:
        ResultError: it names the sum.
    """
    if of.path not in sums:
        raise ResultError(f"{of.path} is missing")
    values = sums[of.path]
    if not (np.isfinite(values) & (values == np.floor(values)) & (values >= 0)).all():
        raise ResultError(f"{of.path} is not a count")
    if of.at_most is None:
        return
    bound = sums[of.at_most]
    if of.axes[:1] != (BY_FOLD,) and of.at_most == IMAGES.path:
        bound = bound.sum(0)
    if (values > bound.reshape(*bound.shape, *[1] * (values.ndim - bound.ndim))).any():
        raise ResultError(f"{of.path} counts more images than there are in {of.at_most}")


def _check_pairs(of: Sum, values: Array) -> None:
    """Refuse pairs that depend on the order of the two, or what cannot be negative of a layer with itself."""
    # Sums of exactly symmetric numbers are exactly symmetric, in whatever order they are added.
    if not np.array_equal(values, values.swapaxes(-1, -2), equal_nan=True):
        raise ResultError(f"{of.path} is not symmetric")
    own = np.diagonal(values, axis1=-2, axis2=-1)
    if of.kind == "products" and (own < 0).any():
        raise ResultError(f"{of.path} holds a negative product of a layer with itself")


def _check_absent(quantity: Quantity, sums: Mapping[str, Array]) -> None:
    """Refuse numbers where nothing was measured."""
    for each in quantity.sums:
        for axis, name in enumerate(each.axes):
            if name in quantity.axes and sums[each.path].take(quantity.absent, axis).any():
                raise ResultError(f"{each.path} holds numbers where nothing was measured")
