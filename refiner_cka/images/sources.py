"""Image sources: folders, tar files, arrays and torch data sets, each in a fixed order.

A source is immutable and keeps no file open, so that it can go into loading workers as it is. Files
are listed and read by code of our own: timm's readers know three suffixes, follow symbolic links in
circles, sort by absolute path, and share one tar handle among forked workers.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import re
import shutil
import tarfile
import tempfile
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import AnalysisWarning, DataError, one_line
from .decoding import (
    CHANNELS,
    UnreadableImage,
    array_to_rgb,
    check_size,
    decode,
    to_rgb,
)

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_IMAGE_NAMES = ("images", "X", "data", "x")
_LABEL_NAMES = ("labels", "y", "targets")

HASHED_BYTES = 2**30
"""Of folders and tar files so many bytes of image files are hashed; of larger ones a sample of about this size."""

_BLOCK_BYTES = 2**25
"""Arrays are hashed in blocks of rows of at most about this size."""

_GAP_ROWS = 8
"""So many rows on, the next wanted row of an array is read with this one."""


@dataclass(frozen=True)
class Digest:
    """What tells one list of images from another.

    Attributes:
        sha256: of what `covers` says, hexadecimal.
        covers: what the hash depends on, in words: `names, sizes and all contents`.
        whole: whether it depends on every byte of every image.
        transform: what the source itself does to an image before it hands it over, if that is known.
    """

    sha256: str
    covers: str
    whole: bool
    transform: str | None = None


# ---------------------------------------------------------------------------- files


@dataclass(frozen=True, eq=False)
class FolderImages:
    """The image files under a folder, subfolders included, sorted by relative path."""

    description: str
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    paths: Sequence[str]

    @property
    def input_shape(self) -> None:
        """Pictures are preprocessed for each model."""

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of relative paths, sizes and contents, see `_file_digest`."""
        files = [(self.ids[i], self.paths[i], 0, _file_size(self.paths[i])) for i in indices]
        return _file_digest(files)

    def read(self, index: int) -> Image.Image:
        """Decode one file."""
        try:
            with open(self.paths[index], "rb") as stream:
                return decode(stream)
        except OSError as error:
            raise UnreadableImage(one_line(error)) from error


