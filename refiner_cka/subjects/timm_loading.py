"""Weights into timm's models: converted and resized by each family's own functions, and counted.

timm calls these functions only inside its own loader, and its public ways to give it a state dict (an overlay of
the configuration, `load_pretrained`) tell neither the converted names nor what was loaded: strictly it refuses a
file without a classifier, else it loads any part of a file in silence. So its loader is called here with the
network's `load_state_dict` replaced by `fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, RefinerCkaError, one_line
from . import checkpoint
from .fitting import Fit, State, fit, misfit, unwrap

Create = Callable[[], nn.Module]
"""Builds a network and has timm load its pretrained weights."""

Load = Callable[..., None]
"""timm's loader, with entries of the pretrained configuration to replace by keyword."""


def from_file(
    create: Create, name: str, file: Path, *, resize_head: bool
) -> tuple[nn.Module, Fit, str]:
    """Return a network with a file's weights, what was loaded, and the entry of the file that was taken.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    weights = checkpoint.read(file)
    source = f"{file.name} does not fit {name}"

    def load(module: nn.Module, timms: Load) -> None:
        state = unwrap(weights.state, module)
        _check_patches(module, state, source)
        try:
            # Without a classifier's name timm leaves the classifier's tensors as they are.
            timms(state_dict=state, source="", classifier=None)
        except RefinerCkaError:
            raise
        except Exception as error:  # a conversion written for another model may raise anything
            raise misfit(module, state, source, one_line(error)) from error

    module, done = _loaded(create, load, source, resize_head)
    if done is None:
        raise CheckpointError(
            f"{name} does not load weights by timm's loader: use package.module:factory"
        )
    return module, done, weights.entry


def published(
    create: Create, name: str, file: Path | None, *, resize_head: bool
) -> tuple[nn.Module, Fit | None]:
    """Return a network with its published weights, and what was loaded; `None` where its loader does not tell.

    Args:
        create: builds it.
        name: timm's name.
        file: where the weights are; `None` to fetch them from where they are published.
        resize_head: false if the caller asked for a number of classes.
    """
    entries = {} if file is None else {"file": str(file), "hf_hub_id": None}
    return _loaded(
        create, lambda _, timms: timms(**entries), f"{name}'s published weights", resize_head
    )


def _loaded(
    create: Create, load: Callable[[nn.Module, Load], None], source: str, resize_head: bool
) -> tuple[nn.Module, Fit | None]:
    """Build a network, calling `load(network, timm's loader)` where timm would load pretrained weights."""
    from timm.models import _builder

    original = _builder.load_pretrained
    fits: list[Fit] = []

    def load_pretrained(module: nn.Module, pretrained_cfg: dict[str, Any], **options: Any) -> None:
        def timms(**entries: Any) -> None:
            with _loading_by(
                module,
                lambda state: fits.append(fit(module, state, source, resize_head=resize_head)),
            ):
                original(module, pretrained_cfg={**pretrained_cfg, **entries}, **options)

        load(module, timms)

    vars(_builder)["load_pretrained"] = load_pretrained
    try:
        module = create()
    finally:
        vars(_builder)["load_pretrained"] = original
    return module, fits[0] if fits else None


@contextmanager
def _loading_by(module: nn.Module, load: Callable[[State], None]) -> Iterator[None]:
    """Have `module.load_state_dict(state)` call `load(state)` instead."""

    def load_state_dict(state: State, **_: Any) -> Any:
        del module.__dict__["load_state_dict"]
        load(state)
        return nn.modules.module._IncompatibleKeys([], [])

    module.__dict__["load_state_dict"] = load_state_dict
    try:
        yield
    finally:
        module.__dict__.pop("load_state_dict", None)


def _check_patches(module: nn.Module, state: State, source: str) -> None:
    """Refuse other patches: timm would resample them, and the result would be neither model."""
    own = getattr(getattr(getattr(module, "patch_embed", None), "proj", None), "weight", None)
    given = state.get("patch_embed.proj.weight")
    if own is None or given is None:
        return
    if own.ndim == given.ndim == 4 and own.shape[2:] != given.shape[2:]:
        raise misfit(module, state, source)
