"""Weights into timm's models: converted and resized by each family's own functions, and counted.

timm calls these functions only inside its own loader, and its public ways to give it a state dict (an overlay of
the configuration, `load_pretrained`) tell neither the converted names nor what was loaded: strictly it refuses a
file without a classifier, else it loads any part of a file in silence. So its loader is called here with the
network's `load_state_dict` replaced by `fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, RefinerCkaError, one_line
from . import checkpoint
from .fitting import Fit, State, fit, misfit, unwrap

Create = Callable[[], nn.Module]
"""Builds a network and has timm load its pretrained weights."""


def from_file(
    create: Create, name: str, file: Path, resize_head: bool
) -> tuple[nn.Module, Fit, str]:
    """Return a network with a file's weights, what was loaded, and the entry of the file that was taken.

    `resize_head` is false if the caller asked for a number of classes.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    weights = checkpoint.read(file)
    source = f"{file.name} does not fit {name}"

    def entries(module: nn.Module) -> dict[str, Any]:
        state = unwrap(weights.state, module)
        _check_patches(module, state, source)
        # Without a classifier's name timm leaves the classifier's tensors as they are.
        return {"state_dict": state, "source": "", "classifier": None}

    module, done = _loaded(create, entries, source, resize_head)
    if done is None:
        raise CheckpointError(
            f"{name} does not load weights by timm's loader: use package.module:factory"
        )
    return module, done, weights.entry


def published(
    create: Create, name: str, file: Path | None, resize_head: bool
) -> tuple[nn.Module, Fit | None]:
    """Return a network with its published weights, and what was loaded; `None` where its loader does not tell.

    The weights are fetched from where they are published if no file has them.
    """
    entries = {} if file is None else {"file": str(file), "hf_hub_id": None}
    return _loaded(create, lambda _: entries, f"{name}'s published weights", resize_head)


def _loaded(
    create: Create, entries: Callable[[nn.Module], dict[str, Any]], source: str, resize_head: bool
) -> tuple[nn.Module, Fit | None]:
    """Build a network, which timm loads with some entries of its configuration replaced; tell what was loaded."""
    from timm.models import _builder

    original = _builder.load_pretrained
    fits: list[Fit] = []

    def load_pretrained(module: nn.Module, pretrained_cfg: dict[str, Any], **options: Any) -> None:
        def load_state_dict(state: State, **_: Any) -> Any:
            del module.__dict__["load_state_dict"]
            fits.append(fit(module, state, source, resize_head=resize_head))
            return nn.modules.module._IncompatibleKeys([], [])

        own = entries(module)
        module.__dict__["load_state_dict"] = load_state_dict
        try:
            original(module, pretrained_cfg={**pretrained_cfg, **own}, **options)
        except RefinerCkaError:
            raise
        except Exception as error:  # a conversion written for another model may raise anything
            if "state_dict" not in own:
                raise
            raise misfit(module, own["state_dict"], source, one_line(error)) from error
        module.__dict__.pop("load_state_dict", None)  # some families load by other means

    vars(_builder)["load_pretrained"] = load_pretrained
    try:
        module = create()
    finally:
        vars(_builder)["load_pretrained"] = original
    return module, fits[0] if fits else None


def _check_patches(module: nn.Module, state: State, source: str) -> None:
    """Refuse other patches: timm would resample them, and the result would be neither model."""
    tensors = [each.get("patch_embed.proj.weight") for each in (module.state_dict(), state)]
    sizes = {one.shape[2:] for one in tensors if one is not None and one.ndim == 4}
    if len(sizes) > 1:
        raise misfit(module, state, source)
