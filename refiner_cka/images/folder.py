"""A folder of image files.

Listed by code of our own: timm's reader knows three suffixes, follows symbolic links in circles and
sorts by absolute path.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import AnalysisWarning, DataError, one_line
from .files import IMAGE_SUFFIXES, FileImages, is_image_name
from .source import printable


def open_folder(folder: Path, name: str) -> FileImages:
    """Return the images under `folder`, subfolders included, which the user called `name`.

    Links to folders are followed, but not in circles; hidden files and folders are passed over.

    Raises:
        DataError: the folder cannot be listed, or holds no images.
    """
    found = {printable(path): (str(folder / path), 0, None) for path in _walk(folder)}
    if not found:
        raise DataError(f"no images in {name} or below: none ends in {' '.join(IMAGE_SUFFIXES)}")
    return FileImages(name, found)


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
            if entry.name.startswith("."):
                continue
            path = f"{relative}/{entry.name}" if relative else entry.name
            with suppress(OSError):  # a link to itself
                if entry.is_dir():
                    pending.append((path, above | {identity}))
                    continue
            if is_image_name(path) and _is_file(entry):
                yield path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell files from pipes. A broken link passes: it is to be reported, not passed over."""
    with suppress(OSError):
        return entry.is_file() or not os.path.exists(entry.path)
    return True
