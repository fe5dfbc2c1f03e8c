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
    out: options.Out = options.RESULTS,
    normalize: options.Normalize = "first-last",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add the parts of one run, measured with --shard or saved when interrupted."""
    result = rc.merge([rc.load(file) for file in files])
    target = output.Target(out, "analysis", overwrite=overwrite)
    rc.results.check_writable(target.path)
    takes_partial = target.partial.resolve() in {file.resolve() for file in files}
    target.check(result, resume=takes_partial)
    target.check_batches(result)
    output.finish(target, result, normalize=normalize, draw=True, as_json=json, quiet=quiet)
