"""What the probe finds out: that chunks may take turns, what is random, which rows are one tensor."""

import contextlib
import contextvars
import functools
import random
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import refiner_cka as rc
from refiner_cka.analysis import process
from refiner_cka.analysis.passes import CPU_CHUNK
from refiner_cka.analysis.probe import probe
from refiner_cka.analysis.runtime import Runtime
from tests import float64, pathological
from tests.analysis.runs import (
    CKA_TOLERANCE,
    PRODUCTS,
    inputs,
    prepare,
    run,
    seeded,
    sized,
    subject,
    truth,
)

CPU = torch.device("cpu")
AUTOCAST = functools.partial(torch.autocast, "cpu", torch.bfloat16)
NO_AUTOCAST = functools.partial(torch.autocast, "cpu", enabled=False)
PLAIN_KERNEL = functools.partial(sdpa_kernel, SDPBackend.MATH)


NO_ONEDNN = functools.partial(torch.backends.mkldnn.flags, enabled=False)


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def state():
    return process.read(process.settings(CPU))


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("batch_size", [32, 30])
@pytest.mark.parametrize(
    ("make", "disturbed"),
    [
        (pathological.KeepsItsInput, "RuntimeError"),
        (functools.partial(pathological.Surrounded, AUTOCAST), "the gradient mode|autocast on cpu"),
        (functools.partial(pathological.Surrounded, PLAIN_KERNEL), "flash attention"),
        (functools.partial(pathological.Surrounded, torch.enable_grad), "the gradient mode"),
        (functools.partial(pathological.Surrounded, torch.inference_mode), "inference mode"),
        (functools.partial(pathological.Surrounded, quiet), "the filters of warnings"),
        (functools.partial(pathological.Surrounded, NO_ONEDNN), "oneDNN"),
        (pathological.KeepsByNumber, "layer c"),
    ],
)
def test_a_model_whose_chunks_cannot_take_turns_gets_whole_batches(make, disturbed, batch_size):
    module, data = seeded(make), inputs(96)
    before = state()
    with pytest.warns(rc.AnalysisWarning, match=disturbed) as said:
        prepared = prepare(subject(module, ["b", "c"]), data, batch_size=batch_size)
    measured = rc.measure(prepared).cka()
    (line,) = [str(each.message) for each in said if each.category is rc.AnalysisWarning]
    assert (
        line == f"model: each batch goes through the model whole, since {prepared.models[0].whole}"
    )
    expected = truth(module, ["b", "c"], prepared, data)
    assert np.abs(measured - expected).max() < CKA_TOLERANCE
    assert process.changed(before, state()) == []


@pytest.mark.parametrize("batch_size", [32, 30])
def test_a_model_that_seeds_itself_gets_whole_batches(batch_size):
    """What it draws for an image depends on the image's place in the pass."""
    make = functools.partial(pathological.Surrounded, pathological.own_seed)
    module, data = seeded(make), inputs(96)
    before = state()
    with pytest.warns(rc.AnalysisWarning, match="or on its place"):
        prepared = prepare(subject(module, ["b", "c"]), data, batch_size=batch_size)
    measured = rc.measure(prepared).cka()
    expected = truth(module, ["b", "c"], prepared, data)
    assert np.abs(measured - expected).max() < CKA_TOLERANCE
    assert process.changed(before, state()) == []


def test_without_autocast_around_a_layer_under_half_precision():
    """Chunks that leave their `autocast(enabled=False)` in another order failed with torch's own words."""
    module = seeded(pathological.Surrounded, NO_AUTOCAST)

    class Casts(nn.Module):
        """Gives the layer inside what it takes without autocast."""

        def __init__(self):
            super().__init__()
            self.inner = module
            module.b.register_forward_pre_hook(lambda _module, given: (given[0].float(),))

        def forward(self, x):
            return self.inner(x)

    with pytest.warns(rc.AnalysisWarning, match="autocast on cpu changed"):
        result = run(
            subject(Casts(), ["inner.b", "inner.c"]), inputs(90), batch_size=30, precision="bf16"
        )
    assert np.isfinite(result.cka()).all()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ordinary_models_take_turns(name, precision):
    module = seeded(timm.create_model, name)
    shown = probe(rc.Subject.from_module(module, "all"), (3, 160, 160), Runtime(CPU, precision))
    assert (shown.whole, shown.warnings) == ("", ())


def test_what_takes_turns_and_what_goes_whole_are_the_same_numbers():
    """Chunks of eight in lockstep give the Gram matrices of the same chunks one after the other."""
    module, data = seeded(timm.create_model, "test_vit", img_size=32), inputs(32, size=32)
    analysed = subject(module, "block", preprocessing=sized(32))
    prepared = prepare(analysed, data, batch_size=32)
    turns = rc.measure(prepared)
    object.__setattr__(prepared.models[0], "whole", "for the test")
    np.testing.assert_allclose(turns.cka(), rc.measure(prepared).cka(), atol=CKA_TOLERANCE)


