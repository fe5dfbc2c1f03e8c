"""Which layers of a model become rows of the similarity matrix, and why others do not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch

from ..errors import LayerError
from ..subjects.locality import Reading
from ..subjects.model import Readings, lines_left_out
from ..subjects.readout import READOUTS, Readout, TokenLayout, features_of
from ..subjects.subject import Subject
from .probe import PROBE_IMAGES, Probe


def readouts_of(tokens: str) -> tuple[Readout, ...]:
    """Return the readouts that `--tokens` names.

    Raises:
        LayerError: an unknown one.
    """
    names = [name.strip() for name in tokens.split(",")]
    for name in names:
        if name not in READOUTS:
            raise LayerError(f"unknown --tokens {name!r}; choose from {', '.join(READOUTS)}")
    return tuple(dict.fromkeys(names))  # type: ignore[arg-type]  # checked above


def choose_rows(
    subject: Subject,
    probe: Probe,
    outputs: Mapping[str, torch.Tensor],
    readouts: Sequence[Readout],
    readings: Readings,
) -> tuple[list[tuple[Readout, str]], list[str]]:
    """Return the rows of one subject and a line for each layer left out.

    `outputs` are of the layers that can be read at all.

    Raises:
        LayerError: a layer named by hand cannot be read, or none is left.
    """
    # Under a pattern in the order of the calls, then those that are never called.
    order = list(dict.fromkeys([*(probe.calls if subject.pattern else ()), *subject.layers]))
    rows: list[tuple[Readout, str]] = []
    obstacles: dict[tuple[str, str], dict[str, str]] = {}
    for readout, path in itertools.product(readouts, order):
        reason = (
            _obstacle(outputs[path], readout, readings.get(path))
            if path in outputs
            else why_unreadable(probe.calls.get(path, ()))
        )
        before = probe.repeats.get(path, "")
        if (
            reason is None
            and subject.pattern
            and (readout, before) in rows
            # Reshaped it holds the same numbers, and other tokens.
            and (readout == "all" or outputs[before].shape == outputs[path].shape)
        ):
            reason = "returns the tensor of a layer before it"
        if reason is None:
            rows.append((readout, path))
        elif not subject.pattern:
            raise LayerError(f"{subject.name}: layer {path} {reason}; choose other layers")
        else:
            # One that cannot be read at all is left out altogether.
            of = f"--tokens {readout}" if path in outputs else ""
            obstacles.setdefault((reason, of), {})[path] = reason
    lines = [
        line
        for (_, of), reasons in obstacles.items()
        for line in lines_left_out(subject.name, reasons, of)
    ]
    for readout in readouts:
        if not any(chosen == readout for chosen, _ in rows):
            raise LayerError(
                f"no layer is left to read as {readout!r}: {lines[-1]}; choose others with --layers GLOB"
            )
    return rows, lines


def _obstacle(
    output: torch.Tensor, readout: Readout, reading: Reading | LayerError | None
) -> str | None:
    """Return why an output cannot be read so, or `None`."""
    if readout != "all" and isinstance(reading, LayerError):
        return str(reading)
    try:
        features_of(output, None if readout == "all" else layout_of(reading), readout)
    except LayerError as error:
        return f"cannot be read: {error}"
    return None


def why_unreadable(calls: Sequence[torch.Tensor | None]) -> str | None:
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


def layout_of(reading: Reading | LayerError | None) -> TokenLayout | None:
    """Return how tokens lie by a reading, where it says so."""
    return reading.layout if isinstance(reading, Reading) else None
