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
        Path | None,
        typer.Option(
            parser=options.folder,
            metavar="FOLDER",
            help="Folder for the figures; the file's own by default.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PLOT", help="One figure: compare, curves, contrast, heatmap, ..."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model to draw, with --only; repeat for several.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="The readout, with --only.")] = None,
    index: Annotated[str | None, typer.Option(help="The similarity index, with --only.")] = None,
    given: Annotated[
        str | None,
        typer.Option(
            metavar="REFERENCE",
            help="With --only heatmap: what layers share beyond a reference, such as labels.",
        ),
    ] = None,
    normalize: options.Normalize = "first-last",
    quiet: options.Quiet = False,
) -> None:
    """Draw the figures of a result again, as PDF and PNG: all of them, or one."""
    folder = file.parent if out is None else out
    result = output.load(file)
    chosen = {"tokens": tokens, "index": index, "given": given}
    alone = [name for name, value in {"model": model, **chosen}.items() if value]
    if only is None and alone:
        raise typer.BadParameter("goes with --only", param_hint=f"--{alone[0]}")
    if only is None:
        files = output.save_figures(result, folder, normalize=normalize)
    else:
        known = rc.plots.PLOTS.get(only)
        scale = normalize if known is not None and known.takes("normalize") else None
        figure = rc.plots.draw(result, only, model or (), normalize=scale, **chosen)
        files = list(rc.plots.save_figure(figure, folder / only))
    if not quiet:
        console.note(output.written(files))
