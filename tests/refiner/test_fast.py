"""Fast evaluation: the same numbers, chosen by itself, never stale, never in the way of a hook."""

import copy
import runpy
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.utils.parametrize as parametrize
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from refiner_cka.refiner import SharedAttention, fast, record_attention

LAYOUTS = pytest.mark.parametrize("share", [True, False])


def close(ours, reference):
    torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-5)


@contextmanager
def plain(model):
    model.fast_evaluation = False
    yield
    model.fast_evaluation = True


# Chosen by itself ---------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_it_is_taken_in_evaluation_without_gradients(make, images, norms_called, share, guard):
    model = make(share_attention=share)
    with guard(), norms_called() as called:
        ours = model(images)
    assert called == []
    with norms_called() as called:
        close(ours, model(images))  # with gradients
    assert called


@LAYOUTS
def test_it_is_taken_by_a_frozen_model(make, images, norms_called, share):
    model = make(share_attention=share).requires_grad_(False)
    with norms_called() as called:
        model(images)
    assert called == []
    with norms_called() as called:
        model(images.requires_grad_()).sum().backward()
    assert called
    assert images.grad.abs().sum() > 0


def test_it_has_a_switch(make, images, norms_called):
    model = make()
    assert model.fast_evaluation
    with torch.no_grad(), norms_called() as called, plain(model):
        assert not model.fast_evaluation
        model(images)
    assert len(called) == 3 + 2 * 4
    assert model.fast_evaluation


def test_it_is_not_taken_in_training(make, images, norms_called):
    model = make().train()
    with torch.no_grad(), norms_called() as called:
        model(images)
    assert len(called) == 3 + 2 * 4


def test_a_norm_in_training_is_left_to_itself(make, images, norms_called):
    model = make()
    norm = model.blocks[1].attn.DLA.bn2.train()
    before = norm.running_mean.clone()
    with torch.no_grad(), norms_called() as called:
        model(images)
    assert len(called) == 4
    assert norm in called
    assert not torch.equal(norm.running_mean, before)


# The same numbers ---------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("piece", [1, 60_000, 2**40])
def test_pieces_of_any_size_agree(make, monkeypatch, share, batch, piece):
    monkeypatch.setattr(fast, "CPU_PIECE", piece)
    model, images = make(share_attention=share), torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        ours = model(images)
        with plain(model):
            close(ours, model(images))


