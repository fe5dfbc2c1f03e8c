"""Compilation, export, scripting and tracing."""

import importlib.util
import shutil
import warnings

import pytest
import torch

from .conftest import LAYOUTS


@LAYOUTS
@pytest.mark.parametrize("gradients", [True, False])
def test_compile_in_one_graph(make, images, share, gradients):
    model = make(share_attention=share)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)


def test_compiled_training_step(make, images):
    model = make().train()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@LAYOUTS
def test_export_with_any_batch_size(make, images, share):
    model = make(share_attention=share)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    for size in (2, 5):
        x = torch.randn(size, 3, 32, 32)
        torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-5)


@LAYOUTS
@pytest.mark.parametrize("conv_stem", [True, False])
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_script(make, images, share, conv_stem, tmp_path):
    model = make(share_attention=share, conv_stem=conv_stem)
    scripted = torch.jit.script(model)
    scripted.save(str(tmp_path / "refiner.pt"))
    loaded = torch.jit.load(str(tmp_path / "refiner.pt"))
    torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::torch.jit.TracerWarning")
def test_trace_follows_the_batch_size(make, images):
    model = make()
    with torch.no_grad():
        traced = torch.jit.trace(model, images)
        more = torch.randn(5, 3, 32, 32)
        torch.testing.assert_close(traced(more), model(more), atol=1e-5, rtol=1e-5)


@LAYOUTS
def test_symbolic_trace(make, images, share):
    model = make(share_attention=share)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(images), model(images))


@pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="torch exports ONNX with onnxscript"
)
def test_onnx(make, images, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(make(), (images,), dynamo=True, verbose=False)
    program.save(str(tmp_path / "refiner.onnx"))
    assert (tmp_path / "refiner.onnx").stat().st_size > 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler needs g++")
def test_default_compiler(make, images):
    model = make(depth=2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model)
        torch.testing.assert_close(compiled(images), model(images), atol=1e-4, rtol=1e-4)
