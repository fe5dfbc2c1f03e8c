"""What a few forward passes show of a model: its layers in the order of their calls, and whether to split batches.

On a CPU, and elsewhere when memory is short, a batch goes through a model in chunks that take turns: each waits
at a layer for the others (`hooks.Lockstep`). That gives the numbers of whole batches only if an image's features
do not depend on the images beside it, and if the model keeps nothing, on itself or in the process, that a chunk
between two layers could change for another. Both are tried here rather than trusted.
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import ModelError
from ..options import Precision
from ..subjects import Subject
from ..subjects.failing import why_it_fails
from ..subjects.hooks import capture, first_outputs
from ..subjects.readout import place_of, tensor_at, tensor_of
from . import process
from .lockstep import Diverged, Lockstep
from .runtime import Runtime

PROBE_IMAGES = 3
"""Images of the pass that finds out which layers are called. Not 1 or 2: such an axis may be there by chance."""

_UNIT: Mapping[Precision, float] = {"fp32": 2.0**-24, "bf16": 2.0**-9, "fp16": 2.0**-12}
_NOISE = 3.0
"""Roundings of a feature's size by which an image's features may differ in another company, since kernels for
other numbers of images add in another order."""

_ROUNDING: Mapping[Precision, float] = {"fp32": 1e-5, "bf16": 0.1, "fp16": 0.1}
"""And how far beyond that, relative to how far images are apart: roundings of the layers before."""

_JUMP, _LARGEST = 100.0, 1e-2
"""Untrained networks may magnify rounding from layer to layer. So more than that tells of a dependence only where
it is so many times as much as at any layer before, or where it is so much that the company decides the numbers."""

_OTHERS = ((1, 2), (1, 0))
"""Which images the other passes are of. They are of one size and not the first one's, for what a model keeps by
the number of images is shared between passes of one size only."""

_FAINT = 1e-3
"""A branch scaled by this changes features by about as much, and CKA by its square: not more than rounding."""

_SAMPLE = 4096
"""Features of a layer that are compared, evenly spaced."""


@dataclass(frozen=True)
class Probe:
    """What the passes showed.

    Attributes:
        calls: layers in the order of their first call; each call's output, on the meta device.
        places: of each layer, which tensor of its output stands for it, of the model's under ""; see
            `readout.place_of`.
        repeats: of a layer that returns the very tensor of a layer before it, which.
        logits: number of classes the model predicts, if its output is `(images, classes)`.
        whole: why a batch must go through the model whole; empty if it may be split.
        warnings: what a reader of the numbers has to know, one line each.
    """

    calls: Mapping[str, list[torch.Tensor | None]]
    places: Mapping[str, int]
    repeats: Mapping[str, str]
    logits: int | None
    whole: str
    warnings: tuple[str, ...]


def probe(subject: Subject, shape: Sequence[int], here: Runtime) -> Probe:
    """Run a few images of noise through a model.

    Three images make a pass, and two of them each of two others: an image's features have to be the same in all,
    up to rounding. Then the three passes take turns, and every layer's output has to be the same to the last bit,
    and the process as before. Passes of one size may share what passes of other sizes do not, and the reverse.

    Args:
        subject: the model.
        shape: channels, height and width of its images.
        here: where it runs.

    Raises:
        ModelError: the model fails on such images.
    """
    images = noise(shape, here)
    chunks = [images, *(images[list(own)] for own in _OTHERS)]
    with here.hosting(subject.module), here.session():
        try:
            first = _pass(subject, chunks[0])
        except Exception as error:
            size = "x".join(map(str, shape))
            raise ModelError(
                f"{subject.name} fails on images of shape {size}: {why_it_fails(subject.module, error)}"
            ) from error
        whole, warnings = _obstacle_to_splitting(subject, chunks, first, here)
    logits = first.returned.shape
    return Probe(
        calls={path: [output.shape for output in outputs] for path, outputs in first.calls.items()},
        places=first.places,
        repeats=first.repeats,
        logits=logits.shape[1] if logits is not None and logits.ndim == 2 else None,
        whole=whole,
        warnings=tuple(warnings),
    )


def noise(shape: Sequence[int], here: Runtime) -> torch.Tensor:
    """Return the images of the probe: noise, since a model may treat equal images alike by chance."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(PROBE_IMAGES, *shape, generator=generator).to(here.device)


