"""`refiner-cka models`: what can be analysed."""

from __future__ import annotations

from typing import Annotated

import typer

import refiner_cka as rc

from . import console, importing, options


def models(
    name: Annotated[
        str | None, typer.Argument(help="A model: print its layers and their output shapes.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="List timm's models whose name contains TEXT."),
    ] = None,
    layers: Annotated[str, typer.Option(help="Which layers to print; as in analyze.")] = "block",
    image_size: Annotated[int | None, options.of("image_size")] = None,
) -> None:
    """List the model aliases, search timm, or print a model's layers. Needs no weights and no network."""
    if search is not None:
        with console.status("loading torch and timm", quiet=False), importing.uncollected():
            found = rc.subjects.search(search)
        if not found:
            raise rc.ModelError(
                f"no timm model name contains {search!r}; `refiner-cka models` lists the aliases"
            )
        for entry in found:
            console.say(entry)
    elif name is not None:
        size = None if image_size is None else (image_size, image_size)
        with console.status("loading torch and timm", quiet=False), importing.uncollected():
            described = rc.subjects.describe(name, layers=layers, image_size=size)
        console.table(
            ["Layer", "Module", "Output"],
            [[path, kind, "x".join(map(str, shape or ()))] for path, kind, shape in described],
        )
    else:
        console.table(
            ["Alias", "timm name"],
            [[alias, str(full)] for alias, full in rc.subjects.ALIASES.items()],
        )