@dataclass(frozen=True, eq=False)
class TarImages:
    """The image files in a tar file, sorted by name; no member is ever written to the disk."""

    description: str
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    path: Path
    spans: Sequence[tuple[int, int]]
    """Where the bytes of each image lie in the tar file: (offset, size)."""

    @property
    def input_shape(self) -> None:
        """Pictures are preprocessed for each model."""

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of member names, sizes and contents, see `_file_digest`."""
        return _file_digest([(self.ids[i], self.path, *self.spans[i]) for i in indices])

    def read(self, index: int) -> Image.Image:
        """Decode one member."""
        offset, size = self.spans[index]
        try:
            with open(self.path, "rb") as archive:
                archive.seek(offset)
                content = archive.read(size)
        except OSError as error:
            raise UnreadableImage(one_line(error)) from error
        return decode(io.BytesIO(content))


def open_folder(folder: Path, name: str) -> FolderImages:
    """Return the images under `folder`, which the user called `name`.

    Links to folders are followed, but not in circles; hidden files and folders are passed over.

    Raises:
        DataError: the folder cannot be listed, or holds no images.
    """
    found = {_printable(relative): relative for relative in _walk(folder)}
    if not found:
        raise DataError(f"no images in {name} or below: none ends in {' '.join(IMAGE_SUFFIXES)}")
    ids = sorted(found)
    labels, classes = _class_folders(ids)
    return FolderImages(name, ids, labels, classes, [str(folder / found[id_]) for id_ in ids])


def _walk(folder: Path) -> Iterator[str]:
    """Yield the relative path of each image file, in no particular order."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, above = pending.pop()
        try:
            status = os.stat(folder / relative)
            entries = list(os.scandir(folder / relative))
        except OSError as error:
            if not relative:
                raise DataError(f"cannot list {folder}: {one_line(error)}") from error
            message = f"folder {relative} is left out: {one_line(error)}"
            warnings.warn(message, AnalysisWarning, stacklevel=2)
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                pending.append((path, above | {identity}))
            elif _is_image_name(path) and _is_file(entry):
                yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell files from pipes. A broken link passes: it is to be reported, not passed over."""
    with suppress(OSError):
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    return True


def _file_size(path: str) -> int:
    with suppress(OSError):
        return os.path.getsize(path)
    return -1


def _file_digest(files: Sequence[tuple[str, str | Path, int, int]]) -> Digest:
    """Return the sha256 of names, sizes and contents, in order.

    If the contents are more than `HASHED_BYTES`, only those of evenly spaced images are read: enough
    to tell another data set of the same names, without reading everything twice.

    Args:
        files: of each image its name, and where its bytes lie: path, offset, size (-1 for no file).
    """
    step = max(1, -(-sum(max(size, 0) for *_, size in files) // HASHED_BYTES))
    sha256 = _hash_lines(
        f"{name}\0{size}\0{'' if number % step else _hash_file(path, offset, size)}"
        for number, (name, path, offset, size) in enumerate(files)
    )
    contents = "all contents" if step == 1 else f"the contents of one image in {step}"
    return Digest(sha256, f"names, sizes and {contents}", whole=step == 1)


def _hash_file(path: str | Path, offset: int, size: int) -> str:
    """Return the sha256 of what lies there in a file; of nothing where it cannot be read."""
    total = hashlib.sha256()
    with suppress(OSError), open(path, "rb") as stream:
        stream.seek(offset)
        while size > 0 and (piece := stream.read(min(size, 2**20))):
            total.update(piece)
            size -= len(piece)
    return total.hexdigest()


def open_tar(path: Path, name: str) -> TarImages:
    """Return the images in a tar file; a compressed one is unpacked to a temporary tar file first.

    Raises:
        DataError: it cannot be read or unpacked, or holds no images.
    """
    plain = path if path.suffix.lower() == ".tar" else _decompress(path, name)
    try:
        spans = _image_spans(plain)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{name} cannot be read as a tar file: {one_line(error)}") from error
    if not spans:
        raise DataError(f"no images in {name}: no member ends in {' '.join(IMAGE_SUFFIXES)}")
    ids = sorted(spans)
    labels, classes = _class_folders(ids)
    source = TarImages(name, ids, labels, classes, plain, [spans[id_] for id_ in ids])
    if plain != path:
        weakref.finalize(source, _remove, plain, os.getpid())
    return source


def _image_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each image lies in a tar file; of members with one name, the last counts."""
    images: dict[str, tuple[int, int]] = {}
    spans: dict[str, tuple[int, int]] = {}  # of all files: a hard link may name any of them
    with tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            # tarfile keeps each header it has read, 1 KB per image.
            archive.members = []  # type: ignore[attr-defined]
            if member.islnk() and member.linkname in spans:
                spans[member.name] = spans[member.linkname]
            elif member.isreg():
                spans[member.name] = (member.offset_data, member.size)
            else:
                continue
            parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
            if _is_image_name(member.name) and not any(part.startswith(".") for part in parts):
                images[_printable("/".join(parts))] = spans[member.name]
    return images


def _decompress(path: Path, name: str) -> Path:
    """Return a temporary tar file: a compressed one has no random access."""
    import bz2
    import gzip
    import lzma

    openers: dict[str, Callable[..., Any]] = {".bz2": bz2.open, ".xz": lzma.open}
    handle, temporary = tempfile.mkstemp(prefix="refiner-cka-", suffix=".tar")
    try:
        packed = openers.get(path.suffix.lower(), gzip.open)(path, "rb")
        with packed, open(handle, "wb") as target:
            shutil.copyfileobj(packed, target, 2**20)
    except BaseException as error:
        os.remove(temporary)
        if not isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError):
            raise
        raise DataError(
            f"{name} cannot be unpacked into {tempfile.gettempdir()}: {one_line(error)}; "
            "unpack it and give the .tar, or set TMPDIR to a larger disk"
        ) from error
    return Path(temporary)


def _remove(path: Path, owner: int) -> None:
    """Remove a temporary file, unless this is a worker that was forked from its owner."""
    if os.getpid() == owner:
        path.unlink(missing_ok=True)


