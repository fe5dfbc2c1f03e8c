"""The analysis: prepare everything and refuse early, then one loop over the batches.

image -> decoded once -> each model's preprocessing -> forward pass -> Gram matrix inside each hook
      -> per batch one product of the stack of all layers of all models -> added to the sums
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import distributed

from . import hsic, runtime
from .accumulator import Accumulator
from .errors import AnalysisWarning, DataError, DeviceError, LayerError, ModelError
from .estimate import relative_depth
from .hooks import Lockstep, capture, first_outputs
from .images import Batch, ImageSource, Plan, load_batches, open_source, plan_batches
from .minibatch import GramStack
from .preprocessing import Preprocessing
from .readout import READOUTS, Readout, features_of, tensor_of
from .result import GROUPS, Layer, Result, Unreadable
from .runtime import Precision, Runtime
from .subjects import Subject, name_apart, resolve

Progress = Callable[[int, int], None]
"""Called after each batch with the images done by this process and those it has in all."""

_PROBE_IMAGES = 3
"""Images of the pass that finds out which layers are called. Not 1 or 2: such an axis may be there by chance."""


class Interrupted(KeyboardInterrupt):
    """The analysis was interrupted; `result` holds what was measured until then."""

    def __init__(self, result: Result) -> None:
        super().__init__("interrupted")
        self.result = result


@dataclass(frozen=True, eq=False)
class Row:
    """A layer of one subject under one readout: a row of the matrix."""

    subject: int
    path: str
    readout: Readout


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
        class_maps: for each subject the logit of each class of the source (-1: none), or `None`.
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
    class_maps: tuple[tuple[int, ...] | None, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    provenance: Mapping[str, Any]

    def run(self, *, resume: Result | None = None, progress: Progress | None = None) -> Result:
        """Measure.

        Args:
            resume: a part of this analysis to go on from; its batches are not measured again.
            progress: called after each batch.

        Raises:
            Interrupted: Ctrl-C in a run of one process; carries what was measured.
            DataError: fewer than 4 images were readable.
            DeviceError: not even one image at a time fits the device's memory.
        """
        if resume is not None and resume.fingerprint != self.fingerprint:
            raise DataError(
                "the result to resume is of another analysis; repeat its command, or start anew without it"
            )
        with ExitStack() as stack:
            for subject in self.subjects:
                stack.enter_context(self.runtime.hosting(subject.module))
            stack.enter_context(self.runtime.session())
            measurement = stack.enter_context(Measurement(self))
            if resume is not None:
                measurement.load(resume)
            try:
                measurement.measure(self._wanted(measurement.accumulator.batches), progress)
            except KeyboardInterrupt:
                if self.runtime.world > 1:
                    raise
                raise Interrupted(measurement.result()) from None
            if self.runtime.world > 1:
                measurement.all_reduce()
        return _checked(measurement.result())

    def _wanted(self, held: frozenset[int]) -> list[int]:
        index, count = self.shard
        left = [k for k in range(index - 1, len(self.plan.batches), count) if k not in held]
        return left[self.runtime.rank :: self.runtime.world]


class Measurement:
    """The state of a running analysis: sums, the Gram stack, hooks. A context: hooks live inside it."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        device = analysis.runtime.device
        sizes = [len(batch) for batch in analysis.plan.batches]
        layers, models = len(analysis.rows), len(analysis.subjects)
        self.accumulator = Accumulator(
            {"hsic": (layers, layers), "images": (), "correct": (models,), "labelled": (models,)},
            groups=GROUPS,
            device=device,
        )
        self._grams = GramStack(layers, max(sizes), device)
        self._chunk = max(sizes)
        self._unreadable: list[Unreadable] = []
        self._hooks = ExitStack()
        self._passes = [self._lockstep(index) for index in range(models)]
        self._class_maps = [
            None if logits is None else torch.tensor(logits, device=device)
            for logits in analysis.class_maps
        ]

    def __enter__(self) -> Measurement:
        for index, (subject, lockstep) in enumerate(
            zip(self._analysis.subjects, self._passes, strict=True)
        ):
            paths = dict.fromkeys(row.path for row in self._analysis.rows if row.subject == index)
            self._hooks.enter_context(capture(subject.module, list(paths), lockstep.arrive))
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.close()

    def load(self, part: Result) -> None:
        """Go on from a part of the analysis."""
        self.accumulator.load(part.sums, set(part.batches.tolist()))
        self._unreadable.extend(part.unreadable)

    def measure(self, wanted: Sequence[int], progress: Progress | None) -> None:
        """Measure the batches of these numbers. Nothing in the loop waits for the device."""
        analysis = self._analysis
        total = sum(len(analysis.plan.batches[k]) for k in wanted)
        done = 0
        for batch in load_batches(
            analysis.source,
            analysis.plan,
            wanted,
            tuple(dict.fromkeys(subject.preprocessing for subject in analysis.subjects)),
            workers=analysis.workers,
            pin_memory=analysis.runtime.pin_memory,
        ):
            self.add(batch)
            done += len(analysis.plan.batches[batch.index])
            if progress is not None:
                progress(done, total)

    def add(self, batch: Batch) -> None:
        """Measure one batch and add it to the sums, wholly or not at all."""
        images = batch.images
        if images < hsic.MIN_BATCH:
            self._note_unreadable(batch)
            self.accumulator.skip(batch.index)
            return
        device = self._analysis.runtime.device
        # Models that differ only in mean and std share their pixels, which cross to the device once.
        moved = {
            id(pixels): pixels.to(device, non_blocking=True) for pixels in batch.inputs.values()
        }
        inputs = {
            preprocessing: preprocessing.normalize(moved[id(pixels)])
            for preprocessing, pixels in batch.inputs.items()
        }
        labels = None if batch.labels is None else batch.labels.to(device, non_blocking=True)
        self._grams.begin(images)
        scores = [
            self._score(index, self._forward(index, inputs[subject.preprocessing]), labels)
            for index, subject in enumerate(self._analysis.subjects)
        ]
        correct, labelled = torch.stack(scores).unbind(1)
        sums = self.accumulator.device
        self.accumulator.add(
            batch.index,
            {
                "hsic": self._grams.products(),
                "images": float(images),
                "correct": correct.to(sums),
                "labelled": labelled.to(sums),
            },
        )
        self._note_unreadable(batch)

    def all_reduce(self) -> None:
        """Replace the state by its total over all processes."""
        self.accumulator.all_reduce()
        everyone: list[list[Unreadable]] = [[] for _ in range(self._analysis.runtime.world)]
        distributed.all_gather_object(everyone, self._unreadable)
        self._unreadable = list(itertools.chain.from_iterable(everyone))

    def result(self) -> Result:
        """Return what has been measured so far."""
        analysis = self._analysis
        sums = self.accumulator.sums()
        return Result(
            layers=_layers(analysis.subjects, analysis.rows),
            sums=sums,
            batches=np.array(sorted(self.accumulator.batches), dtype=np.int64),
            total_batches=len(analysis.plan.batches),
            unreadable=tuple(sorted(self._unreadable, key=lambda entry: entry.image)),
            warnings=analysis.warnings,
            provenance=analysis.provenance,
            fingerprint=analysis.fingerprint,
        )

    def _note_unreadable(self, batch: Batch) -> None:
        self._unreadable.extend(Unreadable(entry.id, entry.reason) for entry in batch.unreadable)

    def _lockstep(self, index: int) -> Lockstep:
        """Return the passes of one subject: at each layer, its Gram matrices go to their rows."""
        rows: dict[str, list[tuple[int, Readout]]] = {}
        for position, row in enumerate(self._analysis.rows):
            if row.subject == index:
                rows.setdefault(row.path, []).append((position, row.readout))
        layout = self._analysis.subjects[index].tokens
        device_type = self._analysis.runtime.device.type

        def visit(path: str, outputs: Sequence[Any]) -> None:
            tensors = [_tensor(output, path) for output in outputs]
            # Under autocast the products would be taken in half precision, where they overflow.
            with torch.autocast(device_type, enabled=False):
                for position, readout in rows[path]:
                    features = [features_of(tensor, layout, readout) for tensor in tensors]
                    self._grams.put(position, features)

        return Lockstep(visit)

    def _forward(self, index: int, inputs: torch.Tensor) -> Any:
        """Return one subject's output for each chunk, halving the chunk while memory runs out.

        The CKA batch stays: it is part of the estimator, and only the forward pass is split.
        """
        module = self._analysis.subjects[index].module
        while True:
            try:
                return self._passes[index].run(module, inputs.split(self._chunk))
            except (RuntimeError, MemoryError) as error:
                if not runtime.is_out_of_memory(error):
                    raise
            # Outside the handler, where the failed pass's tensors are no longer held by the traceback.
            if self._chunk == 1:
                raise DeviceError(
                    "out of memory even with one image at a time; use a device with more memory, a smaller "
                    "--image-size or fewer --model"
                )
            self._chunk = math.ceil(min(self._chunk, len(inputs)) / 2)
            runtime.release_memory(self._analysis.runtime.device)

    def _score(
        self, index: int, outputs: Sequence[Any], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `(2,)` float64: images whose class was predicted, and images with a class to predict."""
        classes = self._class_maps[index]
        if classes is None or labels is None:
            return torch.zeros(2, dtype=torch.float64, device=self._analysis.runtime.device)
        logits = torch.cat([_tensor(output, "logits") for output in outputs])
        wanted = classes[labels]
        correct = (logits.argmax(1) == wanted).sum()
        return torch.stack([correct, (wanted >= 0).sum()]).to(torch.float64)


def prepare(
    models: Iterable[str | Subject] | str | Subject,
    data: Any,
    *,
    layers: str = "block",
    tokens: str = "all",
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
    _check_counts(batch_size, images, shard)
    here = runtime.detect(device, precision)
    source = open_source(data)
    plan = plan_batches(source, batch_size=batch_size, images=images, seed=seed)
    wanted = [models] if isinstance(models, str | Subject) else list(models)
    if not wanted:
        raise ModelError("no model to analyse: name at least one")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    resolved = [
        subject
        for model in wanted
        for subject in (
            [model]
            if isinstance(model, Subject)
            else resolve(model, layers=layers, image_size=size, seed=seed)
        )
    ]
    subjects = tuple(name_apart(resolved))
    rows: list[Row] = []
    left_out: list[str] = []
    class_maps = []
    for index, subject in enumerate(subjects):
        probe = _probe(subject, source, here)
        chosen, dropped = _choose_rows(subject, probe, readouts)
        rows.extend(Row(index, path, readout) for readout, path in chosen)
        left_out.extend(dropped)
        class_maps.append(_class_map(subject, source, probe.logits))
    for line in left_out:
        warnings.warn(line, AnalysisWarning, stacklevel=2)
    identity = _identity(subjects, rows, source, plan, here)
    return Analysis(
        subjects=subjects,
        rows=tuple(rows),
        source=source,
        plan=plan,
        runtime=here,
        workers=_default_workers(here) if workers is None else workers,
        shard=shard,
        class_maps=tuple(class_maps),
        warnings=tuple(left_out),
        fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        provenance={**identity, **_circumstances(source, plan, here, shard, command)},
    )


def analyze(
    models: Iterable[str | Subject] | str | Subject,
    data: Any,
    *,
    resume: Result | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Measure how the representations of models change with depth, in one pass over the images.

    Args:
        models: names as in `--model` (`deit_s`, `deit_s=epoch05.pth`, `resnet50=random`), `Subject`s, or a mix.
        data: a folder, archive or array file, `digits`, a tensor or array, or an `ImageSource`.
        resume: a part of the same analysis to go on from.
        progress: called after each batch with the images done and their total.
        **options: `layers` (`block`, `attn`, `mlp`, `all` or a glob; for models given by name), `tokens`
            (`all`, `patch`, `cls`, `mean`, several with commas), `batch_size` (the CKA batch, part of the
            estimator; 64), `images` (how many; all), `image_size`, `device`, `precision` (`fp32`, `bf16`,
            `fp16`), `workers`, `seed` (0; order of the images and untrained weights), `shard` (`(i, n)`).

    Returns:
        The result. With several processes (`torchrun`) each returns the same.

    Raises:
        RefinerCkaError: see `errors`; the message says what to do.
        Interrupted: Ctrl-C; carries what was measured.
    """
    return prepare(models, data, **options).run(resume=resume, progress=progress)


@dataclass(frozen=True)
class _Probe:
    """What one forward pass of a few images showed."""

    calls: Mapping[str, list[torch.Tensor | None]]
    """Layers in the order of their first call; each call's output, on the meta device."""
    logits: int | None
    """Number of classes the model predicts, if its output is `(images, classes)`."""


def _probe(subject: Subject, source: ImageSource, here: Runtime) -> _Probe:
    shape = source.input_shape or subject.preprocessing.input_size

    def forward() -> Any:
        return subject.module(torch.zeros(_PROBE_IMAGES, *shape, device=here.device))

    def shape_of(output: Any) -> torch.Tensor | None:
        tensor = tensor_of(output)
        return None if tensor is None else torch.empty_like(tensor, device="meta")

    with here.hosting(subject.module), here.session():
        try:
            calls, returned = first_outputs(subject.module, subject.layers, forward, shape_of)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"{subject.name} fails on images of shape {'x'.join(map(str, shape))}: {reason}"
            ) from error
    logits = tensor_of(returned)
    return _Probe(calls, logits.shape[1] if logits is not None and logits.ndim == 2 else None)


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
    dropped: list[str] = []
    for readout, path in itertools.product(readouts, order):
        reason = _obstacle(subject, probe.calls.get(path, []), readout)
        if reason is None:
            rows.append((readout, path))
            continue
        line = f"{subject.name}: layer {path} {reason}"
        if not subject.pattern:
            raise LayerError(f"{line}; choose other layers")
        if f"{line}; left out" not in dropped:
            dropped.append(f"{line}; left out")
    for readout in readouts:
        if not any(chosen == readout for chosen, _ in rows):
            raise LayerError(
                f"no layer is left to read as {readout!r}: {dropped[0].removesuffix('; left out')}"
            )
    return rows, dropped


