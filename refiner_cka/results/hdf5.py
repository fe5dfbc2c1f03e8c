"""The HDF5 file of a result; docs/file-format.md specifies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import h5py
import numpy as np

from ..errors import ResultFileError, printable
from ..sums import LAYERS, MODELS, Array, Estimator, Layer, Quantity, all_sums, cosine
from .checks import AGREEMENT
from .contents import Contents, Unreadable
from .scales import write_depths, write_scales
from .store import Store, opened, to_attribute, write, write_texts

Kind = TypeVar("Kind", bound=Contents)

FORMAT = "refiner-cka"
FORMAT_VERSION = 1

BATCHES: dict[str, type[np.generic]] = {
    "batches": np.int64,
    "batch_planned": np.int64,
    "batch_images": np.int64,
    "batch_digests": np.uint8,
    "image_digests": np.uint64,
}
"""Datasets that say which batches the sums hold, and what each was made of."""

_UNKNOWN = "which this version does not know; update refiner-cka"


def save(contents: Contents, derived: Mapping[str, Array], path: str | Path) -> None:
    """Write a result to an HDF5 file, whole or not at all.

    Args:
        contents: what the file is to hold.
        derived: arrays that follow from it, by path, for readers that do not compute.
        path: where to.

    Raises:
        ResultFileError: the file cannot be written.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        for name in ("complete", "fingerprint", "total_batches"):
            file.attrs[name] = getattr(contents, name)
        _write_axes(file, contents.axes)
        for name, values in contents.sums.items():
            file.create_dataset(name, data=values).attrs["additive"] = True
        for order, quantity in enumerate(contents.quantities):
            attributes = file[quantity.path].attrs
            attributes["order"] = order
            for name in _FIELDS:
                attributes[name] = to_attribute(getattr(quantity, name))
        for name, values in derived.items():
            file[name] = values
        for name in BATCHES:
            file[name] = getattr(contents, name)
        write_texts(file, "image_names", contents.image_names)
        write_texts(file, "unreadable/image", (entry.image for entry in contents.unreadable))
        write_texts(file, "unreadable/reason", (entry.reason for entry in contents.unreadable))
        write_texts(file, "warnings", contents.warnings)
        provenance = file.create_group("provenance", track_order=True)
        for key, value in contents.provenance.items():
            provenance.attrs[key] = to_attribute(value)
        write_scales(file, contents.axes, _axes_of(contents.quantities, derived))
        for place in _places_of_groups(contents):
            if f"{place}/depth" in derived:
                write_depths(file[place])

    write(path, fill)


def load(path: str | Path, kind: type[Kind]) -> Kind:
    """Read what an HDF5 file stores; nothing but numbers, strings and JSON is taken from it.

    Args:
        path: the file.
        kind: `Contents`, or what is to be made of them.

    Raises:
        ResultFileError: no such file; not a result; of a newer version; damaged.
    """
    with opened(path) as file:
        _check_format(file)
        contents = kind(**_read(file))
        _check_derived(file, contents)
        file.check_digest()
    return contents


def derived_paths(quantity: Quantity) -> tuple[str, str]:
    """Return where the values of a quantity lie in the file, and where their standard errors."""
    if quantity.name == "cka":
        return "cka", "cka_se"
    return quantity.sum("values"), quantity.sum("se")


def _write_axes(file: h5py.File, axes: Mapping[str, tuple[Layer, ...]]) -> None:
    for axis, entries in axes.items():
        file.create_group(axis).attrs["axis"] = True
        for name in ("model", "path", "tokens"):
            write_texts(file, f"{axis}/{name}", (getattr(entry, name) for entry in entries))
        file[f"{axis}/index"] = np.array([entry.index for entry in entries], np.int64)
        file[f"{axis}/depth"] = np.array([entry.depth for entry in entries], np.float64)


def _axes_of(
    quantities: Sequence[Quantity], derived: Mapping[str, Array]
) -> dict[str, tuple[str, ...]]:
    """Return the axes of each array of a quantity by its path: of its sums, and of what follows from them."""
    of_sums = {path: each.axes for path, each in all_sums(quantities).items()}
    values = {path: each.axes for each in quantities for path in derived_paths(each)}
    return of_sums | {path: axes for path, axes in values.items() if path in derived}


def _places_of_groups(contents: Contents) -> set[str]:
    """Return where numbers of groups of trainings may lie."""
    return {
        f"groups/{group}/{entry.tokens}"
        for group, (training, *_) in contents.groups.items()
        for entries in contents.axes.values()
        for entry in entries
        if entry.model == training
    }


