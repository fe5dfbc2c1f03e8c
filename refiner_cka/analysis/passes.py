"""One model's forward passes over a batch: in chunks where that is possible, each site shown to its meter."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..errors import DeviceError, LayerError, warn
from ..measures.meter import Site
from ..subjects.hooks import capture
from ..subjects.model import Model
from ..subjects.readout import tensor_at
from . import process, runtime
from .lockstep import Diverged, Lockstep
from .preparation import Analysis

CPU_CHUNK = 16
"""Images of one forward pass on a CPU, whose caches then hold the activations. `make bench` shows the gain."""

_DIVERGES = "it calls different layers for different images"


class Passes:
    """The forward passes of one model.

    The CKA batch is part of the estimator; how many images go through the model at once is not. A batch is split
    to use a CPU's caches and to save memory, unless the model takes different ways for different images, or its
    chunks cannot take turns.

    Attributes:
        said: what was found on the way, one line each.
    """

    def __init__(self, model: Model, analysis: Analysis) -> None:
        self._model = model
        self._meters = analysis.meters
        self._here = analysis.runtime
        self._seed = analysis.plan.seed
        self._at: dict[str, list[Site]] = {}
        self._passing: dict[str, list[Site]] = {}
        sizes = [max(map(len, analysis.plan.batches))]
        if self._here.device.type == "cpu":
            sizes.append(CPU_CHUNK)
        for site in analysis.sites:
            if site.model is model:
                where = self._passing if site.chunk else self._at
                where.setdefault(site.path, []).append(site)
                sizes += [site.chunk] if site.chunk else []
        self._chunk = min(sizes)
        self._whole = model.whole
        self._short_of_memory = False
        # Which images were shown at a path, and whether in passing.
        self._shown: defaultdict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
        self._lockstep = Lockstep(self._see_batch)
        self.said: list[str] = []

    def run(self, inputs: torch.Tensor, batch: int) -> None:
        """Pass a batch through the model, all of it again with halved chunks while memory runs out.

        Args:
            inputs: `(images, channels, height, width)`, on the device.
            batch: its number.

        Raises:
            LayerError: a layer was not called just once, as it was when its row was made.
            DeviceError: not even one image at a time fits.
        """
        self._images = len(inputs)
        while True:
            process.seed(self._seed, batch, inputs.device)
            parts = [inputs] if self._whole else torch.split(inputs, self._chunk)
            self._shown.clear()
            for meter in self._meters:
                meter.start(self._model)
            try:
                with self._watched():
                    outputs = self._lockstep.run(self._model.subject.module, parts)
                break
            except Diverged:
                if self._short_of_memory:
                    raise
                self._go_whole()
                continue
            except (RuntimeError, MemoryError) as error:
                if not runtime.is_out_of_memory(error):
                    raise
            # Outside the handler, where the failed pass's tensors are no longer held by the traceback.
            self._save_memory(len(parts[0]))
        self._check_calls(batch, parts)
        with self._exactly():
            for meter in self._meters:
                meter.end(self._model, outputs)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Have the sites seen in the passes inside. Only then: two models may be one module, read in two ways."""
        module = self._model.subject.module
        with ExitStack() as stack:
            for meter in self._meters:
                stack.enter_context(meter.around(self._model))
            stack.enter_context(capture(module, list(self._at), self._lockstep.arrive))
            stack.enter_context(capture(module, list(self._passing), self._see_chunk))
            yield

    def _see_batch(self, path: str, outputs: Sequence[Any]) -> None:
        """Show a layer's output for the whole batch."""
        self._shown[path, False].append((0, self._images))
        with self._exactly():
            for site in self._at[path]:
                chunks = [_tensor(output, path, site.place).detach() for output in outputs]
                site.see(chunks, slice(0, self._images))

    def _see_chunk(self, path: str, output: Any) -> None:
        """Show an output for the images that are passing through the model now."""
        first = Lockstep.first_image()
        with self._exactly():
            for site in self._passing[path]:
                tensor = _tensor(output, path, site.place).detach()
                site.see([tensor], slice(first, first + len(tensor)))
        self._shown[path, True].append((first, first + len(tensor)))

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """Reduce features without gradients and autocast, whatever the model's code set around its layer.

        Under autocast the products would be taken in half precision, where they overflow; and memory that is
        made in inference mode cannot be written to outside it.
        """
        kind = self._here.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
            yield

    def _check_calls(self, batch: int, parts: Sequence[torch.Tensor]) -> None:
        """Refuse passes that left a value as the batch before had it, or wrote one twice.

        Args:
            batch: its number.
            parts: the chunks in which its images passed.
        """
        ends = list(itertools.accumulate(map(len, parts)))
        chunks = list(zip([0, *ends], ends, strict=False))
        # A layer is visited once for all chunks, what is seen in passing once in each.
        for sites, once, else_ in (
            (self._at, [(0, self._images)], "choose other layers"),
            (self._passing, chunks, "measure without it"),
        ):
            for path in sites:
                shown = self._shown[path, once is chunks]
                if sorted(shown) != once:
                    raise LayerError(
                        f"{self._model.name}: layer {path} was called {len(shown)} times in the pass over batch "
                        f"{batch}, not once for each image as over other images, so it has no features for the "
                        f"same images: {else_}"
                    )

    def _go_whole(self) -> None:
        """Give the model whole batches from now on, and say so."""
        self._whole = _DIVERGES
        line = f"{self._model.name}: each batch goes through the model whole, since {_DIVERGES}"
        self.said.append(line)
        if self._here.rank == 0:
            warn(line)

    def _save_memory(self, chunk: int) -> None:
        """Halve the chunk.

        Raises:
            DeviceError: it cannot be halved.
        """
        if self._whole:
            raise DeviceError(
                f"out of memory, and a batch of {self._model.name} cannot be split, since {self._whole}; use a "
                "smaller --batch-size"
            )
        if chunk == 1:
            raise DeviceError(
                "out of memory even with one image at a time; use a device with more memory, a smaller "
                "--image-size or fewer --model"
            )
        self._short_of_memory = True
        self._chunk = math.ceil(chunk / 2)
        runtime.release_memory(self._here.device)


def _tensor(output: Any, path: str, place: int) -> torch.Tensor:
    tensor = tensor_at(output, place)
    if tensor is None:
        raise LayerError(f"layer {path} returned no tensor for some images; choose other layers")
    return tensor
