"""`refiner-cka analyze`: the main job."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import sys
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, importing, options, output, processes
from .interrupting import Interrupting


def _number(value: float) -> float:
    """Refuse `nan`, which a least value does not keep out with every version of Typer."""
    if math.isnan(value):
        raise typer.BadParameter("it takes a number")
    return value


def analyze(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=WEIGHTS][,key=value...]",
            help="A model; repeat for several. NAME: an alias (`refiner-cka models`), any timm name, or "
            "package.module:factory. WEIGHTS: a checkpoint file or glob, or `random`; pretrained without. "
            "label=TEXT names it in the results; group=TEXT makes it one of several trainings of that recipe; "
            "other keys go to the factory.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Images: a folder, a tar, .npz, .npy or .h5 file, or `digits` (they come with the package)."
        ),
    ],
    out: options.Out = options.RESULTS,
    batch_size: Annotated[int, options.of("batch_size")] = rc.Options.batch_size,
    images: Annotated[int | None, options.of("images")] = rc.Options.images,
    layers: Annotated[str, options.of("layers")] = rc.Options.layers,
    tokens: Annotated[str, options.of("tokens")] = rc.Options.tokens,
    index: Annotated[str, options.of("index", metavar="NAME,...")] = rc.Options.index,
    against: Annotated[str | None, options.of("against", metavar="NAME,...")] = rc.Options.against,
    smoothing: Annotated[
        str | None, options.of("smoothing", metavar="NAME,...|all|none")
    ] = rc.Options.smoothing,
    attention: Annotated[bool, options.of("attention", "--attention")] = rc.Options.attention,
    normalize: options.Normalize = "first-last",
    image_size: Annotated[int | None, options.of("image_size")] = None,
    device: Annotated[str | None, options.of("device")] = rc.Options.device,
    precision: Annotated[rc.Precision, options.of("precision")] = rc.Options.precision,
    fast_pixels: Annotated[
        bool, options.of("fast_pixels", "--fast-pixels")
    ] = rc.Options.fast_pixels,
    workers: Annotated[int | None, options.of("workers")] = rc.Options.workers,
    seed: Annotated[int, options.of("seed")] = rc.Options.seed,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from an interrupted run.")
    ] = False,
    save_every: Annotated[
        float,
        typer.Option(
            min=0,
            callback=_number,
            help="Seconds after which what was measured is saved again.",
        ),
    ] = 60.0,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Measure part I of N; `refiner-cka merge` adds the parts."
        ),
    ] = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be measured and written, and stop.")
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how the representations of models change with depth.

    Writes analysis.h5 (every number), the figures as PDF and PNG, and prints what was found. For several GPUs:
    torchrun --nproc-per-node 8 -m refiner_cka.cli.app analyze ...
    """
    part = _shard(shard)
    suffix = "" if part == (1, 1) else f".{part[0]}-of-{part[1]}"
    target = output.Target(out, f"analysis{suffix}", overwrite, processes.rank())
    # What a model's own code prints is not data.
    with (
        contextlib.redirect_stdout(sys.stderr),
        console.status(
            "loading torch and timm", quiet=quiet or processes.rank() > 0
        ) as waiting_for,
    ):
        rc.results.check_writable(target.path)
        with importing.uncollected():
            prepare = rc.prepare  # which imports them
        waiting_for("loading the models and finding the images")
        analysis = prepare(
            model,
            data,
            layers=layers,
            tokens=tokens,
            index=index,
            against=against,
            smoothing=smoothing,
            attention=attention,
            batch_size=batch_size,
            images=images,
            image_size=image_size,
            device=device,
            precision=precision,
            fast_pixels=fast_pixels,
            workers=workers,
            seed=seed,
            shard=part,
            command=shlex.join(["refiner-cka", *sys.argv[1:]]),
        )
    first = analysis.runtime.rank == 0
    if dry_run:
        if first:
            _introduce(analysis)
            _plan(analysis, target)
        return
    with target.locked():
        with contextlib.redirect_stdout(sys.stderr):
            target.check(analysis, resume=resume)
            if overwrite and not resume:
                target.remove_partials()
            before = _resumed(analysis, target) if resume else None
            result = _measure(analysis, before, target, save_every=save_every, quiet=quiet)
        if first:
            target.save(result)
        # Only now are the parts of no more use.
        analysis.runtime.wait_for_all()
        target.remove_partials()
    if first:
        draw = part == (1, 1)
        output.tell(target, result, normalize=normalize, draw=draw, as_json=json, quiet=quiet)


def _resumed(analysis: rc.Analysis, target: output.Target) -> rc.Result | None:
    """Return what was measured before; of the processes of one machine, the first one's is enough."""
    if processes.local_rank() > 0:
        return None
    before = target.measured(analysis)
    if before is None and analysis.runtime.rank == 0:
        console.note(f"nothing to resume yet, there is no {target.partial}: the run starts anew")
    return before


def _measure(
    analysis: rc.Analysis,
    before: rc.Result | None,
    target: output.Target,
    *,
    save_every: float,
    quiet: bool,
) -> rc.Result:
    """Measure, showing how it goes; what ends before its time is saved, and how to go on is said."""
    world, first = analysis.runtime.world, analysis.runtime.rank == 0
    if first and not quiet:
        _introduce(analysis)
    kept, interrupting = output.Kept(target), Interrupting()
    with interrupting:
        try:
            with console.progress(quiet=quiet or not first) as update:
                return rc.measure(
                    analysis, resume=before, progress=update, save=kept.save, save_every=save_every
                )
        except KeyboardInterrupt:
            if first:
                console.error(f"interrupted {kept.report(world)}")
            raise typer.Exit(interrupting.exit_code) from None
        except Exception:
            if first and kept.result is not None:
                console.error(f"ended {kept.report(world)}")
            raise


def _plan(analysis: rc.Analysis, target: output.Target) -> None:
    """Print what a run would take and write."""
    for what, size in analysis.memory.items():
        console.say(f"memory for {what}: {size / 2**20:,.1f} MiB")
    axes = ", ".join(f"{name} ({len(axis)})" for name, axis in analysis.axes.items())
    measures = ", ".join(quantity.name for quantity in analysis.quantities)
    console.say(f"measured: {measures}; along {axes}")
    state = "replaced" if target.path.exists() else "written"
    figures = " and the figures beside it" if analysis.options.shard == (1, 1) else ""
    console.say(f"{target.path}{figures} would be {state}; nothing is, after --dry-run")


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not of the form I/N, such as 2/8", param_hint="--shard"
        )
    return int(match[1]), int(match[2])


def _introduce(analysis: rc.Analysis) -> None:
    """Say what is about to be measured."""
    for model in analysis.models:
        origin = model.subject.origin
        loaded = origin.get("loading") or f"{origin.get('weights', 'given')} weights"
        console.note(f"{model.name}: {len(model.rows_by_layer())} layers, {loaded}")
    count = sum(len(batch) for batch in analysis.plan.batches)
    least = rc.results.MIN_FOLDS
    few = "" if count >= least else f"; too few for errors, which take at least {least} images"
    console.note(
        f"{count} images of {analysis.source.description} in {len(analysis.plan.batches)} batches of "
        f"{analysis.plan.batch_size}, on {analysis.provenance['device']}{few}"
    )
