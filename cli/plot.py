"""`refiner-cka plot`: figures of stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, importing, options, output, processes


def plot(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Results, as analyze writes them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=options.folder,
            metavar="FILE|FOLDER",
            help="With --panel the figure: .pdf, .svg or .png. Else the folder for the figures; the file's own "
            "by default.",
        ),
    ] = None,
    panel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[,key=value...]",
            help="A panel; repeat for several. KIND: curve, heatmap, contrast, measure, blocks, against, ceiling. "
            "of=NAME:NAME says of what, file=STEM of which file; other keys are those of the kind (normalize=, "
            "index=, tokens=, band=, x=, vmin=, ...) or of matplotlib's Axes.set (title=, ylim=LOW:HIGH, ...).",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,label=TEXT][,color=COLOUR]",
            help="A model to show; repeat for several, in this order.",
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            metavar="column|text|talk|FILE.mplstyle",
            help="Width and size of text: column is 3.25 in and 8 pt, text 6.75 in.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="RCPARAM=VALUE", help="A setting of matplotlib; repeatable."),
    ] = None,
    normalize: Annotated[
        options.NormalizeName | None,
        typer.Option(help="Of the second curve of a run's figures; a panel has normalize=."),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Draw figures of stored results: one of the panels asked for, or without --panel all of a run."""
    if panel and out is None:
        raise typer.BadParameter("--panel needs it: name a .pdf, .svg or .png", param_hint="-o")
    if panel and normalize:
        raise typer.BadParameter(
            "goes into the panel: curve,normalize=...", param_hint="--normalize"
        )
    with importing.uncollected():
        plots = rc.plots  # which imports matplotlib
    wanted = [plots.Panel.parse(text) for text in panel or ()]
    if out is not None:
        _check_place(out, figure=bool(panel))
    results = {name: output.load(file) for name, file in plots.named(files).items()}
    given = dict(_pair(text) for text in settings or ())
    with plots.styled(style, given):
        models = plots.read_models(results, model) if model else None
        if wanted and out is not None:
            figure = plots.compose(results, wanted, models=models)
            written = [plots.save(figure, out)]
            told = f"wrote {out}"
        else:
            written = []
            for name, result in results.items():
                folder = files[0].parent if out is None else out
                folder = folder / name if len(results) > 1 else folder
                written += plots.save_figures(
                    result,
                    folder,
                    normalize=normalize or "first-last",
                    models=models,
                    processes=processes.cores(),
                )
            told = output.written(written)
    if not quiet:
        console.note(told)


def _check_place(out: Path, *, figure: bool) -> None:
    """Refuse, before anything is drawn, a place that is none for a figure, or for a folder of them."""
    if figure:
        rc.plots.check_format(out)
        rc.results.check_writable(out)
    elif out.suffix in (".pdf", ".svg", ".png"):
        raise typer.BadParameter(
            f"{out} is the name of one figure: say with --panel what it shows, or name a folder",
            param_hint="-o",
        )
    else:
        rc.results.check_writable(out / "curves.pdf")


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise typer.BadParameter(f"{text!r} is not RCPARAM=VALUE", param_hint="--set")
    return name.strip(), value
