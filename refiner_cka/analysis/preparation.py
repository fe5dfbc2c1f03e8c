"""Everything before the first batch: models loaded and probed, images found, and whatever cannot work refused."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import nn

from ..errors import AnalysisWarning, DataError, LayerError, ModelError
from ..images import ImageSource, Plan, check_channels, open_source, plan_batches
from ..measures.tokens import MEASURES, expensive_images
from ..measures.tokens import choose as choose_measures
from ..subjects import Subject, name_apart, resolve
from ..subjects.attention import find_points, unfused
from ..subjects.layouts import NoTokens, readings_of
from ..subjects.locality import Reading
from ..subjects.readout import READOUTS, Readout, TokenLayout, features_of
from ..subjects.sites import AttentionSite, TokenSite, as_json, attention_sites, token_site
from . import provenance as identity
from . import runtime
from .probe import PROBE_IMAGES, Probe, probe, watch
from .runtime import Precision, Runtime


@dataclass(frozen=True, eq=False)
class Row:
    """A layer of one subject under one readout: a row of the matrix.

    Attributes:
        subject: number of the model.
        path: of the layer's module.
        readout: what is read of its output.
        layout: how its tokens lie, where that matters.
        site: where its tokens are measured, if they are.
        place: which tensor of its output is read.
    """

    subject: int
    path: str
    readout: Readout
    layout: TokenLayout | None = None
    site: TokenSite | None = None
    place: int = 0


@dataclass(frozen=True, eq=False)
class Analysis:
    """An analysis ready to run: models loaded and probed, images found, output shape known.

    Attributes:
        subjects: the models, with names that are unique.
        rows: rows of the matrix in order.
        source: the images.
        plan: which images form which batch.
        runtime: this process.
        workers: loading processes; 0 loads in this one.
        shard: `(i, n)`, 1 <= i <= n: this run takes every n-th batch.
        measures: over-smoothing measures of the tokens.
        attention_sites: where attention maps are read.
        class_maps: for each subject the logit of each class of the source (-1: none), or `None`.
        logits_places: for each subject which tensor of its output holds the logits.
        whole: for each subject why a batch must go through it whole; empty where it may go in chunks.
        warnings: what was assumed, and layers left out, one line each.
        fingerprint: SHA-256 of what determines the numbers.
        provenance: what the result file says about the run.
    """

    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]
    source: ImageSource
    plan: Plan
    runtime: Runtime
    workers: int
    shard: tuple[int, int]
    measures: tuple[str, ...]
    attention_sites: tuple[AttentionSite, ...]
    class_maps: tuple[tuple[int, ...] | None, ...]
    logits_places: tuple[int, ...]
    whole: tuple[str, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    provenance: Mapping[str, Any]

    def wanted(self, held: frozenset[int]) -> list[int]:
        """Return the batches that are this process's to measure, without those already held."""
        index, count = self.shard
        left = [k for k in range(index - 1, len(self.plan.batches), count) if k not in held]
        return left[self.runtime.rank :: self.runtime.world]


class Options(TypedDict, total=False):
    """The options of `analyze` and `prepare`, explained there."""

    layers: str
    tokens: str
    smoothing: str | None
    smoothing_prefix: bool
    attention: bool
    batch_size: int
    images: int | None
    image_size: int | tuple[int, int] | None
    device: str | None
    precision: Precision
    workers: int | None
    seed: int
    shard: tuple[int, int]


