"""Everything before the first batch: models loaded and probed, images found, and whatever cannot work refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import nn

from . import runtime
from .attention import find_points, unfused
from .errors import AnalysisWarning, DataError, LayerError, ModelError
from .hooks import first_outputs
from .images import ImageSource, Plan, open_source, plan_batches
from .preprocessing import Preprocessing
from .readout import READOUTS, Readout, features_of, tensor_of
from .runtime import Precision, Runtime
from .sites import AttentionSite, TokenSite, as_json, attention_sites, token_site
from .smoothing import MEASURES, dear_images
from .smoothing import choose as choose_measures
from .subjects import Subject, name_apart, resolve

PROBE_IMAGES = 3
"""Images of the pass that finds out which layers are called. Not 1 or 2: such an axis may be there by chance."""


@dataclass(frozen=True, eq=False)
class Row:
    """A layer of one subject under one readout: a row of the matrix; `site` says how its tokens are read."""

    subject: int
    path: str
    readout: Readout
    site: TokenSite | None = None


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
        splittable: for each subject whether a batch may go through it in chunks.
        warnings: layers left out, one line each.
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
    splittable: tuple[bool, ...]
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
    left_out: list[str] = []
    class_maps = []
    splittable = []
    for index, subject in enumerate(subjects):
        probe = _probe(subject, source, here)
        chosen, dropped = _choose_rows(subject, probe, readouts)
        left_out.extend(dropped)
        found, wrong, without = _token_sites(subject, probe, chosen, measures, smoothing_prefix)
        rows.extend(Row(index, path, readout, found.get(path)) for readout, path in chosen)
        # By default measures are taken where there are tokens; asked for, they say where there are none.
        left_out.extend([*wrong, *without] if smoothing is not None else wrong)
        class_maps.append(subject.class_map(source.classes, probe.logits))
        splittable.append(probe.splittable)
        if attention:
            added, dropped = _attention_sites(index, subject, probe, here)
            maps.extend(added)
            left_out.extend(dropped)
    if attention and not maps:
        raise LayerError(f"--attention: {left_out[-1]}")
    for line in left_out if here.rank == 0 else []:
        warnings.warn(line, AnalysisWarning, stacklevel=2)
    identity = {
        **_identity(subjects, rows, source, plan, here),
        "smoothing": {
            "measures": list(measures),
            "prefix_tokens": smoothing_prefix,
            "effective_rank_images": dear_images(sum(map(len, plan.batches))),
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
        splittable=tuple(splittable),
        warnings=tuple(left_out),
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        provenance={**identity, **_circumstances(subjects, source, plan, here, shard, command)},
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


@dataclass(frozen=True)
class _Probe:
    """What one forward pass of a few images showed."""

    calls: Mapping[str, list[torch.Tensor | None]]
    """Layers in the order of their first call; each call's output, on the meta device."""
    logits: int | None
    """Number of classes the model predicts, if its output is `(images, classes)`."""
    shape: tuple[int, ...]
    """Channels, height and width of the images."""
    splittable: bool
    """Whether an image's output is the same without the others, so that a batch may be split."""


def _probe(subject: Subject, source: ImageSource, here: Runtime) -> _Probe:
    shape = source.input_shape or subject.preprocessing.input_size
    with here.hosting(subject.module), here.session():
        try:
            calls, returned = _watch(subject, subject.layers, shape, here)
            fewer = subject.module(_noise(shape, here)[:2])
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"{subject.name} fails on images of shape {'x'.join(map(str, shape))}: {reason}"
            ) from error
    logits = tensor_of(returned)
    classes = logits.shape[1] if logits is not None and logits.ndim == 2 else None
    return _Probe(calls, classes, tuple(shape), _same(logits, tensor_of(fewer), here))


