"""Arrays of images in `.npz`, `.npy` and HDF5 files; the embedded digits are one."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, one_line
from .arrays import ArrayImages

DIGITS = {
    "digits": slice(None),
    "digits-train": slice(1437),
    "digits-test": slice(1437, None),
}
"""Names of the embedded digits: all, and the fixed split into those to train on and those held out."""

_IMAGE_NAMES = ("images", "X", "data", "x")
_LABEL_NAMES = ("labels", "y", "targets")


def open_digits(name: str) -> ArrayImages:
    """Return handwritten digits (UCI), 8 x 8 pixels, labelled 0 to 9.

    Args:
        name: one of `DIGITS`: all 1,797, the first 1,437 for training or the last 360 for testing.
    """
    with resources.files("refiner_cka").joinpath("data/digits.npz").open("rb") as file:
        arrays = np.load(file)
        ink, labels = arrays["images"], arrays["labels"]
    pixels = np.rint(ink * (255 / 16)).astype(np.uint8)
    ids = [f"digits/{index:04}" for index in range(len(pixels))]
    part = DIGITS[name]
    return ArrayImages(name, ids[part], labels[part].tolist(), tuple("0123456789"), pixels[part])


def open_npz(path: Path, name: str) -> ArrayImages:
    """Return the images in an `.npz` file, read whole.

    Raises:
        DataError: it is damaged, holds Python objects, or no array of images that can be told.
    """
    with _array_file(name):
        with zipfile.ZipFile(path) as archive:
            shapes = {
                member.removesuffix(".npy"): _npy_shape(archive, member)
                for member in archive.namelist()
                if member.endswith(".npy")
            }
        images, labels = _choose_arrays(shapes, name)
        with np.load(path) as arrays:
            return ArrayImages.of(arrays[images], name, arrays[labels] if labels else None)


def open_npy(path: Path, name: str) -> ArrayImages:
    """Return the images in an `.npy` file, read row by row.

    Raises:
        DataError: it is damaged, or not an array of images.
    """
    with _array_file(name):
        array = np.load(path, mmap_mode="r")
        _choose_arrays({"images": array.shape}, name)
        return ArrayImages.of(_NpyRows(path, array.shape, array.dtype), name)


def open_hdf5(path: Path, name: str) -> ArrayImages:
    """Return the images in an HDF5 file, read row by row.

    Raises:
        DataError: it is damaged, or holds no array of images that can be told.
    """
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def collect(key: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[key] = item.shape or ()

    with _array_file(name), h5py.File(path, "r") as file:
        file.visititems(collect)
        images, labels = _choose_arrays(shapes, name)
        rows = _Hdf5Rows(path, images, file[images].shape, file[images].dtype)
        return ArrayImages.of(rows, name, np.asarray(file[labels]) if labels else None)


@dataclass(frozen=True, eq=False)
class _NpyRows:
    """A `.npy` file, mapped for each row: one mapped array would go to a worker as a copy."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: int | slice, /) -> NDArray[Any]:
        return np.array(np.load(self.path, mmap_mode="r")[index])


@dataclass(frozen=True, eq=False)
class _Hdf5Rows:
    """A data set in an HDF5 file, opened for each row: an open file does not survive a fork."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: int | slice, /) -> NDArray[Any]:
        import h5py

        with h5py.File(self.path, "r") as file:
            return np.asarray(file[self.name][index])


@contextmanager
def _array_file(name: str) -> Iterator[None]:
    """Make one line of what NumPy and h5py raise on a damaged or pickled file."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{name} cannot be read as an array file: {one_line(error)}") from error


def _npy_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """Return the shape of an array in an `.npz` file without reading the array."""
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)[0]
        return np.lib.format.read_array_header_2_0(stream)[0]


def _choose_arrays(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[str, str | None]:
    """Return which array holds the images and which, if any, the labels."""
    stacks = [key for key, shape in shapes.items() if len(shape) in (3, 4)]
    named = [key for key in _IMAGE_NAMES if key in stacks]
    if not named and len(stacks) != 1:
        found = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:8]) or "nothing"
        raise DataError(
            f"{name} must hold images in an array named {', '.join(_IMAGE_NAMES)}, or in its only "
            "array of shape (images, height, width[, channels]) or (images, channels, height, "
            f"width); it holds {found}{', ...' if len(shapes) > 8 else ''}"
        )
    return (named or stacks)[0], next((key for key in _LABEL_NAMES if key in shapes), None)