def prepare(
    models: Iterable[str | Subject] | str | Subject,
    data: Any,
    *,
    layers: str = "block",
    tokens: str = "all",
    smoothing: str | None = None,
    smoothing_prefix: bool = False,
    attention: bool = False,
    batch_size: int = 64,
    images: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    command: str | None = None,
) -> Analysis:
    """Load the models, find the images and check that they fit, without measuring yet.

    The arguments are those of `analyze`; `command` is recorded in the provenance.
    """
    readouts = _readouts(tokens)
    measures = choose_measures(smoothing)
    here = runtime.detect(device, precision)
    source = open_source(data)
    plan = plan_batches(source, batch_size=batch_size, images=images, seed=seed)
    _check_shard(shard, plan)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    subjects = _subjects(models, layers, size, seed)
    rows: list[Row] = []
    maps: list[AttentionSite] = []
    left_out = _assumptions(subjects, source)
    class_maps = []
    logits_places = []
    whole = []
    faint: dict[str, str] = {}
    for index, subject in enumerate(subjects):
        check_channels(source, subject.preprocessing)
        shown = probe(subject, source.input_shape or subject.preprocessing.input_size, here)
        left_out.extend(shown.warnings)
        readings = _readings(subject, shown, here, readouts, measures)
        chosen, dropped = _choose_rows(subject, shown, readouts, readings)
        left_out.extend(dropped)
        found, wrong, without = _token_sites(
            subject, shown, chosen, readings, measures, smoothing_prefix
        )
        rows.extend(
            Row(
                index,
                path,
                readout,
                _layout(readings.get(path)),
                found.get(path),
                shown.places[path],
            )
            for readout, path in chosen
        )
        # By default measures are taken where there are tokens; asked for, they say where there are none.
        left_out.extend([*wrong, *without] if smoothing is not None else wrong)
        class_maps.append(subject.class_map(source.classes, shown.logits))
        logits_places.append(shown.logits_place)
        whole.append(shown.whole)
        faint |= {subject.name: shown.faint} if shown.faint else {}
        if attention:
            added, dropped = _attention_sites(index, subject, shown, here)
            maps.extend(added)
            left_out.extend(dropped)
    if attention and not maps:
        raise LayerError(f"--attention: {left_out[-1]}")
    for line in left_out if here.rank == 0 else []:
        warnings.warn(line, AnalysisWarning, stacklevel=2)
    layers_of = [
        [_layer(row) for row in rows if row.subject == index] for index in range(len(subjects))
    ]
    digest = source.digest(list(itertools.chain.from_iterable(plan.batches)))
    determines = {
        **identity.identity(subjects, layers_of, source, plan, digest, here),
        "smoothing": {
            "measures": list(measures),
            "prefix_tokens": smoothing_prefix,
            "effective_rank_images": expensive_images(sum(map(len, plan.batches))),
        },
        "attention": as_json(maps),
    }
    return Analysis(
        subjects=subjects,
        rows=tuple(rows),
        source=source,
        plan=plan,
        runtime=here,
        workers=_default_workers(here) if workers is None else workers,
        shard=shard,
        measures=measures,
        attention_sites=tuple(maps),
        class_maps=tuple(class_maps),
        logits_places=tuple(logits_places),
        whole=tuple(whole),
        warnings=tuple(left_out),
        fingerprint=identity.fingerprint(determines),
        provenance={
            **determines,
            "identity": list(determines),
            **identity.circumstances(subjects, source, plan, digest, here, shard, command),
            "faint_parameters": faint,
        },
    )


def _subjects(
    models: Iterable[str | Subject] | str | Subject,
    layers: str,
    image_size: tuple[int, int] | None,
    seed: int,
) -> tuple[Subject, ...]:
    """Return the models as subjects with unique names.

    Raises:
        ModelError: there is none, or one is neither a name nor a subject.
    """
    if isinstance(models, nn.Module):
        models = [models]  # type: ignore[list-item]  # refused below, like one in a list
    wanted = [models] if isinstance(models, str | Subject) else list(models)
    if not wanted:
        raise ModelError("no model to analyse: name at least one")
    found: list[Subject] = []
    for model in wanted:
        if isinstance(model, Subject):
            found.append(model)
        elif isinstance(model, str):
            found.extend(resolve(model, layers=layers, image_size=image_size, seed=seed))
        else:
            raise ModelError(
                f"a {type(model).__name__} is no model name: wrap a module as "
                "rc.Subject.from_module(module, layers)"
            )
    return tuple(name_apart(found))


Readings = Mapping[str, Reading | LayerError | None]
"""Of each layer how it is read, or why that cannot be said; `None`: it is one patch."""


def _readings(
    subject: Subject,
    probe: Probe,
    here: Runtime,
    readouts: Sequence[Readout],
    measures: Sequence[str],
) -> Readings:
    """Return how the layers of one subject are read; nothing if no tokens are."""
    if not measures and set(readouts) == {"all"}:
        return {}
    outputs = {
        path: calls[0]
        for path, calls in probe.calls.items()
        if calls[0] is not None and _unreadable(calls) is None
    }
    with here.hosting(subject.module), here.session():
        return readings_of(
            subject.module,
            outputs,
            subject.layout,
            lambda images: subject.module(images.to(here.device)),
            probe.shape,
            on_grid=any(MEASURES[name].on_grid for name in measures),
        )


