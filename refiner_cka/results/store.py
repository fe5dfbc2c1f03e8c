"""An HDF5 file that is written whole and read with suspicion: arrays, texts, scalar attributes, a digest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ResultError, ResultFileError, one_line
from .atomic import write_whole

_DEPTH = 64
"""Groups deeper than this are refused: HDF5 takes minutes to visit some thousand levels."""


def write(path: str | Path, fill: Callable[[h5py.File], None]) -> None:
    """Write an HDF5 file with a digest of its contents, whole or not at all.

    Args:
        path: where to.
        fill: writes the contents.

    Raises:
        ResultFileError: the file cannot be written.
    """
    # Built in memory: HDF5 on a full disk fails in ways that leave the library unusable.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
        file.attrs["digest"] = Store(file).digest()
    write_whole(path, buffer.getbuffer())


@contextmanager
def opened(path: str | Path) -> Iterator[Store]:
    """Open a file to read from it.

    Raises:
        ResultFileError: no such file; not HDF5; damaged, whatever is raised while it is read.
    """
    _refuse_other_files(Path(path))
    try:
        # Through Python, without locks: files are replaced, never changed; network file systems may lack locks;
        # and HDF5 refuses a file that another package of this process, such as xarray, has opened with them.
        with Path(path).open("rb") as raw, h5py.File(raw, "r") as file:
            yield Store(file, str(path))
    except ResultFileError:
        raise
    except ResultError as error:
        raise ResultFileError(f"{path}: {error}; the file is damaged, analyse again") from error
    except Exception as error:  # h5py has no list of what a damaged file makes it raise
        raise ResultFileError(
            f"{path} is damaged or truncated ({one_line(error)}); analyse again"
        ) from error


class Store:
    """An open file, from which nothing but numbers, strings and JSON is taken."""

    def __init__(self, file: h5py.File, name: str = "") -> None:
        self._file = file
        self.name = name

    def fault(self, path: str, what: str) -> ResultFileError:
        """Return the refusal of a file in which something is wrong."""
        return ResultFileError(f"{self.name}: {path} {what}; the file is damaged, analyse again")

    def has(self, attribute: str) -> bool:
        """Return whether the root has an attribute."""
        return attribute in self._file.attrs

    def contains(self, path: str) -> bool:
        """Return whether there is a group or dataset of this path."""
        return path in self._file

    def marked(self, attribute: str) -> list[str]:
        """Return the paths of the groups and datasets that have a scalar attribute, in ascending order."""
        return sorted(path for path in self._paths() if _is_scalar(self._file[path], attribute))

    def numbers(
        self, path: str, dtype: type[np.generic], shape: tuple[int, ...] | None = None
    ) -> npt.NDArray[Any]:
        """Return a dataset of exactly this type, and of this shape if one is given."""
        dataset = self._dataset(path)
        if dataset.dtype != dtype:
            raise self.fault(path, f"is {dataset.dtype}, not {np.dtype(dtype)}")
        if shape not in (None, dataset.shape):
            raise self.fault(path, f"has shape {dataset.shape}, not {shape}")
        values: npt.NDArray[Any] = dataset[()]
        return values

    def texts(self, path: str, count: int | None = None) -> tuple[str, ...]:
        """Return a dataset of strings, of which there must be `count` if that is given."""
        dataset = self._dataset(path)
        info = h5py.check_string_dtype(dataset.dtype)
        if info is None or info.length is None or len(dataset.shape) != 1:
            raise self.fault(path, "is not a list of fixed-length strings")
        if count not in (None, len(dataset)):
            raise self.fault(path, f"has {len(dataset)} entries, not {count}")
        return tuple(text.decode("utf-8", "surrogateescape") for text in dataset[()].tolist())

    def attribute(self, name: str, kind: type, path: str = "") -> Any:
        """Return a scalar attribute of this type; of the root if no path is given."""
        value = self._scalar(self._node(path), name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault(_named(name, path), f"is {value!r}, not {kind.__name__}")
        return value

    def json(self, name: str, path: str) -> Any:
        """Return an attribute that `to_attribute` made."""
        value = self._scalar(self._node(path), name)
        return json.loads(value) if isinstance(value, str) and not _is_plain(value) else value

    def attributes(self, path: str) -> dict[str, Any]:
        """Return all attributes of a group, each made by `to_attribute`, in their order."""
        return {name: self.json(name, path) for name in self._node(path).attrs}

    def check_digest(self) -> None:
        """Refuse contents that are not those that were written."""
        if self.attribute("digest", str) != self.digest():
            raise self.fault("attribute digest", "is not that of the contents")

    def digest(self) -> str:
        """Return the SHA-256 of all datasets and scalar attributes, each with its path, in order of the paths.

        Whatever changed a file after it was written shows in it, also where no number contradicts another.
        """
        total = hashlib.sha256()
        for path in sorted(["/", *self._paths()]):
            node = self._file[path]
            for name in sorted(node.attrs):
                if (path, name) != ("/", "digest") and _is_scalar(node, name):
                    value = json.dumps(self._scalar(node, name))
                    total.update(f"{path}\0{name}\0{value}\n".encode())
            if isinstance(node, h5py.Dataset):
                values = self._dataset(path)[()]
                total.update(f"{path}\0{node.dtype.str}\0{node.shape}\n".encode())
                total.update(np.ascontiguousarray(values).tobytes())
        return total.hexdigest()

    def _paths(self) -> list[str]:
        """Return the paths of all groups and datasets, reached through hard links."""
        paths: list[str] = []

        def collect(path: str) -> str | None:
            paths.append(path)
            return path if path.count("/") >= _DEPTH else None  # what is not None ends the visit

        if deep := self._file.visit(collect):
            raise self.fault(f"{deep[:40]}...", f"lies more than {_DEPTH} levels deep")
        return paths

    def _node(self, path: str) -> Any:
        """Return a group or dataset that lies in this very file, reached through no link to elsewhere."""
        node: Any = self._file
        for name in filter(None, path.split("/")):
            if not isinstance(node, h5py.Group) or name not in node:
                raise self.fault(path, "is missing")
            if not isinstance(node.get(name, getlink=True), h5py.HardLink):
                raise self.fault(path, "is a link to elsewhere")
            node = node[name]
        return node

    def _dataset(self, path: str) -> h5py.Dataset:
        """Return a dataset that is safe to read: its numbers lie in this file, as many as it declares."""
        dataset = self._node(path)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise self.fault(path, "is not a dataset")
        if dataset.is_virtual or dataset.external or dataset.id.get_create_plist().get_nfilters():
            raise self.fault(path, "is virtual, external or compressed")
        if dataset.nbytes > self._file.id.get_filesize():
            raise self.fault(path, f"declares {dataset.nbytes} bytes, more than the file has")
        return dataset

    def _scalar(self, node: h5py.Group, name: str) -> str | bool | int | float:
        where = _named(name, node.name.strip("/"))
        if name not in node.attrs:
            raise self.fault(where, "is missing")
        value = node.attrs[name] if _is_scalar(node, name) else None
        if isinstance(
            value, np.bytes_
        ):  # of fixed length, as the HDF5 library writes those of scales
            value = value.decode("utf-8", "surrogateescape")
        if not isinstance(value, str | np.bool_ | np.integer | np.floating):
            raise self.fault(where, "is not one string, number or truth value")
        return value if isinstance(value, str) else value.item()


def _is_scalar(node: Any, attribute: str) -> bool:
    return attribute in node.attrs and node.attrs.get_id(attribute).shape == ()


def _named(attribute: str, path: str) -> str:
    return f"attribute {attribute} of {path}" if path else f"attribute {attribute}"


def write_texts(file: h5py.File, path: str, texts: Iterable[str]) -> None:
    """Write strings as a dataset, in the way of netCDF said to be UTF-8 where they all are."""
    values = encoded(texts)
    file[path] = values
    if all(_is_utf8(value) for value in values.tolist()):
        file[path].attrs["_Encoding"] = "utf-8"


def encoded(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return strings as fixed-length UTF-8, so that a dataset takes no more memory than it declares."""
    # File names need not be UTF-8; Python carries their bytes in surrogates.
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max([1, *map(len, raw)])
    return np.array(raw, dtype=h5py.string_dtype("utf-8", width))


def to_attribute(value: Any) -> Any:
    """Return scalars as they are and everything else as JSON text; `Store.json` is the inverse."""
    plain = isinstance(value, bool | int | float) or (isinstance(value, str) and _is_plain(value))
    return value if plain else json.dumps(value)


def _is_plain(text: str) -> bool:
    """Return whether a string is stored as it is: HDF5 can hold it and it does not look like JSON."""
    if text.startswith(("{", "[", '"')) or text == "null" or "\0" in text:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_other_files(path: Path) -> None:
    try:
        if path.is_dir():
            raise ResultFileError(f"{path} is a folder; name the .h5 file in it")
        if path.exists() and not path.is_file():
            raise ResultFileError(f"{path} is a pipe or a device, not the .h5 file of an analysis")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ResultFileError(f"no such file: {path}") from error
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {one_line(error)}") from error
    if not h5py.is_hdf5(path):
        raise ResultFileError(f"{path} is not an HDF5 file; give the .h5 file of an analysis")