def _obstacle(
    subject: Subject, calls: Sequence[torch.Tensor | None], readout: Readout
) -> str | None:
    """Return why a layer cannot be a row, or `None`."""
    if not calls:
        return "is never called"
    if len(calls) > 1:
        return f"is called {len(calls)} times in one forward pass"
    output = calls[0]
    if output is None:
        return "returns no tensor"
    if not output.is_floating_point():
        return f"returns {output.dtype}, not floating-point features"
    if output.ndim < 2 or output.shape[0] != _PROBE_IMAGES:
        return f"returns {tuple(output.shape)} for {_PROBE_IMAGES} images: the first axis must be the images"
    try:
        features_of(output, subject.tokens, readout)
    except LayerError as error:
        return f"cannot be read: {error}"
    return None


def _class_map(subject: Subject, source: ImageSource, logits: int | None) -> tuple[int, ...] | None:
    """Return the logit of each class of the source (-1: none), or `None` where classes cannot be matched.

    By name where the model's class names are known; else, for a trained model with as many classes as the
    source, in sorted order, as training on such folders numbers them.
    """
    if source.classes is None or logits is None:
        return None
    if subject.classes is not None and len(subject.classes) == logits:
        position = {name: index for index, name in enumerate(subject.classes)}
        matched = tuple(position.get(name, -1) for name in source.classes)
        return matched if any(index >= 0 for index in matched) else None
    if subject.classes is None and subject.trained and len(source.classes) == logits:
        return tuple(range(logits))
    return None


