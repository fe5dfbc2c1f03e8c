"""Arrays of images in `.npz`, `.npy` and HDF5 files; the embedded digits are one."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RefinerCkaError, one_line
from .arrays import BLOCK_BYTES, ArrayImages

DIGITS = {
    "digits": slice(None),
    "digits-train": slice(1437),
    "digits-test": slice(1437, None),
}
"""Names of the embedded digits: all, and the fixed split into those to train on and those held out."""

_IMAGE_NAMES = ("images", "X", "data", "x")
_LABEL_NAMES = ("labels", "y", "targets")

_PACKED = 1100
"""No filter of HDF5 makes of so many bytes one; deflate, at most 1032."""

_DEPTH = 64
"""Groups deeper than this are refused: HDF5 takes minutes to visit some thousand levels."""


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
            headers = {
                member.filename.removesuffix(".npy"): _npz_header(archive, member)
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
        images, labels = _choose_arrays({key: shape for key, (shape, _) in headers.items()}, name)
        for key in filter(None, (images, labels)):
            _refuse_objects(headers[key][1], key)
        with np.load(path) as arrays:
            return ArrayImages.of(arrays[images], name, arrays[labels] if labels else None)


def open_npy(path: Path, name: str) -> ArrayImages:
    """Return the images in an `.npy` file, read row by row.

    Raises:
        DataError: it is damaged, or not an array of images.
    """
    with _array_file(name):
        with path.open("rb") as stream:
            shape, dtype = _npy_header(stream, os.path.getsize(path))
        _refuse_objects(dtype, "it")
        _choose_arrays({"images": shape}, name)
        return ArrayImages.of(_NpyRows(path, shape, dtype), name)


def open_hdf5(path: Path, name: str) -> ArrayImages:
    """Return the images in an HDF5 file, read row by row.

    Raises:
        DataError: it is damaged, or holds no array of images that can be told; or they lie in another file, or
            are more than can be in this one.
    """
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def collect(key: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            shapes[key] = item.shape or ()
        return key.count("/") >= _DEPTH or None  # what is not None ends the visit

    with _array_file(name), h5py.File(path, "r") as file:
        if file.visititems(collect):
            raise ValueError(f"its groups are more than {_DEPTH} levels deep")
        images, labels = _choose_arrays(shapes, name)
        for key in filter(None, (images, labels)):
            _check_stored(file[key], os.path.getsize(path))
        rows = _Hdf5Rows(path, images, file[images].shape, file[images].dtype)
        return ArrayImages.of(rows, name, file[labels] if labels else None)


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
    """Make one line of whatever is raised on a damaged or crafted file."""
    try:
        yield
    except RefinerCkaError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{name} does not fit in the memory; save its images as .npy, which is read row by row"
        ) from error
    except (
        Exception
    ) as error:  # zipfile, NumPy and h5py have no list of what such a file makes them raise
        raise DataError(f"{name} cannot be read as an array file: {one_line(error)}") from error


_Header = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


def _npz_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    """Return shape and type of an array in an `.npz` file without reading the array."""
    with archive.open(member) as stream:
        return _npy_header(stream, member.file_size)


def _npy_header(stream: IO[bytes], size: int) -> _Header:
    """Return shape and type of the array in an `.npy` file of `size` bytes.

    Raises:
        ValueError: it is damaged. NumPy's own words advise to trust the file.
    """
    try:
        first = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception as error:
        raise ValueError("its .npy header is missing or damaged") from error
    # Pickled objects take what they take.
    stored = 0 if dtype.hasobject else dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or stream.tell() + stored > size:
        raise ValueError(f"an array {dtype} {shape} is not what {size} bytes hold")
    return shape, dtype


def _refuse_objects(dtype: np.dtype[Any], what: str) -> None:
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are never unpickled: save numbers")


def _check_stored(dataset: Any, size: int) -> None:
    """Refuse a data set of HDF5 that is not in its file of `size` bytes, or declares more than can be there.

    Whoever reads one number of a chunk unpacks the chunk.

    Raises:
        ValueError: it says so.
    """
    if dataset.external or dataset.is_virtual:
        raise ValueError(
            f"{dataset.name} lies in other files, which are not read: copy it into one"
        )
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > max(
        dataset.nbytes, BLOCK_BYTES
    ):
        raise ValueError(f"{dataset.name} is stored in chunks {dataset.chunks}, larger than it is")
    count = (*(dataset.shape or ()), 1)[0]
    if count > size or dataset.nbytes > _PACKED * size:
        raise ValueError(
            f"{dataset.name} declares an array {dataset.dtype} {dataset.shape} in a file of {size} bytes"
        )


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
