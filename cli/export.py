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
        Path,
        typer.Argument(
            metavar="OUT",
            help="What to write: .csv, every number along depth; .pairs.csv, every pair of layers; .json, "
            "everything but the sums; .npz, the arrays; .tex, a table for a paper.",
        ),
    ],
) -> None:
    """Write a result as a table, by the suffix of OUT: .csv, .pairs.csv, .json, .npz or .tex."""
    rc.results.export(output.load(file), out)
    console.note(f"wrote {out}")