def _layout(reading: Reading | LayerError | None) -> TokenLayout | None:
    return reading.layout if isinstance(reading, Reading) else None


def _token_sites(
    subject: Subject,
    probe: Probe,
    chosen: Sequence[tuple[Readout, str]],
    readings: Readings,
    measures: Sequence[str],
    prefix: bool,
) -> tuple[dict[str, TokenSite], list[str], list[str]]:
    """Return where the tokens of one subject's layers are measured.

    And a line for the layers of which it cannot be said how tokens lie, and for those without tokens or grid.

    Raises:
        LayerError: a layer named by hand contradicts what the user says of the tokens.
    """
    is_stated = subject.layout.stated is not None or subject.layout.stated_prefix is not None
    found: dict[str, TokenSite] = {}
    wrong: dict[str, str] = {}
    alone: dict[str, str] = {}
    scattered: dict[str, str] = {}
    for path in dict.fromkeys(path for _, path in chosen if measures):
        output = probe.calls[path][0]
        assert output is not None  # it would not be a row
        reading = readings[path]
        if isinstance(reading, NoTokens):
            alone[path] = str(reading)
            continue
        if isinstance(reading, LayerError):
            if is_stated and not subject.pattern:
                raise LayerError(f"{subject.name}: layer {path} {reading}")
            wrong[path] = str(reading)
            continue
        site = token_site(output, reading, prefix)
        if site is None:
            alone[path] = f"returns {tuple(output.shape)}, not several tokens"
            continue
        found[path] = site
        if site.grid is None and any(MEASURES[name].on_grid for name in measures):
            scattered[path] = "has no patch grid, or none on which its tokens are in order"
    smoothing, grid = "the over-smoothing measures", "the measures on the grid"
    return (
        found,
        _left_out(subject, wrong, smoothing),
        [*_left_out(subject, alone, smoothing), *_left_out(subject, scattered, grid)],
    )


def _left_out(subject: Subject, reasons: Mapping[str, str], of: str) -> list[str]:
    """Return one line for layers that are left out of something, with the first one's reason; none for none."""
    if not reasons:
        return []
    first, *others = reasons
    also = f" (and so on for {len(others)} more: {_shortened(others)})" if others else ""
    return [f"{subject.name}: layer {first} {reasons[first]}{also}; left out of {of}"]


def _shortened(paths: Sequence[str]) -> str:
    return ", ".join(paths if len(paths) <= 4 else [*paths[:2], "...", paths[-1]])


def _attention_sites(
    index: int, subject: Subject, probe: Probe, here: Runtime
) -> tuple[list[AttentionSite], list[str]]:
    """Return where one subject's attention maps are read, and a line for each that cannot be."""
    points = find_points(subject.module)
    if not points:
        return [], [
            f"{subject.name} has no attention that can be read: timm's ViT and DeiT and Refiner have"
        ]
    with here.hosting(subject.module), here.session(), unfused(subject.module):
        calls = watch(subject, [point.hook for point in points], probe.shape, here)
    found, reasons = attention_sites(
        index, points, calls, PROBE_IMAGES, subject.layout, subject.module, probe.shape
    )
    return found, [
        f"{subject.name}: {reason}; left out of the attention measures" for reason in reasons
    ]


def _choose_rows(
    subject: Subject, probe: Probe, readouts: Sequence[Readout], readings: Readings
) -> tuple[list[tuple[Readout, str]], list[str]]:
    """Return the rows of one subject and a line for each layer left out.

    Raises:
        LayerError: a layer named by hand cannot be read, or none is left.
    """
    order = list(probe.calls) if subject.pattern else list(subject.layers)
    order += [path for path in subject.layers if path not in probe.calls and path not in order]
    rows: list[tuple[Readout, str]] = []
    obstacles: dict[tuple[str, str], list[str]] = {}
    for readout, path in itertools.product(readouts, order):
        reason, of_readout = _obstacle(subject, probe, path, readout, readings)
        if reason is None:
            rows.append((readout, path))
        elif not subject.pattern:
            raise LayerError(f"{subject.name}: layer {path} {reason}; choose other layers")
        else:
            place = f"left out of --tokens {readout}" if of_readout else "left out"
            paths = obstacles.setdefault((reason, place), [])
            paths.extend([] if path in paths else [path])
    lines = [
        f"{subject.name}: layer{'s' if len(paths) > 1 else ''} {', '.join(paths)} {reason}; {place}"
        for (reason, place), paths in obstacles.items()
    ]
    for readout in readouts:
        if not any(chosen == readout for chosen, _ in rows):
            raise LayerError(
                f"no layer is left to read as {readout!r}: {lines[-1]}; choose others with --layers GLOB"
            )
    return rows, lines


