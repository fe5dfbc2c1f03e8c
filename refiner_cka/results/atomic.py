"""Writing a file whole or not at all: results, tables and figures go through here."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from ..errors import ResultFileError, one_line


def write_whole(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, replacing what was there; after any failure `path` is as it was.

    The bytes go to a temporary file in the same folder, which takes the name only when they are on the disk.
    A missing folder is made; a symbolic link keeps pointing to the file that is written.

    Raises:
        ResultFileError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    # Not `tempfile`: its files can be read by their owner alone.
    temporary = target.parent / f".refiner-cka-{secrets.token_hex(8)}.tmp"
    try:
        if target.is_dir():
            raise ResultFileError(f"{path} is a folder; name a file in it")
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        blocked = isinstance(error, FileExistsError | NotADirectoryError)
        why = f"{error.filename} is a file, not a folder" if blocked else one_line(error)
        raise ResultFileError(f"cannot write {path}: {why}; choose another place") from error
    finally:
        # It is gone already if it took its name.
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: str | Path) -> None:
    """Refuse, before any work is done, a path that `write_whole` could not write. Leaves nothing behind.

    Raises:
        ResultFileError: the folder is missing and cannot be made, or cannot be written to; a name is too long.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    # `os.path` takes a name that is too long for one that is not there.
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    if os.path.isdir(path):
        raise ResultFileError(f"{path} is a folder; name another --out")
    if not existing.is_dir():
        raise ResultFileError(f"cannot write {path}: {existing} is a file, not a folder")
    try:
        # Tried, not asked: permissions do not tell of file systems that take no files.
        with tempfile.TemporaryDirectory(prefix=".refiner-cka-", dir=existing) as temporary:
            trial = Path(temporary, target.relative_to(existing))
            trial.parent.mkdir(parents=True, exist_ok=True)
            trial.touch()
    except OSError as error:
        raise ResultFileError(
            f"cannot write {path}: {one_line(error)} in {existing}; name another --out"
        ) from error
