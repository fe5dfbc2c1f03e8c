"""Where results and figures are written, and printing what was found."""

from __future__ import annotations

import errno
import glob
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from filelock import FileLock, Timeout

import refiner_cka as rc

from . import console

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a system answers whose file system has no locks, such as NFS without its daemon for them."""


@dataclass(frozen=True)
class Target:
    """Where a process of a run writes.

    The first process writes `<folder>/<stem>.h5`, and until then `<stem>.partial.h5`; process N of several
    `<stem>.partial-N.h5`.
    """

    folder: Path
    stem: str
    overwrite: bool
    rank: int = 0

    @property
    def path(self) -> Path:
        """The complete result."""
        return self.folder / f"{self.stem}.h5"

    @property
    def partial(self) -> Path:
        """What this process leaves when it is interrupted."""
        return self.folder / f"{self.stem}.partial{self._number}.h5"

    @property
    def partials(self) -> list[Path]:
        """What the processes of an interrupted run left here, however many they were."""
        pattern = f"{glob.escape(self.stem)}.partial*.h5"
        name = re.compile(rf"{re.escape(self.stem)}\.partial(-\d+)?\.h5")
        return sorted(path for path in self.folder.glob(pattern) if name.fullmatch(path.name))

    @property
    def _number(self) -> str:
        return f"-{self.rank}" if self.rank else ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes this part. The lock goes with the process, however it ends.

        Raises:
            ResultFileError: another run is writing here.
        """
        path = self.folder / f".{self.stem}{self._number}.lock"
        with ExitStack() as stack:
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                # Nothing is left behind, not even a folder that stayed empty.
                stack.callback(self._remove_if_empty)
            try:
                # A marker file in place of a lock would outlive a process that is killed.
                stack.enter_context(FileLock(path, timeout=0, fallback_to_soft=False))
            except Timeout:
                raise rc.ResultFileError(
                    f"another run is writing to {self.path}: wait for it, or use another --out"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise rc.ResultFileError(
                        f"cannot write {path}: {error.strerror}; name another --out"
                    ) from error
                console.warning(
                    f"the file system of {self.folder} has no locks ({error.strerror}): the run goes on, but a "
                    "second one into the same place would not be noticed"
                )
            stack.callback(path.unlink, missing_ok=True)
            yield

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.folder.rmdir()

    def check(self, analysis: rc.Analysis | rc.Result, *, resume: bool = False) -> None:
        """Refuse to replace the result, complete or interrupted, of another run than this one.

        Raises:
            ResultFileError: a file there is of another analysis or of another tool; or there is an
                interrupted run that would be lost.
        """
        if self.overwrite:
            return
        partials = self.partials
        for path in (self.path, *partials):
            if path.exists() and (found := _other(path, analysis)):
                raise rc.ResultFileError(
                    f"{path} holds {found}; use another --out, or --overwrite to replace it"
                )
        if partials and not resume:
            raise rc.ResultFileError(
                f"{partials[0]} holds this run, interrupted: go on with --resume, or start anew "
                "with --overwrite"
            )

    def check_batches(self, result: rc.Result) -> None:
        """Refuse to replace a result by one that lacks some of its batches, or is of other pixels.

        Raises:
            ResultFileError: the file there holds more, or its batches saw other pixels.
        """
        if self.overwrite or not self.path.exists():
            return
        there = rc.load(self.path)
        missing = set(there.batches.tolist()) - set(result.batches.tolist())
        found = f"holds {len(missing)} batches that the new result lacks" if missing else ""
        if other := there.other_pixels(result):
            found = f"holds this run over other images: {other}"
        if found:
            raise rc.ResultFileError(
                f"{self.path} {found}; use another --out, or --overwrite to replace it"
            )

    def measured(self, analysis: rc.Analysis) -> rc.Result | None:
        """Return what this run has measured before: what its processes left, however many, or all of it."""
        paths = [path for path in (self.path, *self.partials) if path.exists()]
        found = [rc.load(path) for path in paths if not _other(path, analysis)]
        parts: list[rc.Result] = []
        # A part that another one went on from lies in that one, which is larger.
        for result in sorted(found, key=lambda each: -len(each.batches)):
            if not any({*result.batches.tolist()} & {*part.batches.tolist()} for part in parts):
                parts.append(result)
        return rc.merge(parts) if parts else None

    def remove_partials(self) -> None:
        """Remove what the processes of an interrupted run left."""
        for path in self.partials:
            path.unlink(missing_ok=True)

    def save(self, result: rc.Result) -> None:
        """Write the result, and only then remove what an interrupted run left.

        Raises:
            ResultFileError: it cannot be written, or must not replace what is there; the message says
                where it was saved instead.
        """
        try:
            self.check_batches(result)
            try:
                result.save(self.path)
            except KeyboardInterrupt:
                result.save(self.path)
                raise
        except rc.ResultFileError as error:
            refuge = self.save_elsewhere(result)
            raise rc.ResultFileError(
                f"{error}; nothing is lost: the result is in {refuge}"
            ) from error
        self.remove_partials()

    def save_elsewhere(self, result: rc.Result) -> Path:
        """Write a result into a new folder that nobody else can have prepared, and return where it is."""
        path = Path(tempfile.mkdtemp(prefix="refiner-cka-")) / self.path.name
        result.save(path)
        return path


class Kept:
    """What a process has saved while it is measuring.

    Attributes:
        result: the newest that was saved; `None` before the first.
    """

    def __init__(self, target: Target) -> None:
        self.result: rc.Result | None = None
        self._target = target
        self._path = target.partial

    def save(self, result: rc.Result) -> None:
        """Save what has been measured, elsewhere if it must be."""
        try:
            result.save(self._path)
        except rc.ResultFileError as error:
            try:
                self._path = self._target.save_elsewhere(result)
            except (rc.ResultFileError, OSError):
                # No reason to end a run that may find room before it is done.
                console.warning(f"{error}, nor can it be saved elsewhere: the run is not saved")
                return
            console.warning(f"{error}; it is saved in {self._path} instead")
        self.result = result

    def report(self, world: int = 1) -> str:
        """Return how much was measured, where it is and how to go on; it follows a verb.

        Args:
            world: how many processes measured, each of which keeps its own part.
        """
        if self.result is None and world == 1:
            return "before the first batch was measured; nothing to save"
        if self._path != self._target.partial:
            moved = f"to go on, move it to {self._target.partial}"
            return f"{self._done()}, saved in {self._path}; {moved}"
        if world > 1:
            pattern = self._target.folder / f"{self._target.stem}.partial*.h5"
            return f"{self._done()} in this process; what all {world} measured is in {pattern}: {_AGAIN}"
        arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
        again = shlex.join(["refiner-cka", *arguments, "--resume"])
        return f"{self._done()}, saved in {self._path}; go on with: {again}"

    def _done(self) -> str:
        if self.result is None:
            return "before the first batch"
        return f"after {len(self.result.batches)} of {self.result.total_batches} batches"


_AGAIN = "go on with the same command and --resume, in as many processes as you like"


def load(file: Path) -> rc.Result:
    """Return a result, and say of an unfinished one how much it holds."""
    result = rc.load(file)
    if not result.complete:
        console.warning(
            f"{file} is unfinished: it holds {len(result.batches)} of {result.total_batches} batches, "
            f"{result.images} images"
        )
    return result


def _other(path: Path, analysis: rc.Analysis | rc.Result) -> str:
    """Return what a file holds instead of a part of this analysis, and what differs; nothing if it is one."""
    try:
        there = rc.load(path)
    except rc.ResultFileError:
        return "no result of this tool, or a damaged one"
    if there.fingerprint == analysis.fingerprint:
        return ""
    found = rc.results.differences(there.provenance, analysis.provenance)
    return f"another run: {found}" if found else "another run"


def tell(
    target: Target,
    result: rc.Result,
    *,
    normalize: rc.results.Normalize,
    draw: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw the figures of a saved result, and print what was found.

    Raises:
        ResultFileError: a figure cannot be written; what could be is, and what was found is printed.
    """
    files, failure = [target.path], None
    try:
        if draw:
            # In this process alone: threads that measured do not stand a fork.
            files += rc.plots.save_figures(result, target.folder, normalize=normalize)
    except rc.ResultFileError as error:
        failure = error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted while figures were drawn; {_complete(target)}"
        ) from None
    print_summary(result, as_json=as_json, files=files, quiet=quiet)
    if failure is not None:
        raise rc.ResultFileError(f"{failure}; {_complete(target)}")


def _complete(target: Target) -> str:
    again = shlex.join(["refiner-cka", "plot", str(target.path)])
    return f"the result is complete and safe in {target.path}: draw it with `{again} --out FOLDER`"


def print_summary(
    result: rc.Result, *, as_json: bool, files: list[Path], quiet: bool = False
) -> None:
    """Print what was found on stdout, and where it is on stderr."""
    summary = rc.summarize(result)
    if as_json:
        typer.echo(
            json.dumps({**summary.as_dict(), "files": [str(path) for path in files]}, indent=2)
        )
        return
    for table in summary.tables:
        console.table(table.headers, table.rows)
    for sentence in summary.sentences:
        console.sentence(sentence)
    if files and not quiet:
        console.note(written(files))


def written(files: list[Path]) -> str:
    """Return the line that says what was written and where."""
    results = [path.name for path in files if path.suffix == ".h5"]
    stems = [*dict.fromkeys(path.stem for path in files if path.suffix != ".h5")]
    figures = "figure" if len(stems) == 1 else "figures"
    drawn = [f"the {figures} {rc.errors.some(stems, 4)} (PDF and PNG)"] if stems else []
    return f"wrote {' and '.join([*results, *drawn])} to {files[0].parent}"


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested provenance as `(dotted name, text)` pairs; models go by their names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(item.get("name", index)): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        return [
            pair
            for key, item in value.items()
            for pair in flatten(item, f"{prefix}.{key}" if prefix else key)
        ]
    return [(prefix, value if isinstance(value, str) else json.dumps(value))]