def _obstacle(
    subject: Subject, probe: Probe, path: str, readout: Readout, readings: Readings
) -> tuple[str | None, bool]:
    """Return why a layer cannot be a row, or `None`, and whether that is so for this readout only."""
    calls, reading = probe.calls.get(path, []), readings.get(path)
    reason = _unreadable(calls)
    if reason is not None:
        return reason, False
    if readout != "all" and isinstance(reading, LayerError):
        return str(reading), True
    output = calls[0]
    assert output is not None  # it would be unreadable
    try:
        features_of(output, None if readout == "all" else _layout(reading), readout)
    except LayerError as error:
        return f"cannot be read: {error}", True
    if subject.pattern and _repeats_a_row(subject, probe, path, readout, readings):
        return "returns the tensor of a layer before it", True
    return None, False


def _repeats_a_row(
    subject: Subject, probe: Probe, path: str, readout: Readout, readings: Readings
) -> bool:
    """Whether a layer's tensor is that of a layer before it, which is a row: a stage returns its last block's."""
    before = probe.repeats.get(path)
    if before is None or _obstacle(subject, probe, before, readout, readings)[0] is not None:
        return False
    # Reshaped it holds the same numbers, and other tokens.
    return readout == "all" or _shape(probe, before) == _shape(probe, path)


def _shape(probe: Probe, path: str) -> torch.Size | None:
    output = probe.calls[path][0]
    return None if output is None else output.shape


def _unreadable(calls: Sequence[torch.Tensor | None]) -> str | None:
    """Return why a layer cannot be read at all, or `None`."""
    if not calls:
        return "is never called"
    if len(calls) > 1:
        return f"is called {len(calls)} times in one forward pass"
    output = calls[0]
    if output is None:
        return "returns no tensor"
    if not output.is_floating_point():
        return f"returns {output.dtype}, not floating-point features"
    if output.ndim < 2 or output.shape[0] != PROBE_IMAGES:
        shape = f"{tuple(output.shape)} for {PROBE_IMAGES} images"
        return f"returns {shape}: the first axis must be the images"
    return None


def _layer(row: Row) -> list[Any]:
    """Return a row as JSON types: path, readout and, where they matter, how its tokens lie and their grid."""
    if row.layout is None or (row.readout == "all" and row.site is None):
        return [row.path, row.readout]
    layout = {"format": row.layout.format, "prefix_tokens": row.layout.prefix}
    return [row.path, row.readout, {**layout, "grid": row.site and row.site.grid}]


def _assumptions(subjects: Sequence[Subject], source: ImageSource) -> list[str]:
    lines = (subject.assumption(source.input_shape) for subject in subjects)
    return [line for line in lines if line is not None]


def _readouts(tokens: str) -> tuple[Readout, ...]:
    names = [name.strip() for name in tokens.split(",")]
    known: dict[str, Readout] = {readout: readout for readout in READOUTS}
    for name in names:
        if name not in known:
            raise LayerError(f"unknown --tokens {name!r}; choose from {', '.join(READOUTS)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def _check_shard(shard: tuple[int, int], plan: Plan) -> None:
    index, count = shard
    if not 1 <= index <= count:
        raise DataError(f"--shard {index}/{count}: the first number must be from 1 to the second")
    if index > len(plan.batches):
        raise DataError(
            f"--shard {index}/{count} would be empty: the run has {len(plan.batches)} batches"
        )


def _default_workers(here: Runtime) -> int:
    """Return loading processes: the cores shared among this machine's processes, 8 at most."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(here.world)))
    return min(8, (os.cpu_count() or 1) // local)
