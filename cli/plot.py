"""`refiner-cka plot`: the figures of a result, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, options, output


def plot(
    file: options.ResultFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures; the file's own by default.")
    ] = None,
    normalize: options.NormalizeOption = options.Normalize.first_last,
    quiet: options.Quiet = False,
) -> None:
    """Draw the figures of a result again, as PDF and PNG."""
    folder = file.parent if out is None else out
    written = output.save_figures(rc.load(file), folder, normalize=normalize.value)
    if not quiet:
        console.note("wrote " + ", ".join(str(path) for path in written))
