"""`refiner-cka merge`: the parts of a run, added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import options, output


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Results of the parts of one run.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged result and its figures.")] = Path(
        "results"
    ),
    normalize: options.NormalizeOption = options.Normalize.first_last,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add the parts of one run, measured with --shard or saved when interrupted."""
    result = rc.merge([rc.load(file) for file in files])
    target = output.Target(out, "analysis", overwrite=overwrite)
    target.check_folder()
    target.check_fingerprint(result.fingerprint)
    written = [target.save(result), *output.save_figures(result, out, normalize=normalize.value)]
    output.print_summary(result, as_json=json, files=written, quiet=quiet)
