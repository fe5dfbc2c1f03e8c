"""What images may be given as: one table, a row for each kind of source."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import DataError, one_line
from .archive import TAR_SUFFIXES, open_tar
from .array_files import DIGITS, open_digits, open_hdf5, open_npy, open_npz
from .arrays import ArrayImages, to_numpy
from .datasets import DatasetImages
from .files import open_folder
from .source import ImageSource


@dataclass(frozen=True)
class Kind:
    """One kind of source: what opens it, and what it is recognised by.

    Attributes:
        open: from what was given to a source. A function of the word, of a path and what the user
            called it, or of the object.
        words: what is written instead of a path.
        suffixes: of its files, in small letters; `/` stands for a folder.
        types: of its objects.
    """

    open: Callable[..., ImageSource]
    words: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    types: tuple[type, ...] = ()


KINDS = [
    Kind(open_digits, words=tuple(DIGITS)),
    Kind(open_folder, suffixes=("/",)),
    Kind(open_tar, suffixes=TAR_SUFFIXES),
    Kind(open_npz, suffixes=(".npz",)),
    Kind(open_npy, suffixes=(".npy",)),
    Kind(open_hdf5, suffixes=(".h5", ".hdf5")),
    Kind(
        lambda tensor: ArrayImages.of(to_numpy(tensor), f"a tensor {tuple(tensor.shape)}"),
        types=(torch.Tensor,),
    ),
    Kind(lambda array: ArrayImages.of(array, f"an array {array.shape}"), types=(np.ndarray,)),
    Kind(lambda source: source, types=(ImageSource,)),
    Kind(DatasetImages, types=(Dataset,)),
]
"""The first row that recognises what is given opens it."""


def open_source(data: object) -> ImageSource:
    """Return the images that `data` names.

    Args:
        data: the word `digits` (the embedded UCI digits; a folder of that name is `./digits`),
            `digits-train` or `digits-test` (the 1,437 to train on, the 360 held out); a folder,
            flat or with class folders; a tar file, also compressed; an `.npz`, `.npy`, `.h5` or
            `.hdf5` file that holds an array; a tensor or NumPy array; a map-style torch `Dataset`;
            or an `ImageSource`. Arrays are uint8 or uint16 images `(images, height, width[,
            channels])` or `(images, channels, height, width)` with 1, 3 or 4 channels (last,
            where both could be), or floating inputs, the images first, which are fed to the
            models as they are.

    Raises:
        DataError: there is nothing there, or nothing that can be read as images.
    """
    for kind in KINDS:
        if isinstance(data, kind.types) or (isinstance(data, str) and data in kind.words):
            return kind.open(data)
    if isinstance(data, str | os.PathLike):
        return _open_path(os.fsdecode(data))
    raise DataError(
        f"images cannot be read from a {type(data).__name__}: give {_files()}, a tensor, an array, "
        "a map-style torch Dataset or an ImageSource"
    )


def _open_path(name: str) -> ImageSource:
    try:
        path = Path(name).expanduser()
        exists = name != "" and path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise DataError(f"cannot open {name!r}: {one_line(error)}") from error
    if not exists:
        raise DataError(f"no file or folder {name!r}: {_close_names(path) or f'give {_files()}'}")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{name} is a pipe or a device, not a file: save what it gives as a file")
    ending = path.name.lower() + "/" * path.is_dir()
    for kind in KINDS:
        if ending.endswith(kind.suffixes):
            return kind.open(path, name)
    raise DataError(f"{name} is no known source of images: give {_files()}")


def _close_names(path: Path) -> str:
    """Return what is there instead of `path`, if something is called much like it."""
    candidates = [word for kind in KINDS for word in kind.words]
    with suppress(OSError):
        candidates += [name for name in os.listdir(path.parent) if name[0] != "."]
    close = difflib.get_close_matches(path.name, candidates, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _files() -> str:
    suffixes = [suffix for kind in KINDS for suffix in kind.suffixes if suffix != "/"]
    return f"a folder or a file ({' '.join(suffixes)})"