def watch(
    subject: Subject, paths: Sequence[str], shape: Sequence[int], here: Runtime
) -> Mapping[str, list[torch.Tensor | None]]:
    """Return what modules return for the images of the probe, on the meta device."""
    images = noise(shape, here)
    return first_outputs(
        subject.module,
        paths,
        lambda: subject.module(images),
        lambda output: _on_meta(tensor_of(output, PROBE_IMAGES)),
    )[0]


def _on_meta(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else torch.empty_like(tensor, device="meta")


def faint_scales(subject: Subject) -> str:
    """Return which scales in a model's layers are nearly 0, in words; empty if none are.

    A residual branch behind one adds next to nothing.
    LayerScale and the last normalisation of a residual branch begin so, and grow in training.
    """
    found: dict[str, float] = {}
    for path in subject.layers:
        for name, value in subject.module.get_submodule(path).named_parameters():
            is_vector = 0 < value.numel() == max(value.shape, default=1)
            if is_vector and not name.endswith("bias"):
                greatest = float(value.detach().abs().max())
                if greatest <= _FAINT:
                    found[name] = max(greatest, found.get(name, 0.0))
    if not found:
        return ""
    names = ", ".join(list(found)[:4]) + (", ..." if len(found) > 4 else "")
    greatest = max(found.values())
    return f"{names} in its layers is {f'at most {greatest:.0e}' if greatest else '0'}"


class _Output:
    """What is kept of a layer's output for some images: its shape, its digest and a sample of its features."""

    def __init__(self, tensor: torch.Tensor | None) -> None:
        self.shape = _on_meta(tensor)
        self.digest = b""
        self.sample = torch.empty(0)
        if tensor is None:
            return
        plain = tensor.detach().cpu().contiguous()
        self.digest = hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).digest()
        if plain.ndim and plain.shape[0]:
            rows = plain.flatten(1) if plain.ndim > 1 else plain[:, None]
            self.sample = rows[:, :: max(1, rows.shape[1] // _SAMPLE)].to(torch.float64)


@dataclass
class _Seen:
    """What one forward pass showed; `places` says which tensors of outputs are looked at, the model's under ""."""

    places: dict[str, int]
    calls: dict[str, list[_Output]] = field(default_factory=dict)
    repeats: dict[str, str] = field(default_factory=dict)
    returned: _Output = field(default_factory=lambda: _Output(None))

    def add(self, path: str, output: Any) -> None:
        self.calls.setdefault(path, []).append(_Output(tensor_at(output, self.places[path])))

    def differs(self, other: _Seen) -> str:
        """Return the first layer of other bits, in words; empty if there is none."""
        if self.calls.keys() != other.calls.keys():
            return "which layers are called"
        for path, outputs in self.calls.items():
            if [o.digest for o in outputs] != [o.digest for o in other.calls[path]]:
                return f"layer {path}"
        return "" if self.returned.digest == other.returned.digest else "its output"

    def strays(self, other: _Seen, own: Sequence[int], precision: Precision) -> str:
        """Return the first layer where images are not, up to rounding, what they are in another pass of `own`."""
        if self.calls.keys() != other.calls.keys():
            return "which layers are called"
        pairs = [
            (f"layer {path}", one, two)
            for path, outputs in self.calls.items()
            for one, two in zip(outputs, other.calls[path], strict=False)
        ]
        pairs.append(("its output", self.returned, other.returned))
        rounding = _ROUNDING[precision]
        before = rounding / _JUMP
        for name, one, two in pairs:
            # What does not have the images first (windows, say) tells nothing here, and is refused as a row.
            if len(one.sample) != PROBE_IMAGES:
                continue
            distance = _distance(one.sample, list(own), two.sample, _UNIT[precision])
            if distance > rounding and distance > min(before * _JUMP, _LARGEST):
                return name
            before = max(before, distance)
        return ""


def _distance(sample: torch.Tensor, own: list[int], other: torch.Tensor, unit: float) -> float:
    """Return how far images are from what they are in another pass, in units of how far images are apart.

    CKA sees of features only how they differ between images: a common offset must not hide a difference. What
    the rounding of features of that size explains does not count, nor what is not finite.
    """
    mine = sample[own]
    if mine.shape != other.shape:
        return math.inf
    if not mine.isfinite().all():
        return 0.0 if torch.equal(mine.isfinite(), other.isfinite()) else math.inf
    excess = float((mine - other).norm() - _NOISE * unit * mine.norm())
    spread = float((sample - sample.mean(0)).norm()) * math.sqrt(len(own) / len(sample))
    if excess <= 0:
        return 0.0
    return excess / spread if spread else math.inf


def _pass(subject: Subject, images: torch.Tensor, places: dict[str, int] | None = None) -> _Seen:
    """Run one forward pass; the first one finds out which tensors stand for outputs, later ones are told."""
    seen = _Seen({} if places is None else places)
    alive: list[tuple[weakref.ref[torch.Tensor], str]] = []

    def visit(path: str, output: Any) -> None:
        seen.places.setdefault(path, place_of(output, len(images)))
        seen.add(path, output)
        tensor, kept = tensor_at(output, seen.places[path]), seen.calls[path][-1]
        if tensor is None:
            return
        # A tensor that is still there, at the same place and of the same content, is the same tensor.
        for reference, name in alive:
            before = reference()
            if before is None or name == path or before.data_ptr() != tensor.data_ptr():
                continue
            if seen.calls[name][-1].digest == kept.digest:
                seen.repeats.setdefault(path, seen.repeats.get(name, name))
        alive.append((weakref.ref(tensor), path))

    with capture(subject.module, subject.layers, visit):
        output = subject.module(images)
    seen.places.setdefault("", place_of(output, len(images)))
    seen.returned = _Output(tensor_at(output, seen.places[""]))
    return seen


def _obstacle_to_splitting(
    subject: Subject, chunks: Sequence[torch.Tensor], first: _Seen, here: Runtime
) -> tuple[str, list[str]]:
    """Return why a batch must go through the model whole, or nothing, and what has to be said."""
    settings = process.settings(here.device)
    try:
        others = [_pass(subject, chunk, first.places) for chunk in chunks[1:]]
    except Exception:  # a model's code may raise anything
        return f"it fails on {len(chunks[1])} images where it takes {PROBE_IMAGES}", []
    for own, other in zip(_OTHERS, others, strict=True):
        if layer := first.strays(other, own, here.precision):
            if random := _random(subject, chunks[0], first, here):
                return random
            reason = (
                f"an image's features depend on the others of its pass, or on its place ({layer})"
            )
            so = "so its numbers depend on the batch size, and each batch goes through it whole"
            return reason, [f"{subject.name}: {reason}; {so}"]
    with process.preserved(here.device):
        before = process.read(settings)
        together = _taking_turns(subject, chunks, first.places)
        left = process.changed(before, process.read(settings))
    if isinstance(together, str):
        disturbed = together
    elif left:
        disturbed = f"{', '.join(left)} changed"
    else:
        pairs = zip([first, *others], together, strict=True)
        disturbed = next((found for one, two in pairs if (found := one.differs(two))), "")
    if not disturbed:
        return "", []
    if random := _random(subject, chunks[0], first, here):
        return random
    reason = f"passes that take turns disturb one another ({disturbed})"
    said = f"{subject.name}: each batch goes through the model whole, since {reason}"
    return reason, [said] if here.device.type == "cpu" else []


def _random(
    subject: Subject, images: torch.Tensor, first: _Seen, here: Runtime
) -> tuple[str, list[str]] | None:
    """Return as an obstacle that another pass over the same images differs by more than rounding, if so."""
    again = _pass(subject, images, first.places)
    layer = first.strays(again, range(len(images)), here.precision)
    if not layer:
        return None
    line = (
        f"{subject.name}: two passes over the same images differ ({layer}): the model is random in evaluation; "
        "its numbers are those of one draw, fixed by --seed: switch the randomness off to measure the model alone"
    )
    return "it is random in evaluation", [line]


def _taking_turns(
    subject: Subject, chunks: Sequence[torch.Tensor], places: dict[str, int]
) -> list[_Seen] | str:
    """Return what the chunks' passes showed in lockstep, or why they cannot take turns."""
    seen = [_Seen(places) for _ in chunks]

    def visit(path: str, outputs: Sequence[Any]) -> None:
        for one, output in zip(seen, outputs, strict=True):
            one.add(path, output)

    lockstep = Lockstep(visit)
    try:
        with capture(subject.module, subject.layers, lockstep.arrive):
            returned = lockstep.run(subject.module, chunks)
    except Diverged:
        return "they call different layers"
    except Exception as error:  # one after the other the same passes worked
        return type(error).__name__
    for one, output in zip(seen, returned, strict=True):
        one.returned = _Output(tensor_at(output, places[""]))
    return seen
