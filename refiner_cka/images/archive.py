"""A tar file of image files, read in place: no member is ever written to the disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, one_line, printable
from .files import IMAGE_SUFFIXES, FileImages, Place, is_image_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_OPENERS: Mapping[str, Callable[..., Any]] = {".bz2": bz2.open, ".xz": lzma.open}


def open_tar(path: Path, name: str) -> FileImages:
    """Return the images in a tar file; a compressed one is unpacked to a temporary tar file first.

    Raises:
        DataError: it cannot be read or unpacked, or holds no images.
    """
    if path.suffix.lower() == ".tar":
        return _images(path, name)
    with contextlib.ExitStack() as kept:
        unpacked = _unpack(path, name, kept)
        source = _images(unpacked, name)
        weakref.finalize(source, kept.pop_all().close)
    return source


def _images(path: Path, name: str) -> FileImages:
    """Return the images in an unpacked tar file; of members with one name, the last counts."""
    images: dict[str, Place] = {}
    files: dict[str, Place] = {}  # a hard link may name any of them
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps each header it has read, 1 KB per image.
                archive.members = []  # type: ignore[attr-defined]
                if member.islnk() and member.linkname in files:
                    files[member.name] = files[member.linkname]
                elif member.isreg():
                    files[member.name] = (path, member.offset_data, member.size)
                else:
                    continue
                parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
                if is_image_name(member.name) and not any(part[0] == "." for part in parts):
                    images[printable("/".join(parts))] = files[member.name]
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{name} cannot be read as a tar file: {one_line(error)}") from error
    if not images:
        raise DataError(f"no images in {name}: no member ends in {' '.join(IMAGE_SUFFIXES)}")
    return FileImages(name, images)


def _unpack(path: Path, name: str, kept: contextlib.ExitStack) -> Path:
    """Unpack: a compressed file has no random access. Return where the contents are while `kept` is open."""
    opener = _OPENERS.get(path.suffix.lower(), gzip.open)
    try:
        place, target = _nameless(kept) or _named(kept)
        with opener(path, "rb") as packed:
            shutil.copyfileobj(packed, target)
        target.flush()
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{name} cannot be unpacked into {tempfile.gettempdir()}: {one_line(error)}; "
            "unpack it and give the .tar, or set TMPDIR to a larger disk"
        ) from error
    return place


def _nameless(kept: contextlib.ExitStack) -> tuple[Path, IO[bytes]] | None:
    """Return a file that ends with this process, however it ends; `None` where others could not read it.

    It is in no folder. Loading processes, forked or not, open it in /proc by this process's number for it.
    """
    file = kept.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    process = Path(f"/proc/{os.getpid()}")
    place = process / "fd" / str(file.fileno())
    with contextlib.suppress(OSError), open(place, "rb") as again:
        # Not so where /proc is that of other processes, or another user's as what only root may look into.
        same = os.path.samestat(os.fstat(again.fileno()), os.fstat(file.fileno()))
        if same and process.stat().st_uid == os.geteuid():
            return place, file
    return None


def _named(kept: contextlib.ExitStack) -> tuple[Path, IO[bytes]]:
    """Return a file in the temporary folder, which is removed at the end, unless the process is killed."""
    handle, path = tempfile.mkstemp(prefix="refiner-cka-", suffix=".tar")
    kept.callback(_remove, path, os.getpid())
    return Path(path), kept.enter_context(open(handle, "wb"))


def _remove(path: str, owner: int) -> None:
    """Remove a temporary file, unless this is a worker that was forked from its owner."""
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)
