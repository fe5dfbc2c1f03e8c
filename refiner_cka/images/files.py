"""Image files: those of a folder, and what they have in common with those inside a tar file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ..errors import DataError, one_line, printable, warn
from .decoding import decode
from .source import Digest, UnreadableImage

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""What the names of image files end in, in small or large letters."""

HASHED_BYTES = 2**30
"""So many bytes of image files are hashed; of more a sample of about this size."""

Place = tuple[str | Path, int, int | None]
"""Where the bytes of an image lie: in which file, from which byte on, how many; `None` for all there are."""


class FileImages:
    """Pictures in files, sorted by name, with folders as classes.

    The classes are the folders of the first level, if every image lies in one. A folder that wraps
    all the others (`val` of `val/cat/1.jpg`, `val/dog/2.jpg`) is passed over.
    """

    input_shape = None

    def __init__(self, description: str, places: Mapping[str, Place]) -> None:
        """Take the images by name: a relative path with `/` between folders."""
        self.description = description
        self.ids = sorted(places)
        self.places = [places[id_] for id_ in self.ids]
        self.labels, self.classes = _class_folders(self.ids)

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of names, sizes and contents, in order.

        If the contents are more than `HASHED_BYTES`, only those of evenly spaced images are read:
        enough to tell another data set of the same names, without reading everything twice.
        """
        chosen = [(self.ids[index], *self.places[index]) for index in indices]
        files = [
            (name, path, offset, _file_size(path) if size is None else size)
            for name, path, offset, size in chosen
        ]
        step = max(1, -(-sum(max(size, 0) for *_, size in files) // HASHED_BYTES))
        lines = (
            f"{name}\0{size}\0{'' if number % step else _hash(path, offset, size)}"
            for number, (name, path, offset, size) in enumerate(files)
        )
        contents = "all contents" if step == 1 else f"the contents of one image in {step}"
        return Digest.of(lines, f"names, sizes and {contents}", whole=step == 1)

    def read(self, index: int) -> Image.Image:
        """Decode one image."""
        return self._decoded(index)

    def read_reduced(self, index: int, at_least: int) -> Image.Image:
        """Decode one image, a JPEG perhaps at a reduced scale."""
        return self._decoded(index, at_least)

    def _decoded(self, index: int, at_least: int | None = None) -> Image.Image:
        path, offset, size = self.places[index]
        try:
            with open(path, "rb") as stream:
                stream.seek(offset)
                return decode(stream if size is None else io.BytesIO(stream.read(size)), at_least)
        except OSError as error:
            raise UnreadableImage(one_line(error)) from error


def open_folder(folder: Path, name: str) -> FileImages:
    """Return the images under `folder`, subfolders included, which the user called `name`.

    Links to folders are followed, but not in circles; hidden files and folders are passed over.
    (timm's reader knows three suffixes, follows links in circles and sorts by absolute path.)

    Raises:
        DataError: the folder cannot be listed, or holds no images.
    """
    found = {printable(path): (os.path.join(folder, path), 0, None) for path in _walk(folder)}
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
            warn(f"folder {relative} is left out: {one_line(error)}")
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


def is_image_name(path: str) -> bool:
    """Tell whether a file of this name is taken for an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def _class_folders(ids: Sequence[str]) -> tuple[list[int] | None, tuple[str, ...] | None]:
    folders = [id_.split("/")[:-1] for id_ in ids]
    while all(len(f) > 1 for f in folders) and len({f[0] for f in folders}) == 1:
        folders = [f[1:] for f in folders]
    if not all(folders):
        return None, None
    index = {name: label for label, name in enumerate(sorted({f[0] for f in folders}))}
    return [index[f[0]] for f in folders], tuple(index)


def _file_size(path: str | Path) -> int:
    with suppress(OSError):
        return os.path.getsize(path)
    return -1


def _hash(path: str | Path, offset: int, size: int) -> str:
    """Return the sha256 of what lies there in a file; of nothing where it cannot be read."""
    total = hashlib.sha256()
    with suppress(OSError), open(path, "rb", buffering=0) as stream:
        stream.seek(offset)
        while size > 0 and (piece := stream.read(min(size, 2**20))):
            total.update(piece)
            size -= len(piece)
    return total.hexdigest()
