"""The one loop: batches through the models, sums out.

image -> decoded once -> each model's preprocessing -> forward pass -> Gram matrix inside each hook
      -> per batch one product of the stack of all layers of all models -> added to the sums
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import distributed

from ..errors import AnalysisWarning, DataError, DeviceError, LayerError
from ..images import Batch, UnreadableImage, load_batches
from ..measures.attention import BLOCK_SIMILARITY, CHUNK_IMAGES
from ..measures.attention import MEASURES as ATTENTION_MEASURES
from ..measures.gram import GramStack
from ..measures.tally import AttentionTally, TokenTally
from ..measures.tokens import MEASURES
from ..results.result import (
    AttentionLayer,
    Layer,
    Result,
    Unreadable,
    derived_lines,
    differences,
    unique_images,
)
from ..results.statistics import relative_depth
from ..subjects import Subject
from ..subjects.attention import unfused
from ..subjects.hooks import capture
from ..subjects.readout import features_of, tensor_at
from ..subjects.sites import TokenSite
from ..sums import GROUPS, MIN_BATCH, Quantity
from . import process, runtime
from .lockstep import Diverged, Lockstep
from .preparation import Analysis, Options, Row, prepare
from .state import Accumulator, Seen

Progress = Callable[[int, int], None]
"""Called after each batch with the images done by this process and those it has in all."""


CPU_CHUNK = 8
"""Images of one forward pass on a CPU, whose caches then hold the activations. `make bench` shows the gain."""


class Interrupted(KeyboardInterrupt):
    """The analysis was interrupted; `result` holds what was measured until then."""

    def __init__(self, result: Result) -> None:
        super().__init__("interrupted")
        self.result = result


def analyze(
    models: Iterable[str | Subject] | str | Subject,
    data: Any,
    *,
    resume: Result | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Result:
    """Measure how the representations of models change with depth, in one pass over the images.

    Args:
        models: names as in `--model` (`deit_s`, `deit_s=epoch05.pth`, `resnet50=random`), `Subject`s, or a mix.
        data: a folder, archive or array file, `digits`, a tensor or array, or an `ImageSource`.
        resume: a part of the same analysis to go on from.
        progress: called after each batch with the images done and their total.
        **options: `layers` (`block`, `attn`, `mlp`, `all` or a glob; for models given by name), `tokens`
            (`all`, `patch`, `cls`, `mean`, several with commas), `smoothing` (over-smoothing measures: names with
            commas, `all` or `none`; see `smoothing.MEASURES`), `smoothing_prefix` (prefix tokens count in them),
            `attention` (measure attention maps too), `batch_size` (the CKA batch, part of the
            estimator; 64), `images` (how many; all), `image_size`, `device`, `precision` (`fp32`, `bf16`,
            `fp16`), `workers`, `seed` (0; order of the images and untrained weights), `shard` (`(i, n)`).

    Returns:
        The result. With several processes (`torchrun`) each returns the same.

    Raises:
        RefinerCkaError: see `errors`; the message says what to do.
        Interrupted: Ctrl-C; carries what was measured.
    """
    return measure(prepare(models, data, **options), resume=resume, progress=progress)


def measure(
    analysis: Analysis, *, resume: Result | None = None, progress: Progress | None = None
) -> Result:
    """Measure a prepared analysis.

    Args:
        analysis: from `prepare`.
        resume: a part of this analysis to go on from; its batches are not measured again. Of several
            processes the first one's is taken.
        progress: called after each batch.

    Raises:
        Interrupted: Ctrl-C in a run of one process; carries what was measured.
        DataError: fewer than 4 images were readable; `resume` is of another analysis or of other images,
            or one of several processes is.
        DeviceError: not even one image at a time fits the device's memory.
    """
    if resume is not None and resume.fingerprint != analysis.fingerprint:
        found = differences(resume.provenance, analysis.provenance) or "the fingerprints differ"
        raise DataError(
            f"the result to resume is of another analysis: {found}; repeat its command, or start anew "
            "without it"
        )
    here = analysis.runtime
    with ExitStack() as stack:
        for subject in analysis.subjects:
            stack.enter_context(here.hosting(subject.module))
        stack.enter_context(here.session())
        measurement = Measurement(analysis)
        # One process brings in the sums, else each would count them.
        if resume is not None and here.rank == 0:
            measurement.load(resume)
        try:
            measurement.measure(analysis.wanted(measurement.agree()), progress)
        except KeyboardInterrupt:
            if here.world > 1:
                raise
            raise Interrupted(measurement.result()) from None
        if here.world > 1:
            measurement.all_reduce()
    return _checked(measurement.result(), analysis)


class Measurement:
    """The state of a running analysis: sums, the Gram stack, what each model is watched by."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        device = analysis.runtime.device
        sizes = [len(batch) for batch in analysis.plan.batches]
        layers, models = len(analysis.rows), len(analysis.subjects)
        sites = [row.site for row in analysis.rows]
        self._tokens = TokenTally(analysis.measures, sites, analysis.plan, device)
        self._attention = AttentionTally(analysis.attention_sites, analysis.plan, device)
        self.accumulator = Accumulator(
            {
                "hsic": (layers, layers),
                "images": (),
                "correct": (models,),
                "labelled": (models,),
                **self._tokens.shapes,
                **self._attention.shapes,
            },
            groups=GROUPS,
            device=device,
        )
        self._grams = GramStack(layers, max(sizes), device)
        self._chunk = min(CPU_CHUNK, max(sizes)) if device.type == "cpu" else max(sizes)
        self._short_of_memory = False
        self._whole = [bool(reason) for reason in analysis.whole]
        self._calls: Counter[str] = Counter()
        self._said: list[str] = []
        self._batch = 0
        self._unreadable: list[Unreadable] = []
        self._passes = [self._lockstep(index) for index in range(models)]
        self._class_maps = [
            None if logits is None else torch.tensor(logits, device=device)
            for logits in analysis.class_maps
        ]

    def load(self, part: Result) -> None:
        """Go on from a part of the analysis.

        One of its batches is read again: the fingerprint does not cover all of every image.

        Raises:
            DataError: that batch has other pixels now.
        """
        made = zip(part.batch_planned, part.batch_images, part.batch_digests, strict=True)
        seen = {
            int(batch): Seen(
                int(planned), int(images), tuple(digest.tobytes() for digest in digests)
            )
            for batch, (planned, images, digests) in zip(part.batches, made, strict=True)
        }
        for batch in self._load(list(seen)[:1], workers=0):
            if self._seen(batch, 0).digests != seen[batch.index].digests:
                raise DataError(
                    f"batch {batch.index} has other pixels than when it was measured: the images "
                    "changed since, or are random; start anew without the result to resume"
                )
        self.accumulator.load(part.sums, seen)
        self._unreadable.extend(part.unreadable)
        known = {*self._analysis.warnings, *derived_lines(part)}
        self._said.extend(line for line in part.warnings if line not in known)

    def agree(self) -> frozenset[int]:
        """Return the batches that the first process holds, which none is to measure.

        Raises:
            DataError: the processes are about to measure different things.
        """
        here = self._analysis.runtime
        if here.world == 1:
            return self.accumulator.batches
        mine = (self._analysis.fingerprint, self._analysis.provenance, self.accumulator.batches)
        everyone = [mine] * here.world
        distributed.all_gather_object(everyone, mine)
        fingerprint, provenance, held = everyone[0]
        for rank, (other, theirs, _) in enumerate(everyone):
            if other != fingerprint:
                found = differences(provenance, theirs) or "the fingerprints differ"
                raise DataError(
                    f"process {rank} is about to measure something else than process 0: {found}; give "
                    "all processes the same models and images"
                )
        return held

    def measure(self, wanted: Sequence[int], progress: Progress | None) -> None:
        """Measure the batches of these numbers. Nothing in the loop waits for the device."""
        analysis = self._analysis
        total = sum(len(analysis.plan.batches[k]) for k in wanted)
        done = 0
        for batch in self._load(wanted, analysis.workers):
            self.add(batch)
            done += len(analysis.plan.batches[batch.index])
            if progress is not None:
                progress(done, total)
        if analysis.runtime.rank == 0:
            self._read_left_out()

    def _load(self, wanted: Sequence[int], workers: int) -> Iterator[Batch]:
        analysis = self._analysis
        return load_batches(
            analysis.source,
            analysis.plan,
            wanted,
            tuple(dict.fromkeys(subject.preprocessing for subject in analysis.subjects)),
            workers=workers,
            pin_memory=analysis.runtime.pin_memory,
        )

    def _seen(self, batch: Batch, images: int) -> Seen:
        digests = [batch.digests[subject.preprocessing] for subject in self._analysis.subjects]
        return Seen(len(self._analysis.plan.batches[batch.index]), images, tuple(digests))

    def _read_left_out(self) -> None:
        """Note which images of a last batch that was too small to be measured are unreadable."""
        source = self._analysis.source
        for index in self._analysis.plan.left_out:
            try:
                source.read(index)
            except UnreadableImage as error:
                self._unreadable.append(Unreadable(source.ids[index], str(error)))

    def add(self, batch: Batch) -> None:
        """Measure one batch and add it to the sums, wholly or not at all."""
        self._note_unreadable(batch)
        images = batch.images
        self._batch = batch.index
        if images < MIN_BATCH:
            self.accumulator.skip(batch.index, self._seen(batch, 0))
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
        self._tokens.begin(batch.index, images)
        self._attention.begin(batch.index, images)
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
                **self._tokens.sums(batch.index),
                **self._attention.sums(batch.index),
            },
            self._seen(batch, images),
        )

    def all_reduce(self) -> None:
        """Replace the state by its total over all processes."""
        self.accumulator.all_reduce()
        everyone = [(self._unreadable, self._said)] * self._analysis.runtime.world
        distributed.all_gather_object(everyone, (self._unreadable, self._said))
        self._unreadable = [image for unreadable, _ in everyone for image in unreadable]
        self._said = list(dict.fromkeys(line for _, said in everyone for line in said))

    def result(self) -> Result:
        """Return what has been measured so far."""
        analysis = self._analysis
        sums, seen = self.accumulator.sums(), self.accumulator.seen
        digests = b"".join(digest for of in seen.values() for digest in of.digests)
        return Result(
            layers=_layers(analysis.subjects, analysis.rows),
            attention=_attention_layers(analysis),
            quantities=_quantities(analysis),
            sums=sums,
            batches=np.array(list(seen), dtype=np.int64),
            batch_planned=np.array([of.planned for of in seen.values()], dtype=np.int64),
            batch_images=np.array([of.images for of in seen.values()], dtype=np.int64),
            batch_digests=np.frombuffer(digests, np.uint8).reshape(
                len(seen), len(analysis.subjects), 32
            ),
            total_batches=len(analysis.plan.batches),
            unreadable=unique_images(self._unreadable),
            warnings=tuple(dict.fromkeys((*analysis.warnings, *self._said))),
            provenance=analysis.provenance,
            fingerprint=analysis.fingerprint,
        )

    def _note_unreadable(self, batch: Batch) -> None:
        self._unreadable.extend(Unreadable(*entry) for entry in batch.unreadable)

    def _lockstep(self, index: int) -> Lockstep:
        """Return the passes of one subject: at each layer, its Gram matrices go to their rows."""
        rows: dict[str, list[tuple[int, Row]]] = {}
        for position, row in enumerate(self._analysis.rows):
            if row.subject == index:
                rows.setdefault(row.path, []).append((position, row))

        def visit(path: str, outputs: Sequence[Any]) -> None:
            self._calls[path] += 1
            place = rows[path][0][1].place
            tensors = [_tensor(output, path, place).detach() for output in outputs]
            with self._exactly():
                for position, row in rows[path]:
                    features = [features_of(each, row.layout, row.readout) for each in tensors]
                    self._grams.put(position, features)
                self._tokens.put([position for position, _ in rows[path]], tensors)

        return Lockstep(visit)

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """Reduce features without gradients and autocast, whatever the model's code set around its layer.

        Under autocast the products would be taken in half precision, where they overflow; and memory that is
        made in inference mode cannot be written to outside it.
        """
        kind = self._analysis.runtime.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
            yield

    @contextmanager
    def _watched(self, index: int) -> Iterator[None]:
        """Have one subject's layers visited, and its attention maps made and measured, in the passes inside.

        Only then: two subjects may be one module, read in two ways.
        """
        analysis, module = self._analysis, self._analysis.subjects[index].module
        paths = dict.fromkeys(row.path for row in analysis.rows if row.subject == index)
        sites = {
            site.point.hook: number
            for number, site in enumerate(analysis.attention_sites)
            if site.subject == index
        }

        def visit(hook: str, output: Any) -> None:
            with self._exactly():
                maps = _tensor(output, hook, 0).detach()
                self._attention.put(sites[hook], maps, Lockstep.first_image())

        with ExitStack() as stack:
            stack.enter_context(capture(module, list(paths), self._passes[index].arrive))
            if sites:
                stack.enter_context(unfused(module))
                stack.enter_context(capture(module, list(sites), visit))
            yield

    def _forward(self, index: int, inputs: torch.Tensor) -> Any:
        """Return one subject's output for each chunk, halving the chunk while memory runs out.

        The CKA batch stays: it is part of the estimator, and only the forward pass is split. A model that
        takes different ways for different images, or whose chunks cannot take turns, gets whole batches.

        Raises:
            LayerError: a layer was not called just once, as it was when its row was made.
        """
        subject = self._analysis.subjects[index]
        has_maps = any(site.subject == index for site in self._analysis.attention_sites)
        process.seed(self._analysis.plan.seed, self._batch, inputs.device)
        while True:
            chunk = min(self._chunk, CHUNK_IMAGES) if has_maps else self._chunk
            parts = [inputs] if self._whole[index] else torch.split(inputs, chunk)
            self._calls.clear()
            try:
                with self._watched(index):
                    outputs = self._passes[index].run(subject.module, parts)
                break
            except Diverged:
                if self._short_of_memory:
                    raise
                self._go_whole(index)
                continue
            except (RuntimeError, MemoryError) as error:
                if not runtime.is_out_of_memory(error):
                    raise
            # Outside the handler, where the failed pass's tensors are no longer held by the traceback.
            self._save_memory(index, min(chunk, len(inputs)))
        self._check_calls(index)
        self._attention.compare(index)
        return outputs

    def _check_calls(self, index: int) -> None:
        """Refuse a pass that left a row as the batch before had it, or wrote one twice.

        Raises:
            LayerError: names the layer.
        """
        name = self._analysis.subjects[index].name
        for path in dict.fromkeys(row.path for row in self._analysis.rows if row.subject == index):
            if self._calls[path] != 1:
                raise LayerError(
                    f"{name}: layer {path} was called {self._calls[path]} times in the pass over batch "
                    f"{self._batch}, not once as over other images, so it has no features for the same images: "
                    "choose other layers"
                )

    def _go_whole(self, index: int) -> None:
        """Give a model whole batches from now on, and say so."""
        self._whole[index] = True
        line = (
            f"{self._analysis.subjects[index].name}: each batch goes through the model whole, since it calls "
            "different layers for different images"
        )
        self._said.append(line)
        if self._analysis.runtime.rank == 0:
            warnings.warn(line, AnalysisWarning, stacklevel=2)

    def _save_memory(self, index: int, chunk: int) -> None:
        """Halve the chunk.

        Raises:
            DeviceError: it cannot be halved.
        """
        if self._whole[index]:
            name = self._analysis.subjects[index].name
            reason = self._analysis.whole[index] or "it calls different layers for different images"
            raise DeviceError(
                f"out of memory, and a batch of {name} cannot be split, since {reason}; use a smaller --batch-size"
            )
        if chunk == 1:
            raise DeviceError(
                "out of memory even with one image at a time; use a device with more memory, a smaller "
                "--image-size or fewer --model"
            )
        self._short_of_memory = True
        self._chunk = math.ceil(chunk / 2)
        runtime.release_memory(self._analysis.runtime.device)

    def _score(
        self, index: int, outputs: Sequence[Any], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `(2,)` float64: images whose class was predicted, and images with a class to predict."""
        classes = self._class_maps[index]
        if classes is None or labels is None:
            return torch.zeros(2, dtype=torch.float64, device=self._analysis.runtime.device)
        place = self._analysis.logits_places[index]
        logits = torch.cat([_tensor(output, "logits", place) for output in outputs])
        wanted = classes[labels]
        correct = (logits.argmax(1) == wanted).sum()
        return torch.stack([correct, (wanted >= 0).sum()]).to(torch.float64)


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


def _attention_layers(analysis: Analysis) -> tuple[AttentionLayer, ...]:
    groups: dict[tuple[int, str], list[str]] = {}
    for site in analysis.attention_sites:
        groups.setdefault((site.subject, site.point.kind), []).append(site.point.path)
    return tuple(
        AttentionLayer(analysis.subjects[subject].name, path, kind, index, float(depth))
        for (subject, kind), paths in groups.items()
        for index, (path, depth) in enumerate(zip(paths, relative_depth(len(paths)), strict=True))
    )


def _quantities(analysis: Analysis) -> tuple[Quantity, ...]:
    """Return what is measured beside CKA, in the order of the tables."""
    found = [MEASURES[name].quantity for name in MEASURES if name in analysis.measures]
    if analysis.attention_sites:
        found += [measure.quantity for measure in ATTENTION_MEASURES.values()]
        found.append(BLOCK_SIMILARITY)
    return tuple(found)


def _checked(result: Result, analysis: Analysis) -> Result:
    """Return the result with a warning for each layer where CKA or a measure is undefined.

    Raises:
        DataError: no batch had 4 readable images.
    """
    if result.images < MIN_BATCH and result.total_batches == len(result.batches):
        first = (
            f" (first: {result.unreadable[0].image}: {result.unreadable[0].reason})"
            if result.unreadable
            else ""
        )
        raise DataError(
            f"fewer than {MIN_BATCH} images could be read{first}; CKA needs at least "
            f"{MIN_BATCH} in a batch"
        )
    lines = [*derived_lines(result), *_undefined(result, analysis)]
    for line in lines if analysis.runtime.rank == 0 else []:
        warnings.warn(line, AnalysisWarning, stacklevel=3)
    return replace(result, warnings=(*result.warnings, *lines))


def _undefined(result: Result, analysis: Analysis) -> Iterator[str]:
    """Yield a line for each layer where over-smoothing measures are undefined, and for which images."""
    found: dict[str, list[str]] = {}
    for quantity in result.quantities:
        # Pairs of maps, and what is measured on a few images, have no count to compare with.
        if quantity.few:
            continue
        of_maps = quantity.places == "maps"
        layers: Sequence[Layer | AttentionLayer] = result.attention if of_maps else result.layers
        total = result.sums[f"smoothing/{quantity.name}/total"].sum(0)
        images = result.sums[f"smoothing/{quantity.name}/images"].sum(0)
        for place, layer in enumerate(layers):
            if not of_maps and not _is_measured(quantity.name, analysis.rows[place].site):
                continue
            missing = int(result.images - images[place])
            where = f"{layer.model}: over-smoothing of layer {layer.path}"
            if np.isnan(total[place]):
                line = f"{where} is undefined (NaN), for its features are not finite"
            elif missing:
                line = f"{where} is undefined for {missing} of {result.images} images, left out"
            else:
                continue
            names = found.setdefault(line, [])
            names.extend([] if quantity.name in names else [quantity.name])
    yield from (f"{line}: {', '.join(names)}" for line, names in found.items())


def _is_measured(measure: str, site: TokenSite | None) -> bool:
    return site is not None and (site.grid is not None or not MEASURES[measure].on_grid)


def _tensor(output: Any, path: str, place: int) -> torch.Tensor:
    tensor = tensor_at(output, place)
    if tensor is None:
        raise LayerError(f"layer {path} returned no tensor for some images; choose other layers")
    return tensor
