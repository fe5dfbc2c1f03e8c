"""Fast evaluation is never in the way of a hook, and uses what replaced a part."""

import pytest
import torch
import torch.nn.utils.parametrize as parametrize
from torch import nn

from refiner_cka.refiner import SharedAttention
from refiner_cka.refiner.convolutions import AttentionReduction

from .conftest import LAYOUTS, close, plain


def inside(model):
    """Dotted paths of every module that does something in a forward pass in evaluation."""
    return [
        path
        for path, module in model.named_modules()
        if path and not isinstance(module, nn.ModuleList) and not path.endswith("raw_map")
    ]


@LAYOUTS
@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hooks_on_any_module_fire_once_and_change_nothing(make, images, share, kind):
    model = make(share_attention=share)
    with torch.no_grad():
        expected = model(images)
        for path in inside(model):
            fired = []
            module = model.get_submodule(path)
            register = {
                "forward": module.register_forward_hook,
                "pre": module.register_forward_pre_hook,
            }[kind]
            handle = register(lambda *_, fired=fired: fired.append(1))
            close(model(images), expected)
            handle.remove()
            # Plain blocks have nothing to refine; their `refined_map` stays silent.
            silent = (
                path.endswith("refined_map")
                and not model.get_submodule(path.removesuffix(".refined_map")).refines
            )
            assert len(fired) == (0 if silent else 1), path


def test_only_the_hooked_mechanism_steps_aside(make, images, norms_called):
    model = make()
    model.blocks[3].attn.DLA.register_forward_hook(lambda *_: None)
    with torch.no_grad(), norms_called() as called:
        model(images)
    attention = model.blocks[3].attn
    assert set(called) == {m for m in attention.modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize("path", ["blocks.1.attn", "blocks.1", "blocks.1.mlp", "patch_embed"])
def test_hooks_around_a_mechanism_leave_it_fast(make, images, norms_called, path):
    model = make()
    model.get_submodule(path).register_forward_hook(lambda *_: None)
    with torch.no_grad(), norms_called() as called:
        model(images)
    assert called == []


def test_hooks_may_change_what_passes(make, images):
    model = make()
    with torch.no_grad():
        before = model(images)
        model.blocks[1].attn.DLA.bn1.register_forward_hook(lambda m, i, output: output * 0)
        ours = model(images)
        assert not torch.allclose(ours, before)
        with plain(model):
            close(ours, model(images))


def test_global_hooks_fire_for_every_module(make, images):
    model = make()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(m))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    assert {m for m in model.modules() if isinstance(m, nn.BatchNorm2d)} <= set(seen)


@LAYOUTS
def test_backward_hooks_fire_for_every_module(make, images, share):
    model = make(share_attention=share)
    fired = set()
    for path in inside(model):
        model.get_submodule(path).register_full_backward_hook(lambda *_, path=path: fired.add(path))
    model(images.requires_grad_()).sum().backward()
    silent = {
        path + ".refined_map"
        for path, module in model.named_modules()
        if getattr(module, "refines", True) is False
    }
    assert fired == set(inside(model)) - silent


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrised(conv):
    return parametrize.register_parametrization(conv, "weight", Doubled(), unsafe=True)


class Sharper(SharedAttention):
    def attend(self, maps, values):
        return super().attend(2 * maps, values)


@pytest.mark.parametrize(
    ("path", "part", "new"),
    [
        ("blocks.1.attn.DLA", "bn1", nn.Identity()),
        ("blocks.1.attn.DLA", "bn1", nn.BatchNorm2d(12, track_running_stats=False)),
        ("blocks.1.attn.DLA.bn1", "bias", None),
        ("blocks.1.attn.DLA", "conv_pro", parametrised(AttentionReduction(12, 4))),
        ("blocks.1.attn.DLA", "forward", lambda maps: maps),
        ("blocks.1.attn", "refine", lambda maps: 2 * maps),
        ("blocks.1.attn", "__class__", Sharper),
        ("blocks.1.attn", "attn_drop", nn.Softmax(dim=-1)),
        ("blocks.1.attn", "refined_map", nn.Softmax(dim=-1)),
    ],
)
def test_replaced_parts_are_used(make, images, path, part, new):
    model = make()
    with torch.no_grad():
        before = model(images)
        setattr(model.get_submodule(path), part, new)
        model.eval()
        ours = model(images)
        assert not torch.allclose(ours, before, atol=1e-5)
        with plain(model):
            close(ours, model(images))
