"""Reading the attention of every stage without changing the model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from .attention import MapAttention


@dataclass
class AttentionMaps:
    """The maps of one block in the latest forward pass, each (batch, heads, tokens, tokens).

    `raw` is the softmax, None in a block that shares the map of the block before; `refined` what
    DLA and `adapt_bn` make of the map, None in a block that does not refine; `passed` what goes on
    to the next block. Rows of `raw` sum to 1, those of the others need not, and refined maps may
    be negative.
    """

    raw: Tensor | None = None
    refined: Tensor | None = None
    passed: Tensor | None = None


def _keep(maps: AttentionMaps, stage: str, _module: object, _input: object, output: Tensor) -> None:
    setattr(maps, stage, output)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, AttentionMaps]]:
    """Record every attention map of the forward passes inside the `with` block.

        with record_attention(model) as maps:
            model(images)
        maps["blocks.3.attn"].refined      # (batch, heads, tokens, tokens)

    Keys are the dotted paths of the attention modules inside `model`. A later forward pass replaces
    what an earlier one left. All it does is put forward hooks on `raw_map`, `refined_map` and
    `passed_map` of each attention module, and take them off at the end. Both evaluation paths call
    these, so maps are those of the path the model would take.
    """
    recorded: dict[str, AttentionMaps] = {}
    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if isinstance(module, MapAttention):
                maps = recorded[path] = AttentionMaps()
                for stage in ("raw", "refined", "passed"):
                    point = module.get_submodule(f"{stage}_map")
                    hooks.callback(point.register_forward_hook(partial(_keep, maps, stage)).remove)
        yield recorded
