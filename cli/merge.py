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
    taken = {file.resolve() for file in files}
    target.check(result, resume=all(path.resolve() in taken for path in target.partials))
    target.save(result)
    output.tell(target, result, normalize=normalize, draw=True, as_json=json, quiet=quiet)