@pytest.mark.parametrize("share", [True, False])
def test_the_way_of_other_devices_agrees(make, images, monkeypatch, share):
    """Maps channels first and products with the weight on the left, as on a GPU."""

    model = make(share_attention=share)
    expected = model(images)

    original = fast.FoldedRefinement._expand

    class OnGpu:
        """Looks like a tensor on a GPU, computes on the CPU."""

        device = torch.device("cuda")

        def __init__(self, tensor):
            self.tensor = tensor

        def __len__(self):
            return len(self.tensor)

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func(*(a.tensor if isinstance(a, cls) else a for a in args), **(kwargs or {}))

    def expand(self, maps, flat):
        expanded = original(self, maps, OnGpu(flat))
        assert expanded.is_contiguous()
        return expanded

    monkeypatch.setattr(fast.FoldedRefinement, "_expand", expand)
    with torch.no_grad():
        close(model(images), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@LAYOUTS
def test_other_precisions(make, images, dtype, share):
    model = make(share_attention=share)
    expected = model(images)
    tolerance = {torch.float64: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    model, images = model.to(dtype), images.to(dtype)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            logits = model(images)
        assert logits.dtype == dtype
        assert (logits.float() - expected).abs().max() < tolerance * expected.abs().max()


@LAYOUTS
def test_autocast(make, images, share):
    model = make(share_attention=share)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16), record_attention(model) as maps:
        with plain(model), torch.no_grad():
            plain_logits = model(images)
            dtypes = [m.passed.dtype for m in maps.values()]
        with torch.no_grad():
            fast_logits = model(images)
    assert dtypes == [m.passed.dtype for m in maps.values()]
    assert fast_logits.dtype == plain_logits.dtype
    for logits in (plain_logits, fast_logits):
        assert (logits.float() - expected).abs().max() < 3e-2 * expected.abs().max()


# Never stale --------------------------------------------------------------------------------------


def step(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    model.eval()


def move_statistics(model):
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    model.eval()


def load(model):
    other = copy.deepcopy(model)
    step(other)
    model.load_state_dict(other.state_dict())


def edit_in_place(model):
    with torch.no_grad():
        model.blocks[1].attn.DLA.conv_exp.weight.mul_(1.5)


def edit_data(model):
    model.blocks[1].attn.DLA.bn3.weight.data.mul_(1.5)


def replace_data(model):
    norm = model.blocks[1].attn.adapt_bn
    norm.weight.data = norm.weight.data * 1.5


def replace_parameter(model):
    model.patch_embed.conv2.weight = nn.Parameter(model.patch_embed.conv2.weight * 1.5)


def edit_buffer(model):
    model.blocks[3].attn.DLA.bn2.running_var.data.mul_(2)


def edit_eps(model):
    model.blocks[3].attn.DLA.bn2.eps = 0.5


def add_biases(model):
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is None:
            conv.bias = nn.Parameter(torch.linspace(-0.5, 0.5, conv.out_channels))


def dilate(model):
    for conv in (model.patch_embed.conv2, model.blocks[1].attn.DLA.depth_sep_conv):
        conv.dilation = conv.padding = (2, 2)


def edit_through_numpy(model):
    model.blocks[1].attn.DLA.depth_sep_conv.weight.detach().numpy()[:] *= 1.5


def swap_average(model):
    averaged = copy.deepcopy(model)
    step(averaged)
    for parameter, average in zip(model.parameters(), averaged.parameters(), strict=True):
        parameter.data, average.data = average.data, parameter.data


def move_precision(model):
    edit_data(model.double())
    model.float()


@LAYOUTS
@pytest.mark.parametrize(
    "change",
    [
        step,
        move_statistics,
        load,
        edit_in_place,
        edit_data,
        replace_data,
        replace_parameter,
        edit_buffer,
        edit_eps,
        add_biases,
        dilate,
        edit_through_numpy,
        swap_average,
        move_precision,
    ],
)
def test_it_follows_every_change_of_weights(make, images, norms_called, change, share):
    model = make(share_attention=share)
    with torch.no_grad():
        before = model(images)
    change(model)
    with torch.no_grad(), norms_called() as called:
        after = model(images)
    assert called == []
    assert (after - before).abs().max() > 1e-5
    with torch.no_grad(), plain(model):
        close(after, model(images))


# Hooks and replaced parts -------------------------------------------------------------------------


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
    assert set(called) == {
        attention.DLA.bn1,
        attention.DLA.bn2,
        attention.DLA.bn3,
        attention.adapt_bn,
    }


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


def replace_norm(model):
    model.blocks[1].attn.DLA.bn1 = nn.Identity()


def forget_statistics(model):
    norm = model.blocks[1].attn.DLA.bn1
    norm.running_mean = norm.running_var = None


def forget_shift(model):
    model.blocks[1].attn.DLA.bn1.bias = None


def parametrise(model):
    parametrize.register_parametrization(
        model.blocks[1].attn.DLA.conv_pro, "weight", Doubled(), unsafe=True
    )


def replace_forward(model):
    attention = model.blocks[1].attn
    attention.DLA.forward = lambda maps: maps


def replace_refine(model):
    model.blocks[1].attn.refine = lambda maps: 2 * maps


class Sharper(SharedAttention):
    def attend(self, maps, values):
        return super().attend(2 * maps, values)


def replace_attend(model):
    model.blocks[1].attn.__class__ = Sharper


def replace_drop(model):
    model.blocks[1].attn.attn_drop = nn.Softmax(dim=-1)


def replace_reading_point(model):
    model.blocks[1].attn.refined_map = nn.Softmax(dim=-1)


@pytest.mark.parametrize(
    "change",
    [
        replace_norm,
        forget_statistics,
        forget_shift,
        parametrise,
        replace_forward,
        replace_refine,
        replace_attend,
        replace_drop,
        replace_reading_point,
    ],
)
def test_replaced_parts_are_used(make, images, change):
    model = make()
    with torch.no_grad():
        before = model(images)
        change(model)
        model.eval()
        ours = model(images)
        assert not torch.allclose(ours, before, atol=1e-5)
        with plain(model):
            close(ours, model(images))


# Memory, devices, other ways of running -----------------------------------------------------------


def test_peak_memory_is_at_most_half():
    bench = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "bench_refiner.py"))
    model = timm.create_model("refiner_vit_s", depth=4).eval()
    images = torch.randn(4, 3, 224, 224)
    peaks = {
        is_fast: bench["peak_bytes"](bench["evaluation"](model, images, fast=is_fast))
        for is_fast in (True, False)
    }
    assert peaks[True] <= 0.5 * peaks[False]


class NoCopyToCpu(TorchDispatchMode):
    """Fails on anything that would make a GPU wait: copies from it to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if isinstance(output, torch.Tensor) and any(t.device.type == "cuda" for t in tensors):
            assert output.device.type == "cuda", func
        return output


@LAYOUTS
@pytest.mark.parametrize("worthwhile", [0, 2**60])
def test_it_runs_on_a_gpu_without_waiting_for_it(make, monkeypatch, share, worthwhile):
    monkeypatch.setattr(fast, "DEVICE_WORTHWHILE", worthwhile)
    model = make(share_attention=share)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[name] = nn.Parameter(torch.empty_like(tensor, device="cuda"))
            for name, tensor in module._buffers.items():
                if tensor is not None:
                    module._buffers[name] = torch.empty_like(tensor, device="cuda")
        with torch.no_grad(), NoCopyToCpu():
            logits = model(torch.empty(2, 3, 32, 32, device="cuda"))
    assert logits.device.type == "cuda"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_functional_transforms_work(make, images):
    model = make()
    expected = model(images).detach()
    with torch.no_grad():
        value, tangent = torch.func.jvp(model, (images,), (images,))
        close(value, expected)
        assert tangent.abs().sum() > 0
        stacked = torch.func.stack_module_state([model, make(seed=1)])
        ensemble = torch.func.vmap(
            lambda p, b: torch.func.functional_call(model, (p, b), (images,))
        )(*stacked)
        close(ensemble[0], expected)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(images, images)
            value, derivative = torch.autograd.forward_ad.unpack_dual(model(dual))
        close(derivative, tangent)
