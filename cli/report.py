"""`refiner-cka report`: a result as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, options, output


def report(
    file: options.ResultFile,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The page, such as report.html; FILE with this suffix by default."
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a result as one page that needs no other file: figures to point at, tables, text for a paper."""
    page = file.with_suffix(".html") if out is None else out
    rc.report.save(output.load(file), page)
    if not quiet:
        console.note(f"wrote {page}")
