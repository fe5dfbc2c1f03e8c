"""What measuring is: the contract between a run and whatever it measures.

A run knows meters and nothing else. It asks each once where to look (`sites`). Then, batch by batch, it tells it
of the batch (`begin`), shows it the outputs at its sites while a model computes them (`start`, `Site.see`, `end`),
and adds what it hands over (`added`) to the sums, wholly or not at all. A meter keeps nothing of a batch before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from ..images import Batch, ImageSource, Plan, Preprocessing
from ..options import Options
from ..subjects.model import Model
from ..sums import Layer, Quantity

Reads = Literal["outputs", "tokens", "grid"]
"""How well outputs must be understood: as numbers; as tokens; as tokens whose order on the grid is known."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a meter is made for.

    Attributes:
        options: of the run.
        plan: which images form which batch.
        device: where models run and features live.
        source: the images.
    """

    options: Options
    plan: Plan
    device: torch.device
    source: ImageSource


@dataclass(frozen=True, eq=False)
class Site:
    """A module of a model at whose output a meter looks.

    Attributes:
        model: the model.
        path: of the module; it is called once in a forward pass.
        see: takes in the output, in parts with the images first, and which images of the batch it is of. It keeps
            nothing of the output: a moment later an in-place operation may overwrite it.
        place: which tensor of the output is meant; see `readout.place_of`.
        chunk: 0 if the whole batch is to be seen at once; else the images are seen as they pass through the model,
            at most so many at a time.
    """

    model: Model
    path: str
    see: Callable[[Sequence[torch.Tensor], slice], None]
    place: int = 0
    chunk: int = 0


class Meter:
    """One way to measure. Subclasses override what they need.

    Attributes:
        setting: what it is made for.
        reads: how well it needs outputs to be understood.
        quantities: what it measures; settled once `sites` was asked.
        inputs: how it needs the images to be prepared, beyond what models need.
        reserved: names that no model and no group of the run may have.
        axes: axes of its quantities beyond the layers of the matrix and the models; settled likewise.
        identity: what its numbers depend on beyond models and images, JSON types by name; part of the fingerprint.
    """

    setting: Setting
    reads: Reads = "outputs"
    inputs: Sequence[Preprocessing] = ()
    reserved: Sequence[str] = ()
    quantities: Sequence[Quantity]
    axes: Mapping[str, tuple[Layer, ...]] = MappingProxyType({})
    identity: Mapping[str, Any] = MappingProxyType({})

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Return where it looks, and a line for whatever it cannot measure. Asked once, first.

        Raises:
            LayerError: what was asked for cannot be measured at all.
        """
        return (), ()

    def memory(self, images: int) -> Mapping[str, int]:
        """Return the bytes it takes for a batch of so many images, by what takes them."""
        return {}

    def around(self, model: Model) -> AbstractContextManager[None]:
        """Return a context for the model's forward passes, in which its sites give what is to be seen."""
        return nullcontext()

    def begin(self, batch: Batch) -> None:
        """Forget the batch before and prepare for this one, of which only the readable images are seen."""

    def start(self, model: Model) -> None:
        """Prepare for a model's passes over the batch: the first ones, or all again after memory ran out."""

    def end(self, model: Model, outputs: Sequence[Any]) -> None:
        """Finish with a model.

        Args:
            model: all images of the batch have passed through it.
            outputs: what it returned for each chunk.
        """

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return what the batch adds to each sum, float64, where sums live. Nothing waits for the device."""
        raise NotImplementedError