def _noise(shape: Sequence[int], here: Runtime) -> torch.Tensor:
    """Return the images of the probe: noise, since a model may treat equal images alike by chance."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(PROBE_IMAGES, *shape, generator=generator).to(here.device)


def _same(outputs: torch.Tensor | None, fewer: torch.Tensor | None, here: Runtime) -> bool:
    """Whether the first two images' outputs are the same without the third, up to rounding.

    Batch normalisation without running statistics, for one, makes images depend on one another.
    """
    if outputs is None or fewer is None or outputs[:2].shape != fewer.shape:
        return False
    tolerance = 1e-3 if here.precision == "fp32" else 0.1
    # Squares of very large or small outputs leave float32.
    first, second = outputs[:2].cpu().to(torch.float64), fewer.cpu().to(torch.float64)
    return bool((first - second).norm() <= tolerance * first.norm())


def _watch(
    subject: Subject, paths: Sequence[str], shape: Sequence[int], here: Runtime
) -> tuple[Mapping[str, list[torch.Tensor | None]], Any]:
    """Return what modules return for a few images, on the meta device, and what the model does."""

    def forward() -> Any:
        return subject.module(_noise(shape, here))

    def shape_of(output: Any) -> torch.Tensor | None:
        tensor = tensor_of(output)
        return None if tensor is None else torch.empty_like(tensor, device="meta")

    return first_outputs(subject.module, paths, forward, shape_of)


def _token_sites(
    subject: Subject,
    probe: _Probe,
    chosen: Sequence[tuple[Readout, str]],
    measures: Sequence[str],
    prefix: bool,
) -> tuple[dict[str, TokenSite], list[str], list[str]]:
    """Return how the tokens of one subject's layers are read.

    And a line for each layer whose shape contradicts the layout, and for each without tokens or grid.

    Raises:
        LayerError: the shape of a layer named by hand contradicts what is said of its tokens.
    """
    found: dict[str, TokenSite] = {}
    wrong: list[str] = []
    without: list[str] = []
    for path in dict.fromkeys(path for _, path in chosen if measures):
        output = probe.calls[path][0]
        assert output is not None  # it would not be a row
        line = f"{subject.name}: layer {path}"
        try:
            site = token_site(output, subject.tokens, subject.module, probe.shape, prefix)
        except LayerError as error:
            if not subject.pattern:
                raise LayerError(f"{line} {error}") from None
            wrong.append(f"{line} {error}; left out of the over-smoothing measures")
            continue
        if site is None:
            shape = tuple(output.shape)
            without.append(
                f"{line} returns {shape}, not several tokens; left out of the over-smoothing measures"
            )
            continue
        found[path] = site
        if site.grid is None and any(MEASURES[name].on_grid for name in measures):
            without.append(f"{line} has no patch grid; left out of the measures on the grid")
    return found, wrong, without


def _attention_sites(
    index: int, subject: Subject, probe: _Probe, here: Runtime
) -> tuple[list[AttentionSite], list[str]]:
    """Return where one subject's attention maps are read, and a line for each that cannot be."""
    points = find_points(subject.module)
    if not points:
        return [], [
            f"{subject.name} has no attention that can be read: timm's ViT and DeiT and Refiner have"
        ]
    with here.hosting(subject.module), here.session(), unfused(subject.module):
        calls, _ = _watch(subject, [point.hook for point in points], probe.shape, here)
    found, reasons = attention_sites(
        index, points, calls, PROBE_IMAGES, subject.tokens, subject.module, probe.shape
    )
    return found, [
        f"{subject.name}: {reason}; left out of the attention measures" for reason in reasons
    ]


def _choose_rows(
    subject: Subject, probe: _Probe, readouts: Sequence[Readout]
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
        reason, of_readout = _obstacle(subject, probe.calls.get(path, []), readout)
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
            raise LayerError(f"no layer is left to read as {readout!r}: {lines[-1]}")
    return rows, lines


def _obstacle(
    subject: Subject, calls: Sequence[torch.Tensor | None], readout: Readout
) -> tuple[str | None, bool]:
    """Return why a layer cannot be a row, or `None`, and whether that is so for this readout only."""
    if not calls:
        return "is never called", False
    if len(calls) > 1:
        return f"is called {len(calls)} times in one forward pass", False
    output = calls[0]
    if output is None:
        return "returns no tensor", False
    if not output.is_floating_point():
        return f"returns {output.dtype}, not floating-point features", False
    if output.ndim < 2 or output.shape[0] != PROBE_IMAGES:
        shape = f"{tuple(output.shape)} for {PROBE_IMAGES} images"
        return f"returns {shape}: the first axis must be the images", False
    try:
        features_of(output, subject.tokens, readout)
    except LayerError as error:
        return f"cannot be read: {error}", True
    return None, False


def _identity(
    subjects: Sequence[Subject], rows: Sequence[Row], source: ImageSource, plan: Plan, here: Runtime
) -> dict[str, Any]:
    """Return everything that determines the numbers, as JSON types."""
    return {
        "models": [
            {
                "name": subject.name,
                "origin": {key: of for key, of in subject.origin.items() if key != "note"},
                "preprocessing": _preprocessing(subject.preprocessing),
                "layers": [[row.path, row.readout] for row in rows if row.subject == index],
            }
            for index, subject in enumerate(subjects)
        ],
        "images": {
            "digest": source.digest(list(itertools.chain.from_iterable(plan.batches))),
            "count": sum(len(batch) for batch in plan.batches),
        },
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "precision": here.precision,
    }


def _circumstances(
    subjects: Sequence[Subject],
    source: ImageSource,
    plan: Plan,
    here: Runtime,
    shard: tuple[int, int],
    command: str | None,
) -> dict[str, Any]:
    """Return what is worth recording and does not determine the numbers."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("refiner-cka", "torch", "timm", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "data": source.description,
        "left_out": plan.left_out,
        "notes": {
            subject.name: subject.origin["note"] for subject in subjects if "note" in subject.origin
        },
        "device": runtime.describe(here.device),
        "processes": here.world,
        "shard": list(shard),
        "versions": versions,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _preprocessing(value: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": list(value.input_size),
        "mean": list(value.mean),
        "std": list(value.std),
        "interpolation": value.interpolation,
        "crop_pct": value.crop_pct,
        "crop_mode": value.crop_mode,
    }


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
