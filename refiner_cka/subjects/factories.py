"""One's own networks: `package.module:factory`, called with the arguments of `--model`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError, RefinerCkaError, one_line
from . import checkpoint
from .fitting import fit, unwrap
from .provenance import Source
from .spec import Size, Spec
from .subject import Subject


def make(spec: Spec, layers: str, image_size: Size | None) -> tuple[Subject, Source]:
    """Call a factory as a `Spec` says, load its file if it has one, and return where its weights are from.

    Modules of the working directory can be imported; the factory may be a class, and have dots.

    Raises:
        ModelError: it cannot be imported or called, or returns neither an `nn.Module` nor a `Subject`.
        CheckpointError: the file cannot be read or does not fit.
        LayerError: a pattern that matches nothing.
    """
    name = spec.name
    factory = _factory(name)
    try:
        made = factory(**spec.arguments)
    except RefinerCkaError:
        raise
    except Exception as error:  # someone else's code
        reason = one_line(error, path=True)
        raise ModelError(f"{name} failed: {type(error).__name__}: {reason}") from error
    if not isinstance(made, nn.Module | Subject):
        raise ModelError(
            f"{name} returned a {type(made).__name__}: return an nn.Module or a Subject"
        )
    subject = made if isinstance(made, Subject) else Subject.from_module(made, layers)
    if image_size is not None:
        size = (subject.preprocessing.input_size[0], *image_size)
        subject = replace(subject, preprocessing=replace(subject.preprocessing, input_size=size))
    if not isinstance(spec.weights, Path):
        return subject, Source(name, spec.weights or "as given")
    weights = checkpoint.read(spec.weights)
    state = unwrap(weights.state, subject.module)
    done = fit(subject.module, state, f"{spec.weights.name} does not fit {name}")
    return subject, Source(name, spec.weights.name, done, weights.entry)


def _factory(name: str) -> Any:
    location, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(location)
    except Exception as error:  # an import runs someone else's code
        reason = one_line(error, path=True)
        raise ModelError(f"{name}: {location} cannot be imported: {reason}") from error
    finally:
        sys.path.remove(here)
    for part in attribute.split("."):
        known = dir(found)
        found = getattr(found, part, None)
        if found is None:
            close = get_close_matches(part, known, n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ModelError(f"{location} has no {attribute!r}{hint}")
    if not callable(found):
        raise ModelError(
            f"{name} is a {type(found).__name__}, not a function or class that makes a network"
        )
    return found
