"""`refiner-cka export`: a result as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, options, output


def export(
    file: options.ResultFile,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="What to write; .csv, .json, .npz or .tex.")
    ],
) -> None:
    """Write a result as CSV, JSON, NumPy or LaTeX, by the suffix of OUT."""
    rc.results.export(output.load(file), out)
    console.note(f"wrote {out}")