def _layers(subjects: Sequence[Subject], rows: Sequence[Row]) -> tuple[Layer, ...]:
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.subject, row.readout), []).append(row)
    return tuple(
        Layer(subjects[row.subject].name, row.path, row.readout, index, float(depth))
        for members in groups.values()
        for index, (row, depth) in enumerate(
            zip(members, relative_depth(len(members)), strict=True)
        )
    )


def _checked(result: Result) -> Result:
    """Return the result with a warning for each degenerate layer.

    Raises:
        DataError: no batch had 4 readable images.
    """
    if result.images < hsic.MIN_BATCH and result.total_batches == len(result.batches):
        first = (
            f" (first: {result.unreadable[0].image}: {result.unreadable[0].reason})"
            if result.unreadable
            else ""
        )
        raise DataError(
            f"fewer than {hsic.MIN_BATCH} images could be read{first}; CKA needs at least "
            f"{hsic.MIN_BATCH} in a batch"
        )
    own = np.diagonal(result.sums["hsic"].sum(0))
    undefined = set(result.degenerate()) if result.images else set()
    lines = []
    for position, layer in enumerate(result.layers):
        if layer in undefined:
            cause = "do not vary between images" if np.isfinite(own[position]) else "are not finite"
            lines.append(
                f"{layer.model}: the features of layer {layer.path} ({layer.tokens}) {cause}; "
                "its CKA is undefined (NaN)"
            )
    for line in lines:
        warnings.warn(line, AnalysisWarning, stacklevel=3)
    return replace(result, warnings=(*result.warnings, *lines))


