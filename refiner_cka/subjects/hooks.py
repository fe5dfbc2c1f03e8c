"""Forward hooks that are gone afterwards.

Features are reduced inside the hook: a moment later an in-place operation may overwrite them (timm's ResNets do),
and keeping them would cost the memory of every layer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def capture(
    module: nn.Module, paths: Sequence[str], visit: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call `visit(path, output)` whenever one of the layers has computed its output.

    The hooks are removed on leaving, whatever happened inside; `visit` must not keep the output.
    """
    with ExitStack() as hooks:
        for path in paths:

            def hook(_module: nn.Module, _inputs: Any, output: Any, path: str = path) -> None:
                visit(path, output)

            hooks.enter_context(module.get_submodule(path).register_forward_hook(hook))
        yield


def first_outputs(
    module: nn.Module, paths: Sequence[str], forward: Callable[[], Any], read: Callable[[Any], Any]
) -> tuple[Mapping[str, list[Any]], Any]:
    """Run one forward pass of a model and read its layers' outputs.

    Returns:
        For each layer that was called, in the order of the first calls, what `read` made of each output, of
        which it must not keep the features; and what `forward` returned.
    """
    seen: dict[str, list[Any]] = {}

    def visit(path: str, output: Any) -> None:
        seen.setdefault(path, []).append(read(output))

    with capture(module, paths, visit):
        returned = forward()
    return seen, returned
