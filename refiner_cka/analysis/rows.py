"""Which layers of a model become rows of the similarity matrix, and why others do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from ..errors import LayerError
from ..subjects.locality import Reading
from ..subjects.model import Readings
from ..subjects.readout import READOUTS, Readout, TokenLayout, features_of
from ..subjects.subject import Subject
from .probe import PROBE_IMAGES, Probe


def readouts_of(tokens: str) -> tuple[Readout, ...]:
    """Return the readouts that `--tokens` names.

    Raises:
        LayerError: an unknown one.
    """
    names = [name.strip() for name in tokens.split(",")]
    known: dict[str, Readout] = {readout: readout for readout in READOUTS}
    for name in names:
        if name not in known:
            raise LayerError(f"unknown --tokens {name!r}; choose from {', '.join(READOUTS)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def choose_rows(
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
    reason = why_unreadable(calls)
    if reason is not None:
        return reason, False
    if readout != "all" and isinstance(reading, LayerError):
        return str(reading), True
    output = calls[0]
    assert output is not None  # it would be unreadable
    try:
        features_of(output, None if readout == "all" else layout_of(reading), readout)
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