def _is_image_name(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def _class_folders(ids: Sequence[str]) -> tuple[list[int] | None, tuple[str, ...] | None]:
    """Return labels and class names: the first-level folders, if every image lies in one.

    A folder that wraps all the others (`val` of `val/cat/1.jpg`, `val/dog/2.jpg`) is passed over.
    """
    folders = [id_.split("/")[:-1] for id_ in ids]
    level = 0
    while all(len(f) > level + 1 for f in folders) and len({f[level] for f in folders}) == 1:
        level += 1
    if any(len(f) <= level for f in folders):
        return None, None
    classes = tuple(sorted({f[level] for f in folders}))
    index = {name: label for label, name in enumerate(classes)}
    return [index[f[level]] for f in folders], classes


# --------------------------------------------------------------------------- arrays


class Rows(Protocol):
    """An array of images, or a file that behaves like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __getitem__(self, index: int | slice, /) -> NDArray[Any]:
        """Return one image, or several with the images first."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in an array, in its order."""

    description: str
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    rows: Rows

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one row if the rows are floating inputs, `None` if they are pictures."""
        return self.rows.shape[1:] if np.issubdtype(self.rows.dtype, np.floating) else None

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of type, shape, indices and all values."""
        chosen = list(indices)
        rows = _hash_rows(self.rows, chosen)
        kind = f"{self.rows.dtype.str} {self.rows.shape[1:]}"
        sha256 = _hash_lines([kind, *(f"{self.ids[i]}\0{rows[i]}" for i in chosen)])
        return Digest(sha256, "type, shape and all values", whole=True)

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return one row: an image, or a floating tensor as it is."""
        try:
            row = self.rows[index]
        except OSError as error:
            raise UnreadableImage(one_line(error)) from error
        return _image_or_input(row)


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


def _hash_rows(rows: Rows, wanted: Iterable[int]) -> dict[int, str]:
    """Return the sha256 of each wanted row; of nothing for one that cannot be read.

    Rows are read in the order of the file and many at a time: one by one, in the order of a run, a
    compressed file would be unpacked over and over.
    """
    found: dict[int, str] = {}
    for within in _runs(sorted(set(wanted)), rows):
        first, after = within[0], within[-1] + 1
        try:
            block: Sequence[NDArray[Any]] | NDArray[Any] = rows[first:after]
        except OSError:  # a damaged part of the file: its other rows can be read
            block = [_row_or_nothing(rows, index) for index in range(first, after)]
        for index in within:
            values = np.ascontiguousarray(block[index - first])
            found[index] = hashlib.sha256(values.data).hexdigest()
    return found


def _runs(order: Sequence[int], rows: Rows) -> Iterator[list[int]]:
    """Yield ascending indices in runs that are worth reading as one block of rows."""
    size = rows.dtype.itemsize * math.prod(rows.shape[1:])
    at_once = max(1, _BLOCK_BYTES // size)
    run: list[int] = []
    for index in order:
        if run and (index - run[-1] > _GAP_ROWS or index - run[0] >= at_once):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _row_or_nothing(rows: Rows, index: int) -> NDArray[Any]:
    with suppress(OSError):
        return rows[index]
    return np.empty(0)


DIGITS = {
    "digits": slice(None),
    "digits-train": slice(1437),
    "digits-test": slice(1437, None),
}
"""Names of the embedded digits: all, and the fixed split into those to train on and those held out."""


def digits(name: str = "digits") -> ArrayImages:
    """Return the embedded UCI handwritten digits, 8 x 8 pixels, labelled 0 to 9.

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


def open_array(rows: Rows, name: str, labels: NDArray[Any] | None = None) -> ArrayImages:
    """Return the images in an array.

    Raises:
        DataError: its type or shape is none that `open_source` lists.
    """
    _check_rows(rows, name)
    ids = [str(index) for index in range(rows.shape[0])]
    if labels is None:
        return ArrayImages(name, ids, None, None, rows)
    flat = labels.reshape(-1)
    if flat.shape != rows.shape[:1] or flat.dtype.kind not in "iuU":
        held = f"{labels.dtype} {labels.shape}"
        message = f"labels in {name} are left out: {held} is not one integer or text per image"
        warnings.warn(message, AnalysisWarning, stacklevel=2)
        return ArrayImages(name, ids, None, None, rows)
    values, indices = np.unique(flat, return_inverse=True)
    return ArrayImages(name, ids, indices.tolist(), tuple(map(str, values)), rows)


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
            return open_array(arrays[images], name, arrays[labels] if labels else None)


def _npy_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """Return the shape of an array in an `.npz` file without reading the array."""
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)[0]
        return np.lib.format.read_array_header_2_0(stream)[0]


def open_npy(path: Path, name: str) -> ArrayImages:
    """Return the images in an `.npy` file, read row by row.

    Raises:
        DataError: it is damaged, or not an array of images.
    """
    with _array_file(name):
        array = np.load(path, mmap_mode="r")
        _choose_arrays({"images": array.shape}, name)
        return open_array(_NpyRows(path, array.shape, array.dtype), name)


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
        return open_array(rows, name, np.asarray(file[labels]) if labels else None)