def _check_format(file: Store) -> None:
    if not file.has("format") or file.attribute("format", str) != FORMAT:
        raise ResultFileError(f"{file.name} is an HDF5 file of another tool, not of refiner-cka")
    version = file.attribute("format_version", int)
    if version > FORMAT_VERSION:
        raise ResultFileError(
            f"{file.name} was written by a newer refiner-cka (format version {version}; this one reads "
            f"{FORMAT_VERSION}); update refiner-cka"
        )
    if version < FORMAT_VERSION:
        raise file.fault("attribute format_version", f"is {version}; versions start at 1")


def _read(file: Store) -> dict[str, Any]:
    axes = {path: _axis(file, path) for path in dict.fromkeys([LAYERS, *_marked(file, "axis")])}
    quantities = _quantities(file, {*axes, MODELS})
    images = file.texts("unreadable/image")
    reasons = file.texts("unreadable/reason", len(images))
    return {
        "axes": axes,
        "quantities": quantities,
        # Every additive dataset, also of what no quantity is made of.
        "sums": {
            path: file.numbers(path, np.float64)
            for path in (*all_sums(quantities), *_marked(file, "additive"))
        },
        **{name: file.numbers(name, dtype) for name, dtype in BATCHES.items()},
        "total_batches": file.attribute("total_batches", int),
        "image_names": file.texts("image_names") if file.contains("image_names") else (),
        "unreadable": tuple(map(Unreadable, images, reasons)),
        "warnings": file.texts("warnings"),
        "provenance": file.attributes("provenance"),
        "fingerprint": file.attribute("fingerprint", str),
    }


def _marked(file: Store, attribute: str) -> list[str]:
    """Return the paths that have an attribute; that a run recorded something of that name is no mark."""
    return [path for path in file.marked(attribute) if path != "provenance"]


def _axis(file: Store, axis: str) -> tuple[Layer, ...]:
    models = file.texts(f"{axis}/model")
    count = len(models)
    return tuple(
        map(
            Layer,
            # Figures cannot draw bytes that are no text.
            map(printable, models),
            map(printable, file.texts(f"{axis}/path", count)),
            map(printable, file.texts(f"{axis}/tokens", count)),
            file.numbers(f"{axis}/index", np.int64, (count,)).tolist(),
            file.numbers(f"{axis}/depth", np.float64, (count,)).tolist(),
        )
    )


def _quantities(file: Store, axes: set[str]) -> tuple[Quantity, ...]:
    """Return what the file says of what it holds, also of what this version has never heard of, in their order."""
    found = [(file.attribute("order", int, path), path) for path in _marked(file, "estimator")]
    return tuple(_quantity(file, path, axes) for _, path in sorted(found))


def _quantity(file: Store, path: str, axes: set[str]) -> Quantity:
    told: dict[str, Any] = {name: file.json(name, path) for name in _FIELDS}
    for name, fits in _FIELDS.items():
        if not fits(told[name]):
            raise file.fault(f"attribute {name} of {path}", f"is {told[name]!r}")
    if told["estimator"] not in get_args(Estimator):
        raise ResultFileError(
            f"{file.name}: {path} has the estimator {told['estimator']!r}, {_UNKNOWN}"
        )
    if unknown := set(told["axes"]) - axes:
        raise ResultFileError(f"{file.name}: {path} has values for {min(unknown)!r}, {_UNKNOWN}")
    for name in ("axes", "range", "absent"):
        told[name] = tuple(told[name])
    for name in ("label", "about", "source"):
        told[name] = printable(told[name])
    return Quantity(path=path, **told)


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(each) is kind for each in value)


def _is_range(value: Any) -> bool:
    ends = value if isinstance(value, list) and len(value) == 2 else [""]
    return all(end is None or type(end) in (int, float) for end in ends)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("name", "estimator", "label", "about", "source"),
        lambda text: isinstance(text, str),
    ),
    "axes": lambda value: _are(str)(value) and len(value) in (1, 2),
    "range": _is_range,
    "smoother": lambda value: value in ("higher", "lower", None),
    "few": lambda value: isinstance(value, bool),
    "absent": _are(int),
}
"""What is stored of a quantity -> whether a value can be that."""


def _check_derived(file: Store, contents: Contents) -> None:
    """Refuse values that do not follow from the sums, and missing errors."""
    for quantity in contents.quantities:
        if quantity.estimator == "cosine":
            values, errors = derived_paths(quantity)
            total = contents.sums[quantity.sum("products")]
            stored = file.numbers(values, np.float64, total.shape)
            file.numbers(errors, np.float64, total.shape)
            if not np.allclose(stored, cosine(total), rtol=0.0, atol=AGREEMENT, equal_nan=True):
                raise file.fault(values, f"does not follow from {quantity.sum('products')}")
