"""Named dimensions of the arrays of a file: with these xarray opens it as it is, see docs/tables.md.

They are HDF5 dimension scales: for each dimension a dataset with its labels, and in the arrays references to it.
They are written for other programs: nothing in this package reads them, or follows a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import h5py
import numpy as np

from ..errors import printable
from ..sums import BY_FOLD, FOLDS, LAYERS, MODELS, ROWS, Layer
from .store import write_texts

_NAMES = {
    LAYERS: "layer",
    ROWS: "row",
    MODELS: "model_name",
    BY_FOLD: "fold",
    "attention": "attention_map",
}
"""Axis -> its dimension, which cannot have the name of a group, such as the axis, or of a column of one."""

_FIXED = {
    **dict.fromkeys(("batches", "batch_planned", "batch_images"), ("batches",)),
    "batch_digests": ("batches", "model_name", "digest_byte"),
    "image_digests": ("batches", "place"),
    "image_names": ("image_names",),
    "warnings": ("warnings",),
    "unreadable/image": ("unreadable/image",),
    "unreadable/reason": ("unreadable/image",),
}
"""Dataset of every file -> where the scales of its dimensions lie, which it may be itself."""


def reserved(axes: Iterable[str]) -> set[str]:
    """Return the names that scales take at the root of the file of a result with these axes."""
    along = {_dimension(axis) for axis in (*axes, *_NAMES)}
    return along | {f"other_{name}" for name in along} | {"digest_byte", "place"}


def write_scales(
    file: h5py.File, axes: Mapping[str, Sequence[Layer]], arrays: Mapping[str, Sequence[str]]
) -> None:
    """Name the dimensions of the arrays of a file.

    Args:
        file: holds all arrays.
        axes: name of an axis -> its entries, of which each is labelled `model/path/tokens`.
        arrays: path of an array -> the names of its axes.
    """
    columns = {
        f"{axis}/{column}": (axis,)
        for axis in axes
        for column in ("model", "path", "tokens", "index", "depth")
    }
    scales = {path: tuple(_scales(of)) for path, of in {**columns, **arrays}.items()} | _FIXED
    used = {scale for along in scales.values() for scale in along}
    for axis, entries in axes.items():
        labels = [printable(f"{at.model}/{at.path}/{at.tokens}") for at in entries]
        _write_labels(file, _dimension(axis), used, labels)
    models = [*dict.fromkeys(printable(at.model) for at in axes[LAYERS])]
    _write_labels(file, _dimension(MODELS), used, models)
    for name, count in {
        _dimension(BY_FOLD): FOLDS,
        "digest_byte": file["batch_digests"].shape[2],
        "place": file["image_digests"].shape[1],
    }.items():
        file[name] = np.arange(count)
    for scale in sorted(used):
        _make_scale(file[scale])
    for path, along in scales.items():
        if path not in used:
            _attach(file[path], [file[scale] for scale in along])


def write_depths(group: h5py.Group) -> None:
    """Make the relative depth in a group the dimension of every other array of its length in it."""
    depth, arrays = group["depth"], list[h5py.Dataset]()

    def collect(_: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and set(node.shape) == set(depth.shape) and node != depth:
            arrays.append(node)

    group.visititems(collect)
    scales = [depth]
    if any(array.ndim > 1 for array in arrays):
        group["other_depth"] = depth[()]
        scales.append(group["other_depth"])
    for scale in scales:
        _make_scale(scale)
    for array in arrays:
        _attach(array, scales[: array.ndim])


def _dimension(axis: str) -> str:
    """Return the name of the dimension of an axis."""
    return _NAMES.get(axis, f"{axis.replace('/', '_')}_entry")


def _scales(axes: Sequence[str]) -> Iterator[str]:
    """Yield the scales of an array along axes; rows and columns of pairs have one each, with the same labels."""
    for place, axis in enumerate(axes):
        yield f"other_{_dimension(axis)}" if axis in axes[:place] else _dimension(axis)


def _write_labels(file: h5py.File, name: str, used: set[str], labels: Sequence[str]) -> None:
    for scale in used.intersection((name, f"other_{name}")):
        write_texts(file, scale, labels)


def _make_scale(dataset: h5py.Dataset) -> None:
    dataset.make_scale(dataset.name.rpartition("/")[2])


def _attach(array: h5py.Dataset, scales: Sequence[h5py.Dataset]) -> None:
    for dimension, scale in zip(array.dims, scales, strict=True):
        dimension.attach_scale(scale)