def test_context_variables_of_the_caller_hold_inside_the_model():
    scale = contextvars.ContextVar("scale", default=1.0)

    class Scaled(pathological.InplaceReLU):
        def forward(self, x):
            return super().forward(x * scale.get() + (scale.get() - 1))

    module, data = seeded(Scaled), inputs(32)
    token = scale.set(3.0)
    try:
        inside = run(subject(module, ["fc1", "relu", "fc2"]), data, batch_size=16).cka()
    finally:
        scale.reset(token)
    alone = run(
        subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"]),
        data * 3 + 2,
        batch_size=16,
    ).cka()
    np.testing.assert_allclose(inside, alone, atol=CKA_TOLERANCE)


def test_a_model_that_is_random_in_evaluation_is_named_and_repeats_its_draw():
    module, data = seeded(pathological.RandomInEvaluation), inputs(64)
    before = state()
    with pytest.warns(
        rc.AnalysisWarning, match=r"model: two passes .* differ \(layer b\).* random in"
    ):
        first = run(subject(module, ["a", "b"]), data, batch_size=16)
    assert process.changed(before, state()) == []
    torch.rand(5), random.random(), np.random.rand()
    with pytest.warns(rc.AnalysisWarning, match="random in evaluation"):
        parts = [
            run(subject(module, ["a", "b"]), data, batch_size=16, shard=(k, 2)) for k in (2, 1)
        ]
    # The same numbers, added in another order: one rounding for each of 3 additions.
    merged = rc.merge(parts).sums[PRODUCTS]
    np.testing.assert_allclose(merged, first.sums[PRODUCTS], rtol=3 * 2.0**-52)
    with pytest.warns(rc.AnalysisWarning, match="random in evaluation"):
        other = run(subject(module, ["a", "b"]), data, batch_size=16, seed=1)
    assert abs(other.cka() - first.cka()).max() > 0


def test_code_that_leaves_inference_mode_works():
    module, data = seeded(pathological.WritesInPlace), inputs(32)
    with pytest.warns(rc.AnalysisWarning, match="the gradient mode changed"):
        measured = run(subject(module, ["a", "b"]), data, batch_size=16)
    plain = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Linear(48, 48)))
    expected = run(subject(plain, ["1", "2"]), data, batch_size=16)
    np.testing.assert_allclose(measured.cka(), expected.cka(), atol=CKA_TOLERANCE)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_is_not_called_once_for_some_images_is_refused(times):
    """Its Gram matrix would be that of the batch before, or of its last call."""
    module, data = seeded(pathological.Skips, times), inputs(32)
    data[20] = 1000.0
    with pytest.raises(
        rc.LayerError, match=f"layer b was called {times} times in the pass over batch"
    ):
        run(subject(module, ["a", "b", "c"]), data, batch_size=8)


@pytest.mark.parametrize("times", [0, 2])
def test_attention_that_is_not_called_once_for_some_images_is_refused(times):
    """Its maps would lack those images, or count them twice."""
    module, data = seeded(timm.create_model, "test_vit", img_size=32), inputs(32, size=32)
    data[20] = 1000.0
    attention = module.blocks[0].attn

    class Fickle(type(attention)):
        def forward(self, x, *args, **kwargs):
            outputs = [super(Fickle, self).forward(x, *args, **kwargs) for _ in range(self.times)]
            return outputs[0] if outputs else x

    attention.__class__ = Fickle
    module.register_forward_pre_hook(
        lambda _module, args: setattr(attention, "times", times if args[0].max() > 100 else 1)
    )
    analysed = subject(module, ["norm"], preprocessing=sized(32))
    with pytest.raises(
        rc.LayerError,
        match=f"blocks.0.attn.attn_drop was called {times} times .*measure without it",
    ):
        run(analysed, data, batch_size=8, attention=True)


def test_a_stage_that_returns_its_blocks_tensor_is_no_row_of_its_own():
    module = seeded(pathological.Stage)
    with pytest.warns(
        rc.AnalysisWarning, match="layer stage1 returns the tensor of .*, and so for stage2; left"
    ):
        result = run(subject(module, "stage*"), inputs(), batch_size=8)
    assert [layer.path for layer in result.layers] == ["stage1.0", "stage1.1", "stage2.0"]
    with pytest.warns(rc.AnalysisWarning, match="layers stage2.0 to stage2 .* are the same"):
        by_hand = run(subject(module, ["stage2.0", "stage2"]), inputs(), batch_size=8)
    assert by_hand.cka()[0, 1] == pytest.approx(1)


