"""Gradient checkpointing that leaves BatchNorm's running statistics right."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every BatchNorm inside `module` as they are.

    The norms work on copies meanwhile. Writing the old values back instead would look to autograd
    like an edit of tensors that the backward pass needs.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers = {name: b if b is None else b.clone() for name, b in buffers.items()}
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers = buffers


def checkpointed(block: nn.Module, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run a block now and again in the backward pass, counting its batch once."""
    output: tuple[Tensor, Tensor] = checkpoint(
        block,
        x,
        before,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), frozen_statistics(block)),
    )
    return output