def _identity(
    subjects: Sequence[Subject], rows: Sequence[Row], source: ImageSource, plan: Plan, here: Runtime
) -> dict[str, Any]:
    """Return everything that determines the numbers, as JSON types."""
    return {
        "models": [
            {
                "name": subject.name,
                "origin": dict(subject.origin),
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
    source: ImageSource, plan: Plan, here: Runtime, shard: tuple[int, int], command: str | None
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


def _tensor(output: Any, path: str) -> torch.Tensor:
    tensor = tensor_of(output)
    if tensor is None:
        raise LayerError(f"layer {path} returned no tensor for some images; choose other layers")
    return tensor


def _readouts(tokens: str) -> tuple[Readout, ...]:
    names = [name.strip() for name in tokens.split(",")]
    known: dict[str, Readout] = {readout: readout for readout in READOUTS}
    for name in names:
        if name not in known:
            raise LayerError(f"unknown --tokens {name!r}; choose from {', '.join(READOUTS)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def _check_counts(batch_size: int, images: int | None, shard: tuple[int, int]) -> None:
    if batch_size < hsic.MIN_BATCH:
        raise DataError(
            f"--batch-size {batch_size} is too small: unbiased CKA needs at least {hsic.MIN_BATCH}"
        )
    if images is not None and images < hsic.MIN_BATCH:
        raise DataError(
            f"--images {images} is too few: unbiased CKA needs at least {hsic.MIN_BATCH}"
        )
    if not 1 <= shard[0] <= shard[1]:
        raise DataError(
            f"--shard {shard[0]}/{shard[1]}: the first number must be from 1 to the second"
        )


def _default_workers(here: Runtime) -> int:
    """Return loading processes: the cores shared among this machine's processes, 8 at most."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(here.world)))
    return min(8, (os.cpu_count() or 1) // local)
