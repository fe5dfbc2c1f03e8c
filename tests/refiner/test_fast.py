"""Fast evaluation: chosen by itself, with the same numbers, less memory, and on other devices."""

import runpy
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from refiner_cka.refiner import conditions, pieces, record_attention
from refiner_cka.refiner.refinement import FoldedRefinement

from .conftest import LAYOUTS, close, plain

# Chosen by itself ----------------------------------------------------------------------------------


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


# The same numbers ----------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("piece", [1, 60_000, 2**40])
def test_pieces_of_any_size_agree(make, monkeypatch, share, batch, piece):
    monkeypatch.setattr(pieces, "CPU_PIECE", piece)
    model, images = make(share_attention=share), torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        ours = model(images)
        with plain(model):
            close(ours, model(images))


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("images", [1, 3])
def test_the_memory_layout_of_other_devices_agrees(make, ratio, images):
    """Maps channels first and products with the weight on the left, as on a GPU."""
    attention = make(share_attention=False, expansion_ratio=ratio).blocks[0].attn
    maps = torch.rand(images, 4, 17, 17)
    contiguous = []
    with torch.no_grad():
        folded = FoldedRefinement(attention.DLA, attention.adapt_bn)
        assert folded.channels_last
        folded.channels_last = False
        convolve = folded.convolve
        folded.convolve = lambda x: contiguous.append(x.is_contiguous()) or convolve(x)
        refined = folded(maps)
    assert contiguous == [True]
    close(refined, attention.adapt_bn(attention.DLA(maps)))


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


# Memory, devices, other ways of running ------------------------------------------------------------


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
    monkeypatch.setattr(conditions, "DEVICE_WORTHWHILE", worthwhile)
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
