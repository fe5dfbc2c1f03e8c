"""Everything before the first batch: models loaded and probed, images found, and whatever cannot work refused."""

from __future__ import annotations

import bisect
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import DataError, ModelError, ResultError, warn
from ..images import ImageSource, Plan, check_channels, open_source, plan_batches
from ..images.batches import AHEAD
from ..measures.choosing import METERS
from ..measures.meter import Meter, Reads, Setting, Site
from ..options import Options
from ..results.checks import check_quantities
from ..subjects import name_apart, resolve
from ..subjects.groups import check_groups, check_rows
from ..subjects.layouts import readings_of
from ..subjects.model import Model, Readings, Row
from ..subjects.readout import Readout
from ..subjects.subject import Subject
from ..sums import LAYERS, MIN_BATCH, Layer, Quantity, all_sums, along_depth, lengths_of
from . import provenance, runtime
from .accepting import Data, Models, accepts
from .probe import PROBE_IMAGES, faint_scales, probe, watch
from .rows import choose_rows, layout_of, readouts_of, why_unreadable
from .runtime import Runtime


@dataclass(frozen=True, eq=False)
class Analysis:
    """An analysis ready to run: models loaded and probed, images found, output shape known.

    Attributes:
        options: of the run.
        models: the models, with names that are unique.
        source: the images.
        plan: which images form which batch.
        runtime: this process.
        meters: what is measured.
        sites: where meters look.
        axes: by name what quantities have values for: `layers`, the rows of the matrix, and what meters bring.
        quantities: what a result will hold.
        warnings: what was assumed, and layers left out, one line each.
        fingerprint: SHA-256 of what determines the numbers.
        provenance: what the result file says about the run.
    """

    options: Options
    models: tuple[Model, ...]
    source: ImageSource
    plan: Plan
    runtime: Runtime
    meters: tuple[Meter, ...]
    sites: tuple[Site, ...]
    axes: Mapping[str, tuple[Layer, ...]]
    quantities: tuple[Quantity, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    provenance: Mapping[str, Any]

    @property
    def workers(self) -> int:
        """Loading processes; 0 loads in this one."""
        if self.options.workers is not None:
            return self.options.workers
        # The cores shared among this machine's processes, 8 at most.
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.runtime.world)))
        return min(8, (os.cpu_count() or 1) // local)

    @property
    def image_names(self) -> tuple[str, ...]:
        """What the source calls the images of the run's batches, in their order."""
        ids = self.source.ids
        return tuple(ids[index] for batch in self.plan.batches for index in batch)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that measuring takes beside the models and their activations, by what takes them."""
        largest = max(map(len, self.plan.batches))
        lengths, sums = lengths_of(self.axes), all_sums(self.quantities).values()
        numbers = sum(math.prod(lengths[axis] for axis in each.axes) for each in sums)
        ways = {model.subject.preprocessing: model.shape for model in self.models}
        # What waits is not normalised yet: pictures that differ in that alone are one.
        waiting = {way.geometry(): shape for way, shape in ways.items()}
        waiting |= {way.geometry(): way.input_size for meter in self.meters for way in meter.inputs}
        ahead = AHEAD * min(self.workers, len(self.wanted(frozenset())))
        size = 1 if self.source.input_shape is None else 4
        return {
            **_memory_of(self.meters, largest),
            "sums": 8 * numbers,
            "one batch of images": 4 * largest * sum(map(math.prod, ways.values())),
            "batches loaded ahead": ahead * size * largest * sum(map(math.prod, waiting.values())),
        }

    def wanted(self, held: frozenset[int]) -> list[int]:
        """Return the batches that are this process's to measure, without those already held."""
        index, count = self.options.shard
        remaining = [k for k in range(index - 1, len(self.plan.batches), count) if k not in held]
        return remaining[self.runtime.rank :: self.runtime.world]


@accepts(Options)
def prepare(models: Models, data: Data, options: Options) -> Analysis:
    """Load the models, find the images and check that they fit, without measuring yet. Takes what `analyze` does.

    Raises:
        RefinerCkaError: something cannot work; the message says what to do.
    """
    return prepared(models, data, options)


def prepared(models: Models, data: Data, options: Options) -> Analysis:
    """Do what `prepare` does, with the options as one object."""
    readouts = readouts_of(options.tokens)
    here = runtime.detect(options.device, options.precision)
    source = open_source(data)
    plan = plan_batches(
        source, batch_size=options.batch_size, images=options.images, seed=options.seed
    )
    part, parts = options.shard
    if part > len(plan.batches):
        raise DataError(
            f"--shard {part}/{parts} would be empty: the run has {len(plan.batches)} batches"
        )
    setting = Setting(options, plan, here.device, source)
    meters = tuple(meter for make in METERS.values() if (meter := make(setting)) is not None)
    reads = _most([meter.reads for meter in meters], readouts)
    subjects = _subjects(models, options)
    check_groups(subjects, [name for meter in meters for name in meter.reserved])
    lines = [line for each in subjects if (line := each.assumption(source.input_shape))]
    found: list[Model] = []
    for subject in subjects:
        check_channels(source, subject.preprocessing)
        model, said = _model(subject, found, source, here, readouts, reads)
        found.append(model)
        lines += said
    check_rows(found)
    sites: list[Site] = []
    for meter in meters:
        own, left_out = meter.sites(found)
        sites += own
        lines += left_out
    _check_memory(meters, max(map(len, plan.batches)), here)
    for line in lines if here.rank == 0 else []:
        warn(line)
    rows = [(model.name, row.path, row.readout) for model in found for row in model.rows]
    axes: dict[str, Any] = {LAYERS: along_depth(rows)}
    digest = source.digest(list(itertools.chain.from_iterable(plan.batches)))
    determines = provenance.identity(
        found, source, plan, digest, here, fast_pixels=options.fast_pixels
    )
    for meter in meters:
        for name, value in (*meter.axes.items(), *meter.identity.items()):
            if value != axes.get(name, determines.get(name, value)):
                raise ResultError(f"two meters, or one and the run, say other things of {name!r}")
        axes |= meter.axes
        determines |= meter.identity
    quantities = tuple(quantity for meter in meters for quantity in meter.quantities)
    check_quantities(quantities, axes)
    return Analysis(
        options=options,
        models=tuple(found),
        source=source,
        plan=plan,
        runtime=here,
        meters=meters,
        sites=tuple(sites),
        axes=axes,
        quantities=quantities,
        warnings=tuple(lines),
        fingerprint=provenance.fingerprint(determines),
        provenance={
            **determines,
            "identity": list(determines),
            **provenance.circumstances(found, source, plan, digest, here, options),
        },
    )


def _memory_of(meters: Sequence[Meter], images: int) -> dict[str, int]:
    return {what: size for meter in meters for what, size in meter.memory(images).items()}


def _check_memory(meters: Sequence[Meter], batch: int, here: Runtime) -> None:
    """Refuse a batch of which what meters keep can never fit.

    Raises:
        DataError: names the largest batch that does, if any does.
    """
    room = runtime.memory_of(here.device)

    def is_too_large(images: int) -> bool:
        return bool(sum(_memory_of(meters, images).values()) > room)

    if is_too_large(batch):
        fits = bisect.bisect_left(range(batch), True, key=is_too_large) - 1
        what, size = max(_memory_of(meters, batch).items(), key=lambda each: each[1])
        way_out = (
            f"a batch of at most {fits} fits"
            if fits >= MIN_BATCH
            else "no batch fits: take fewer --layers, a smaller --image-size, or no --attention"
        )
        raise DataError(
            f"--batch-size {batch}: the {what} take {size / 2**30:.1f} GiB, and the {here.device.type} has "
            f"{room / 2**30:.1f} GiB; {way_out}"
        )


def _most(reads: Sequence[Reads], readouts: Sequence[Readout]) -> Reads:
    """Return how well outputs have to be understood: as whatever needs it most needs it."""
    order: tuple[Reads, ...] = ("outputs", "tokens", "grid")
    wanted = [*reads, "outputs" if set(readouts) == {"all"} else "tokens"]
    return max(wanted, key=order.index)  # type: ignore[arg-type]


def _subjects(models: Models, options: Options) -> tuple[Subject, ...]:
    """Return the models as subjects with unique names.

    Raises:
        ModelError: there is none, or one is neither a name nor a subject.
    """
    size = options.image_size
    size = (size, size) if isinstance(size, int) else size
    # A bare module is refused below, like one in a list.
    wanted = [models] if isinstance(models, str | Subject | nn.Module) else list(models)
    if not wanted:
        raise ModelError("no model to analyse: name at least one")
    found: list[Subject] = []
    for model in wanted:
        if isinstance(model, Subject):
            found.append(model)
        elif isinstance(model, str):
            found.extend(resolve(model, layers=options.layers, image_size=size, seed=options.seed))
        else:
            raise ModelError(
                f"a {type(model).__name__} is no model name: wrap a module as "
                "rc.Subject.from_module(module, layers)"
            )
    return tuple(name_apart(found))


def _model(
    subject: Subject,
    before: Sequence[Model],
    source: ImageSource,
    here: Runtime,
    readouts: Sequence[Readout],
    reads: Reads,
) -> tuple[Model, list[str]]:
    """Probe a subject and return it, after the models before, with a line for whatever has to be said."""
    shape = tuple(source.input_shape or subject.preprocessing.input_size)
    shown = probe(subject, shape, here)
    outputs = {
        path: output
        for path, calls in shown.calls.items()
        if why_unreadable(calls) is None and (output := calls[0]) is not None
    }
    readings = read_tokens(subject, outputs, shape, here, reads)
    chosen, lines = choose_rows(subject, shown, outputs, readouts, readings)
    first_row = sum(len(model.rows) for model in before)

    def look(paths: Sequence[str]) -> Mapping[str, Sequence[torch.Tensor | None]]:
        with here.hosting(subject.module), here.session():
            return watch(subject, paths, shape, here)

    model = Model(
        subject=subject,
        number=len(before),
        shape=shape,
        rows=tuple(
            Row(position, path, readout, layout_of(readings.get(path)))
            for position, (readout, path) in enumerate(chosen, first_row)
        ),
        outputs=outputs,
        places=shown.places,
        readings=readings,
        classes=subject.class_map(source.classes, shown.logits),
        logits_place=shown.places[""],
        whole=shown.whole,
        faint=faint_scales(subject),
        watch=look,
        probe_images=PROBE_IMAGES,
    )
    return model, [*shown.warnings, *lines]


def read_tokens(
    subject: Subject,
    outputs: Mapping[str, torch.Tensor],
    shape: Sequence[int],
    here: Runtime,
    reads: Reads,
) -> Readings:
    """Return how the tokens of layers are read, for images of a shape; nothing if no tokens are."""
    if reads == "outputs":
        return {}
    with here.hosting(subject.module), here.session():
        return readings_of(
            subject.module,
            outputs,
            subject.layout,
            lambda images: subject.module(images.to(here.device)),
            shape,
            on_grid=reads == "grid",
        )