def test_an_autocast_of_the_caller_does_not_reach_the_models():
    module, data = seeded(pathological.InplaceReLU), inputs(32)
    alone = run(subject(module, ["fc1", "relu", "fc2"]), data, batch_size=16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(subject(module, ["fc1", "relu", "fc2"]), data, batch_size=16)
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(alone.sums[PRODUCTS], inside.sums[PRODUCTS])


def test_the_process_is_put_back_also_after_a_failure():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(48, 48)

        def forward(self, x):
            torch.manual_seed(1)
            torch.set_default_dtype(torch.float64)
            torch.backends.cuda.enable_flash_sdp(False)
            torch.set_autocast_enabled("cpu", True)
            raise ValueError("broken")

    module, before = Breaks(), state()
    with pytest.raises(rc.ModelError, match="broken"):
        run(subject(module, ["a"]), inputs())
    assert process.changed(before, state()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "cause"),
    [
        (
            "vit_tiny_patch16_224",
            {"init_values": 1e-5},
            "ls1.gamma, ls2.gamma in its layers is at most 1e-05",
        ),
        ("resnet18", {"zero_init_last": True}, "bn2.weight in its layers is 0"),
    ],
)
def test_layers_that_are_the_same_are_said_to_be_with_the_likely_cause(name, arguments, cause):
    size = {"img_size": 32} if "vit" in name else {}
    module = seeded(timm.create_model, name, **size, **arguments)
    analysed = subject(module, "block", preprocessing=sized(32))
    with pytest.warns(rc.AnalysisWarning, match=f"same up to rounding: .* probably since {cause}"):
        result = run(analysed, inputs(64, size=32), smoothing="none")
    (line,) = result.warnings
    runs = [(first.path, last.path) for first, last in result.same("model")]
    if "vit" in name:
        assert runs == [("blocks.0", "blocks.11")]
        sentences = rc.summarize(result).sentences
        assert any("all its layers are the same up to rounding" in text for text in sentences)
    else:
        assert runs == [(f"layer{k}.0", f"layer{k}.1") for k in range(1, 5)]
    part = rc.merge([result])
    assert part.warnings == (line,)


def test_layers_that_differ_are_not_said_to_be_the_same():
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    analysed = subject(module, "block", preprocessing=sized(32))
    result = run(analysed, inputs(64, size=32), smoothing="none")
    assert result.same("model") == []
    assert result.warnings == ()


@pytest.mark.parametrize(("precision", "offset"), [("fp32", 0), ("fp32", 3e4), ("bf16", 12)])
def test_an_offset_does_not_hide_that_images_depend_on_one_another(precision, offset):
    analysed = subject(seeded(pathological.OffsetStatistics, offset), ["norm", "last"])
    with pytest.warns(rc.AnalysisWarning, match=r"depend on the others of its pass.*layer norm"):
        prepared = prepare(analysed, inputs(64), batch_size=32, precision=precision)
    assert prepared.models[0].whole


@pytest.mark.parametrize("count", [64, 60])
def test_which_tensor_of_an_output_is_read_does_not_depend_on_the_size_of_a_chunk(count):
    module, data = seeded(pathological.BiasFirst), inputs(count)
    paths = ["blocks.0", "blocks.1", "blocks.2"]
    prepared = prepare(subject(module, paths), data, batch_size=32)
    assert prepared.models[0].logits_place == 1
    kept = [[] for _ in paths]
    for batch in prepared.plan.batches:
        x = data[list(batch)].flatten(1)
        with torch.no_grad():
            for place, block in enumerate(module.blocks):
                _, x = block(x)
                kept[place].append(float64.gram(x.numpy()))
    expected = float64.minibatch_cka_matrix(kept)
    assert np.abs(rc.measure(prepared).cka() - expected).max() < CKA_TOLERANCE


def test_one_module_read_in_two_ways():
    module, data = seeded(pathological.InplaceReLU), inputs(32)
    both = [subject(module, ["fc1", "fc2"], "one"), subject(module, ["relu", "fc2"], "two")]
    together = run(both, data, batch_size=16)
    for name, layers in (("one", ["fc1", "fc2"]), ("two", ["relu", "fc2"])):
        alone = run(subject(module, layers), data, batch_size=16)
        np.testing.assert_allclose(together.cka(name), alone.cka(), atol=1e-12)


def test_inside_the_callers_inference_mode():
    module, data = seeded(pathological.InplaceReLU), inputs(32)
    alone = run(subject(module, ["fc1", "fc2"]), data, batch_size=16)
    with torch.inference_mode():
        inside = run(subject(module, ["fc1", "fc2"]), data, batch_size=16)
        assert torch.is_inference_mode_enabled()
    np.testing.assert_array_equal(alone.sums[PRODUCTS], inside.sums[PRODUCTS])


def test_what_was_said_in_a_run_is_still_said_when_it_is_resumed():
    class Forks(pathological.InplaceReLU):
        """Chunks of eight take their way by their first image."""

        def forward(self, x):
            x = x.flatten(1)
            if len(x) == CPU_CHUNK and x[0, 0] > 0:
                return self.fc2(x @ self.fc1.weight.T)
            return super().forward(x)

    prepared = prepare(subject(seeded(Forks), ["fc1", "fc2"]), inputs(96), batch_size=32)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with (
        pytest.warns(rc.AnalysisWarning, match="calls different"),
        pytest.raises(rc.Interrupted) as caught,
    ):
        rc.measure(prepared, progress=interrupt)
    part = caught.value.result
    assert len(part.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = rc.measure(prepared, resume=part)
    assert resumed.warnings == part.warnings
