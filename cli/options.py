"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ResultFile = Annotated[Path, typer.Argument(metavar="FILE", help="A result, as analyze writes it.")]
Normalize = Annotated[
    Literal["first-last", "min-max", "none"],
    typer.Option(
        help="What the normalised curve is: CKA(l, last) over CKA(first, last); between its least and greatest "
        "value; or the plain curve alone."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of another run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no messages.")]
