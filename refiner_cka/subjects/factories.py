"""One's own networks: `package.module:factory`, called with the arguments of `--model`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError, RefinerCkaError
from . import checkpoint
from .checkpoint import Fit, first_line
from .subject import Subject


def call(name: str, arguments: Mapping[str, Any]) -> nn.Module | Subject:
    """Call a factory; modules of the working directory can be imported.

    Args:
        name: `package.module:factory`; the factory may be a class, and have dots.
        arguments: passed by keyword.

    Raises:
        ModelError: it cannot be imported or called, or returns neither an `nn.Module` nor a `Subject`.
    """
    factory = _factory(name)
    try:
        made = factory(**arguments)
    except RefinerCkaError:
        raise
    except Exception as error:  # someone else's code
        raise ModelError(f"{name} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, nn.Module | Subject):
        raise ModelError(
            f"{name} returned a {type(made).__name__}: return an nn.Module or a Subject"
        )
    return made


def load(module: nn.Module, file: Path, name: str) -> tuple[Fit, str]:
    """Load a file into one's own network; return what was loaded and the entry of the file that was taken.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    weights = checkpoint.read(file)
    state = checkpoint.unwrap(weights.state, module)
    return checkpoint.fit(module, state, f"{file.name} does not fit {name}"), weights.entry


def _factory(name: str) -> Callable[..., Any]:
    location, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(location)
    except Exception as error:  # an import runs someone else's code
        raise ModelError(f"{name}: {location} cannot be imported: {first_line(error)}") from error
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
    factory: Callable[..., Any] = found
    return factory
