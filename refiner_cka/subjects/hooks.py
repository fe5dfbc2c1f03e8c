"""Forward hooks that are gone afterwards.

Features are reduced inside the hook: a moment later an in-place operation may overwrite them (timm's ResNets do),
and keeping them would cost the memory of every layer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def capture(
    module: nn.Module, paths: Sequence[str], visit: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call `visit(path, output)` whenever one of the layers has computed its output.

    The hooks are removed on leaving, whatever happened inside.

    Args:
        module: the model.
        paths: dotted paths of modules inside it.
        visit: must not keep the output.
    """
    handles = []

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: visit(path, output)

    try:
        for path in paths:
            handles.append(module.get_submodule(path).register_forward_hook(hook(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_outputs(
    module: nn.Module, paths: Sequence[str], forward: Callable[[], Any], read: Callable[[Any], Any]
) -> tuple[Mapping[str, list[Any]], Any]:
    """Run one forward pass and return what each layer gave, by path in the order of the calls.

    Args:
        module: the model.
        paths: layers to watch.
        forward: runs the model.
        read: from an output to what is kept of it; must not keep features.

    Returns:
        For each layer that was called, what `read` made of each call; and what `forward` returned.
    """
    seen: dict[str, list[Any]] = {}

    def visit(path: str, output: Any) -> None:
        seen.setdefault(path, []).append(read(output))

    with capture(module, paths, visit):
        returned = forward()
    return seen, returned
