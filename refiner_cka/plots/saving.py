"""Writing figures: whole or not at all, and equal figures as equal bytes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..errors import ResultError
from ..results.atomic import write_whole
from . import fonts, measuring
from .style import lay_out, stay

FORMATS = {
    "pdf": ("Creator", "Producer", "CreationDate"),
    "png": ("Software",),
    "svg": ("Creator", "Date"),
}
"""Suffix -> what the format would say that changes from run to run: dates, versions of matplotlib."""

_WRITING: dict[str, dict[str, Any]] = {"png": {"pil_kwargs": {"compress_level": 3}}}
"""Suffix -> how it is written: PNGs a tenth larger than could be, in half the time."""


def check_format(path: str | Path) -> str:
    """Return the format that a file's suffix names.

    Raises:
        ResultError: none that figures are written in.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise ResultError(f"{path}: a figure is written as {names}; name a file that ends so")
    return suffix


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format of the suffix: pdf, svg or png of 300 dots an inch.

    Raises:
        ResultError: another suffix.
        ResultFileError: the file cannot be written.
    """
    kind = check_format(path)
    with _laid_out(figure):
        return _write(figure, Path(path), kind)


def _write(figure: Figure, path: Path, kind: str) -> Path:
    buffer = io.BytesIO()
    with fonts.embedded() if kind == "pdf" else contextlib.nullcontext():
        metadata = dict.fromkeys(FORMATS[kind])
        figure.savefig(buffer, format=kind, dpi=300, metadata=metadata, **_WRITING.get(kind, {}))
    write_whole(path, buffer.getvalue())
    return path


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay a figure out once: matplotlib does so twice for each file, which takes most of the time."""
    engine = figure.get_layout_engine()
    with measuring.once():
        lay_out(figure)
        stay(figure)
        try:
            yield
        finally:
            figure.set_layout_engine(engine)


def save_figure(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as `stem.pdf` and `stem.png`, each whole or not at all; equal figures, equal bytes.

    Raises:
        ResultFileError: a file cannot be written.
    """
    with _laid_out(figure):
        pdf, png = (_write(figure, Path(f"{stem}.{kind}"), kind) for kind in ("pdf", "png"))
    return pdf, png
