"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import refiner_cka as rc


def of(name: str, *declarations: str, **more: Any) -> Any:
    """Return how an option of a run is declared on the command line.

    Args:
        name: of a field of `rc.Options`.
        *declarations: its spellings, where they are not what follows from its name.
        **more: for `typer.Option`.
    """
    about = rc.Options.about()[name]
    return typer.Option(*declarations, help=about.text, min=about.least, **more)


def folder(text: str) -> Path:
    """Return the folder that `--out` names; a variable of the shell that is not set names none."""
    if not text:
        raise typer.BadParameter("no folder is named; give one, or leave the option out")
    return Path(text)


Out = Annotated[
    Path,
    typer.Option(parser=folder, metavar="FOLDER", help="Folder for the results and figures."),
]
RESULTS = Path("results")
ResultFile = Annotated[Path, typer.Argument(metavar="FILE", help="A result, as analyze writes it.")]
NormalizeName = Literal["first-last", "min-max", "none"]
Normalize = Annotated[
    NormalizeName,
    typer.Option(
        help="What the normalised curve is: CKA(l, last) over CKA(first, last); between its least and greatest "
        "value; or the plain curve alone."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of another run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no messages.")]