@contextmanager
def _array_file(name: str) -> Iterator[None]:
    """Make one line of what NumPy and h5py raise on a damaged or pickled file."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{name} cannot be read as an array file: {one_line(error)}") from error


def _choose_arrays(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[str, str | None]:
    """Return which array holds the images and which, if any, the labels."""
    stacks = [key for key, shape in shapes.items() if len(shape) in (3, 4)]
    named = [key for key in _IMAGE_NAMES if key in stacks]
    if not named and len(stacks) != 1:
        held = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:8]) or "nothing"
        raise DataError(
            f"{name} must hold images in an array named {', '.join(_IMAGE_NAMES)}, or in its only "
            "array of shape (images, height, width[, channels]) or (images, channels, height, "
            f"width); it holds {held}{', ...' if len(shapes) > 8 else ''}"
        )
    return (named or stacks)[0], next((key for key in _LABEL_NAMES if key in shapes), None)


def _check_rows(rows: Rows, name: str) -> None:
    """Refuse what is neither images nor inputs of a model."""
    shape, dtype = rows.shape, rows.dtype
    problem = None
    if len(shape) < 2 or 0 in shape:
        problem = "holds no images: the first axis counts them"
    elif dtype.kind == "f":
        return  # inputs of any shape: `images.check_channels` knows what the models take
    elif dtype not in (np.uint8, np.uint16):
        problem = "has no usable type: give uint8 or uint16 images, or floating inputs"
    elif len(shape) != 3 and (len(shape) != 4 or not {shape[1], shape[3]} & set(CHANNELS)):
        problem = (
            "must be (images, height, width[, channels]) or (images, channels, height, width) "
            "with 1, 3 or 4 channels"
        )
    if problem:
        raise DataError(f"{name}: the array {dtype} {shape} {problem}")


def _image_or_input(row: NDArray[Any]) -> Image.Image | torch.Tensor:
    """Return one image as RGB, or one floating input as a float32 tensor."""
    if row.dtype.kind != "f":
        return array_to_rgb(row)
    with np.errstate(over="ignore"):  # it becomes an infinity, and that is refused
        values = row.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableImage("holds a NaN or an infinity")
    return torch.from_numpy(values)


def tensor_to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array; floating ones as float32 (NumPy has no bfloat16)."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


# ------------------------------------------------------------------- torch data sets


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """A map-style torch data set of images, or of tuples that begin with the image.

    Labels and classes are its attributes `targets` and `classes`, as torchvision's data sets have.
    """

    dataset: Any

    @property
    def description(self) -> str:
        """Type and length."""
        return f"a {type(self.dataset).__name__} of {len(self.dataset)} images"

    @property
    def ids(self) -> Sequence[str]:
        """Indices."""
        return [str(index) for index in range(len(self.dataset))]

    @property
    def labels(self) -> Sequence[int] | None:
        """One integer per image, if the data set has them and names the classes."""
        targets = getattr(self.dataset, "targets", None)
        if targets is None or self.classes is None or len(targets) != len(self.dataset):
            return None
        return [int(target) for target in targets]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names, if the data set has them."""
        names = getattr(self.dataset, "classes", None)
        return None if names is None else tuple(map(str, names))

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the first readable item if it is a floating input, `None` if it is a picture."""
        for index in range(len(self.dataset)):
            with suppress(UnreadableImage):
                item = self.read(index)
                return tuple(item.shape) if isinstance(item, torch.Tensor) else None
        return None

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of type, length and indices: the images may be made on demand."""
        kind = f"{type(self.dataset).__module__}.{type(self.dataset).__qualname__}"
        sha256 = _hash_lines([kind, str(len(self.dataset)), *map(str, indices)])
        covers = "type, length and transform of the data set, not its images"
        return Digest(sha256, covers, whole=False, transform=_transform(self.dataset))

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return one item's image; an item that raises is unreadable."""
        try:
            item = self.dataset[index]
        except Exception as error:
            raise UnreadableImage(f"{type(error).__name__}: {one_line(error)}") from error
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, Image.Image):
            check_size(*image.size)
            return to_rgb(image)
        row = tensor_to_numpy(image) if isinstance(image, torch.Tensor) else np.asarray(image)
        try:
            _check_rows(row[np.newaxis], "an item")
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        return _image_or_input(row)


# -------------------------------------------------------------------------- helpers


def _transform(dataset: Any) -> str | None:
    """Return what a torch data set says of its own transform, in one line of at most 1,000 characters.

    torchvision's data sets have it as `transform`, some as `transforms`; a `Subset` has it inside.
    """
    while dataset is not None:
        for name in ("transform", "transforms"):
            if (transform := getattr(dataset, name, None)) is not None:
                # An address would be another in every process.
                text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))
                return _printable(" ".join(text.split()))[:1000]
        dataset = getattr(dataset, "dataset", None)
    return None


def _hash_lines(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(f"{line}\n".encode())
    return total.hexdigest()


def _printable(name: str) -> str:
    """Return a file name fit for messages: control characters and stray bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
