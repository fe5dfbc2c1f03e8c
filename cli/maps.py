"""`refiner-cka maps`: see how alike the patches of one image are, at a few depths."""

from __future__ import annotations

from typing import Annotated

import typer

import refiner_cka as rc

from . import console, importing, options, output


def maps(
    model: Annotated[str, typer.Option(metavar="NAME[=WEIGHTS]", help="A model, as in analyze.")],
    data: Annotated[str, typer.Option(help="Images, as in analyze.")],
    image: Annotated[int, typer.Option(min=0, help="Which image, in the source's order.")] = 0,
    patch: Annotated[
        tuple[float, float], typer.Option(help="The patch: from the top and from the left, 0 to 1.")
    ] = (0.5, 0.5),
    layers: Annotated[
        str | None, typer.Option(help="Layers with commas; four blocks by default.")
    ] = None,
    out: options.Out = options.RESULTS,
    image_size: Annotated[int | None, options.of("image_size")] = None,
    device: Annotated[str | None, options.of("device")] = None,
    seed: Annotated[int, options.of("seed")] = rc.Options.seed,
    quiet: options.Quiet = False,
) -> None:
    """Draw an image and, layer by layer, the cosine of each of its patches with a chosen patch."""
    with console.status("loading torch and timm", quiet=quiet) as waiting_for:
        rc.results.check_writable(out / "maps.pdf")
        with importing.uncollected():
            token_maps = rc.token_maps  # which imports them
        waiting_for("loading the model and looking at the image")
        shown = token_maps(
            model,
            data,
            image=image,
            patch=patch,
            layers=layers.split(",") if layers else None,
            image_size=image_size,
            device=device,
            seed=seed,
        )
    files = list(rc.plots.save_figure(rc.plots.token_maps(shown), out / "maps"))
    if not quiet:
        console.note(output.written(files))
