"""The one loop: batches through the models, sums out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import DataError, warn
from ..images import Batch, UnreadableImage, load_batches
from ..options import Options
from ..results.contents import Unreadable
from ..results.merging import differences, unique_images
from ..results.remarks import derived_lines
from ..results.result import Result
from ..sums import FOLDS, IMAGES, MIN_BATCH, all_sums, lengths_of
from .accepting import Data, Models, accepts
from .passes import Passes
from .preparation import Analysis, prepared
from .saving import Save, Saver, check_every
from .state import Seen, State
from .together import Together, reaching

Progress = Callable[[int, int], None]
"""Called after each batch with the images done by this process and those it has in all."""


class Interrupted(KeyboardInterrupt):
    """The analysis was interrupted; `result` holds what this process measured until then."""

    def __init__(self, result: Result) -> None:
        super().__init__("interrupted")
        self.result = result


@dataclass(frozen=True, kw_only=True)
class _Call(Options):
    """The keyword arguments of `analyze`."""

    resume: Result | None = None
    progress: Progress | None = None
    save: Save | None = None
    save_every: float = 60.0

    def __post_init__(self) -> None:
        """Refuse a value that cannot work."""
        super().__post_init__()
        check_every(self.save_every)


@accepts(_Call)
def analyze(models: Models, data: Data, options: _Call) -> Result:
    """Measure how the representations of models change with depth, in one pass over the images.

    Args:
        models: names as in `--model` (`deit_s`, `deit_s=epoch05.pth`, `resnet50=random`), `Subject` objects, or
            both.
        data: a folder, archive or array file, `digits`, a tensor or array, or an `ImageSource`.
        options: keyword arguments, the fields of `Options`; and `resume`, a part of the same analysis to go on
            from, `progress`, called after each batch with the images done and their total, and `save` with
            `save_every`, for which see `measure`.

    Returns:
        The result. With several processes (`torchrun`) each returns the same.

    Raises:
        RefinerCkaError: see `errors`; the message says what to do.
        TypeError: an unknown option, or a value of another type than it takes.
        Interrupted: Ctrl-C; carries what was measured.
    """
    return measure(
        prepared(models, data, options),
        resume=options.resume,
        progress=options.progress,
        save=options.save,
        save_every=options.save_every,
    )


def measure(
    analysis: Analysis,
    *,
    resume: Result | None = None,
    progress: Progress | None = None,
    save: Save | None = None,
    save_every: float = 60.0,
) -> Result:
    """Measure a prepared analysis.

    Args:
        analysis: from `prepare`.
        resume: a part of this analysis to go on from; its batches are not measured again. Of several processes
            each may give one: one that shares a batch with that of a process before it is left out.
        progress: called after each batch.
        save: called about every `save_every` seconds, and when anything ends the measurement before its time. Each
            of several processes calls its own with its own part: when it resumes, so that no part is replaced
            that nothing else holds yet, and once more before the parts are added up.
        save_every: seconds.

    Raises:
        Interrupted: Ctrl-C; carries what this process measured.
        DataError: no time to save; fewer than 4 images were readable; `resume` is of another analysis or of
            other images, or one of several processes is.
        DeviceError: not even one image at a time fits the device's memory.
        ProcessError: another process of the run ended before its time.
    """
    check_every(save_every)
    if resume is not None and resume.fingerprint != analysis.fingerprint:
        found = differences(resume.provenance, analysis.provenance) or "the fingerprints differ"
        raise DataError(
            f"the result to resume is of another analysis: {found}; repeat its command, or start anew "
            "without it"
        )
    if resume is not None and resume.sums.keys() != all_sums(analysis.quantities).keys():
        raise DataError(
            "the result to resume holds other sums than this run; start anew without it"
        )
    here = analysis.runtime
    with ExitStack() as stack:
        for model in analysis.models:
            stack.enter_context(here.hosting(model.subject.module))
        stack.enter_context(here.session())
        measurement = Measurement(analysis)
        together = measurement.together
        saver = Saver(save, measurement.part, save_every)

        def after_batch(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            saver.after_batch()
            together.check()

        try:
            wanted = analysis.wanted(measurement.agree(resume))
            if together.world > 1:
                saver.save()
            together.wait()
            measurement.measure(wanted, after_batch)
            if together.world > 1:
                saver.save()
            together.wait()
        except KeyboardInterrupt:
            together.leave()
            saver.save()
            raise Interrupted(measurement.result()) from None
        except Exception:
            together.leave()
            with suppress(Exception):  # the device may be lost, and the sums with it
                saver.save()
            raise
        measurement.all_reduce()
    return _checked(measurement.result(), analysis)


class Measurement:
    """A running analysis.

    Attributes:
        state: what has been measured so far.
        together: the processes of the run.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self.together = Together(analysis.runtime.world)
        sums, lengths = all_sums(analysis.quantities), lengths_of(analysis.axes)
        self.state = State(sums, lengths, device=analysis.runtime.device)
        self._passes = [Passes(model, analysis) for model in analysis.models]
        self._said: list[str] = []
        self._unreadable: list[Unreadable] = []

    def load(self, part: Result) -> None:
        """Go on from a part of the analysis.

        One of its batches is read again: the fingerprint does not cover all of every image.

        Raises:
            DataError: that batch has other pixels now.
        """
        digests = [tuple(digest.tobytes() for digest in own) for own in part.batch_digests]
        made = map(
            Seen,
            part.batch_planned.tolist(),
            part.batch_images.tolist(),
            digests,
            (own.tobytes() for own in part.image_digests),
        )
        seen = dict(zip(part.batches.tolist(), made, strict=True))
        for batch in self._load(list(seen)[:1], workers=0):
            if self._made_of(batch).digests != seen[batch.index].digests:
                raise DataError(
                    f"batch {batch.index} has other pixels than when it was measured: the images "
                    "changed since, or are random; start anew without the result to resume"
                )
        self.state.load(part.sums, seen)
        self._unreadable.extend(part.unreadable)
        known = {*self._analysis.warnings, *derived_lines(part)}
        self._said.extend(line for line in part.warnings if line not in known)

    def agree(self, resume: Result | None) -> frozenset[int]:
        """Go on from the parts that the processes resume, and return the batches in them, for none to measure.

        Raises:
            DataError: the processes are about to measure different things.
        """
        mine = (
            self._analysis.fingerprint,
            self._analysis.provenance,
            frozenset(() if resume is None else resume.batches.tolist()),
        )
        everyone = self.together.exchange(mine)
        fingerprint, provenance, _ = everyone[0]
        held: frozenset[int] = frozenset()
        for rank, (other, theirs, batches) in enumerate(everyone):
            if other != fingerprint:
                found = differences(provenance, theirs) or "the fingerprints differ"
                raise DataError(
                    f"process {rank} is about to measure something else than process 0: {found}; give "
                    "all processes the same models and images"
                )
            # Processes that see the same files resume the same parts.
            if not held & batches:
                held |= batches
                if resume is not None and rank == self._analysis.runtime.rank:
                    self.load(resume)
        return held

    def measure(self, wanted: Sequence[int], progress: Progress) -> None:
        """Measure the batches of these numbers. Nothing in the loop waits for the device."""
        analysis = self._analysis
        total = sum(len(analysis.plan.batches[k]) for k in wanted)
        done = 0
        for batch in self._load(wanted, analysis.workers):
            self.add(batch)
            done += len(analysis.plan.batches[batch.index])
            progress(done, total)
        if analysis.runtime.rank == 0:
            self._read_left_out()

    def _load(self, wanted: Sequence[int], workers: int) -> Iterator[Batch]:
        analysis = self._analysis
        ways = [model.subject.preprocessing for model in analysis.models]
        ways += [way for meter in analysis.meters for way in meter.inputs]
        pin = analysis.runtime.pin_memory
        return load_batches(
            analysis.source,
            analysis.plan,
            wanted,
            tuple(dict.fromkeys(ways)),
            workers=workers,
            pin_memory=pin,
            fast=analysis.options.fast_pixels,
        )

    def _made_of(self, batch: Batch) -> Seen:
        """Return what a batch is made of; one that is too small adds no image."""
        plan, held = self._analysis.plan, batch.images >= MIN_BATCH
        digests = [batch.digests[model.subject.preprocessing] for model in self._analysis.models]
        by_place = np.zeros(plan.batch_size, np.uint64)
        if held:
            by_place[batch.places - batch.index * plan.batch_size] = batch.image_digests
        images = batch.images if held else 0
        return Seen(len(plan.batches[batch.index]), images, tuple(digests), by_place.tobytes())

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
        self._unreadable.extend(Unreadable(*entry) for entry in batch.unreadable)
        if batch.images < MIN_BATCH:
            self.state.add(batch.index, {}, self._made_of(batch))
            return
        device = self._analysis.runtime.device
        # Models that differ only in mean and std share their pixels, which cross to the device once.
        once = {id(pixels): pixels for pixels in batch.inputs.values()}
        moved = {key: pixels.to(device, non_blocking=True) for key, pixels in once.items()}
        inputs = {way: way.normalize(moved[id(pixels)]) for way, pixels in batch.inputs.items()}
        for meter in self._analysis.meters:
            meter.begin(batch)
        for model, passes in zip(self._analysis.models, self._passes, strict=True):
            passes.run(inputs[model.subject.preprocessing], batch.index)
        counts = torch.nn.functional.one_hot(batch.folds, FOLDS).sum(0).to(torch.float64)
        values = {IMAGES.path: counts.to(self.state.device, non_blocking=True)}
        for meter in self._analysis.meters:
            values |= meter.added()
        self.state.add(batch.index, values, self._made_of(batch))

    def all_reduce(self) -> None:
        """Replace the state by its total over all processes."""
        if self.together.world == 1:
            return
        with reaching():
            self.state.all_reduce()
        everyone = self.together.exchange((self._unreadable, self._remarks()))
        self._unreadable = [image for unreadable, _ in everyone for image in unreadable]
        self._said = list(dict.fromkeys(line for _, said in everyone for line in said))

    def _remarks(self) -> list[str]:
        return [*self._said, *(line for passes in self._passes for line in passes.said)]

    def part(self) -> Result | None:
        """Return what has been measured so far, if anything was."""
        return self.result() if self.state.batches else None

    def result(self) -> Result:
        """Return what has been measured so far."""
        analysis, seen = self._analysis, self.state.seen
        digests = b"".join(digest for of in seen.values() for digest in of.digests)
        return Result(
            axes=analysis.axes,
            quantities=analysis.quantities,
            sums=self.state.sums(),
            batches=np.array(list(seen), dtype=np.int64),
            batch_planned=np.array([of.planned for of in seen.values()], dtype=np.int64),
            batch_images=np.array([of.images for of in seen.values()], dtype=np.int64),
            batch_digests=np.frombuffer(digests, np.uint8).reshape(
                len(seen), len(analysis.models), 32
            ),
            image_digests=np.frombuffer(
                b"".join(of.image_digests for of in seen.values()), np.uint64
            ).reshape(len(seen), analysis.plan.batch_size),
            total_batches=len(analysis.plan.batches),
            unreadable=unique_images(self._unreadable),
            warnings=tuple(dict.fromkeys((*analysis.warnings, *self._remarks()))),
            provenance=analysis.provenance,
            fingerprint=analysis.fingerprint,
            image_names=analysis.image_names,
        )


def _checked(result: Result, analysis: Analysis) -> Result:
    """Return the result with the warnings that follow from its sums.

    Raises:
        DataError: no batch had 4 readable images.
    """
    if result.images < MIN_BATCH and result.total_batches == len(result.batches):
        first = [f" (first: {each.image}: {each.reason})" for each in result.unreadable[:1]]
        raise DataError(
            f"fewer than {MIN_BATCH} images could be read{''.join(first)}; CKA needs at least "
            f"{MIN_BATCH} in a batch"
        )
    lines = derived_lines(result)
    for line in lines if analysis.runtime.rank == 0 else []:
        warn(line)
    return replace(result, warnings=(*result.warnings, *lines))
