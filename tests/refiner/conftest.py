"""A small Refiner in which every mechanism has an effect, and a look at which path was taken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import nn

from refiner_cka.refiner import Refiner
from refiner_cka.refiner.block import ScaledMlp

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 4, "depth": 4}

LAYOUTS = pytest.mark.parametrize("share", [True, False])


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """Assert that two ways of evaluation agree."""
    torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-5)


@contextmanager
def plain(model: Refiner) -> Iterator[None]:
    """A context in which a model evaluates by the plain path."""
    model.fast_evaluation = False
    yield
    model.fast_evaluation = True


@torch.no_grad()
def give_effect(model: nn.Module) -> None:
    """Draw what initialisation leaves at 0, 1 or 1e-5, as if the model had been trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.05, 2)
        if isinstance(module, ScaledMlp):
            module.scale_channel.uniform_(0.2, 0.6)


def create(**options: Any) -> Refiner:
    """A small `refiner_vit_s` in evaluation, made by timm; options override its size."""
    return timm.create_model("refiner_vit_s", **(SMALL | options)).eval()


@pytest.fixture
def make() -> Callable[..., Refiner]:
    """A function that builds a small Refiner in evaluation; arguments override its size."""

    def build(seed: int = 0, **overrides: Any) -> Refiner:
        torch.manual_seed(seed)
        model = Refiner(**(SMALL | {"num_classes": 5} | overrides))
        give_effect(model)
        return model.eval()

    return build


@pytest.fixture
def images() -> torch.Tensor:
    """Three images for a small Refiner."""
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def norms_called(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context that lists the BatchNorm modules called: none on the fast path."""

    @contextmanager
    def listing() -> Iterator[list[nn.Module]]:
        called: list[nn.Module] = []
        original = nn.BatchNorm2d.forward

        def forward(self: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
            called.append(self)
            return original(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(nn.BatchNorm2d, "forward", forward)
            yield called

    return listing
