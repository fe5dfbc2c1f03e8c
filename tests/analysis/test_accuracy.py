"""The whole analysis against float64 from the same float32 features.

Tolerance 1e-6: a float32 Gram of centred features carries a relative error of a few float32 eps (1.2e-7).
"""

import copy
import itertools

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.measures import hsic
from tests import float64, pathological
from tests.analysis.runs import (
    CKA_TOLERANCE,
    check_against_truth,
    inputs,
    prepare,
    run,
    seeded,
    sized,
    subject,
)


def test_an_in_place_relu_does_not_overwrite_the_layer_before():
    measured = check_against_truth(
        seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"], inputs()
    )
    assert measured[0, 1] < 0.98


def test_tuple_outputs():
    check_against_truth(
        seeded(pathological.TupleOutput), ["blocks.0", "blocks.1", "blocks.2"], inputs()
    )


@pytest.mark.parametrize("offset", [10, 1000])
def test_offsets_of_many_standard_deviations(offset):
    module = seeded(pathological.Offset, offset)
    check_against_truth(module, ["fc1", "shifted", "deep"], inputs())


def test_a_ragged_last_batch_has_its_weight():
    check_against_truth(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"], inputs(37))


def test_a_last_batch_of_three_is_left_out():
    data = inputs(35)
    result = run(subject(seeded(pathological.InplaceReLU), ["fc1"]), data, batch_size=16)
    assert result.images == 32
    assert result.provenance["left_out"] == 3


@pytest.mark.filterwarnings("ignore:.*are the same up to rounding")
@pytest.mark.parametrize("zero_init_last", [True, False])
def test_resnet50(zero_init_last):
    module = seeded(timm.create_model, "resnet50", zero_init_last=zero_init_last)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 3, 112, 112, generator=generator)
    paths = [f"layer{s}.{b}" for s, depth in enumerate([3, 4, 6, 3], 1) for b in range(depth)]
    measured = check_against_truth(module, paths, data, batch_size=32, preprocessing=sized(112))
    if zero_init_last:
        # The last gamma of each block is 0: the blocks of a stage are the same up to a ReLU.
        assert measured[0, 2] == pytest.approx(1, abs=1e-6)
    else:
        assert measured[0, 2] < 1 - 1e-6


@pytest.mark.filterwarnings("ignore")
def test_other_packages_agree_on_clean_inputs():
    """Both average HSIC over batches, the same as summing when batches are equal."""
    from cka import compute_cka
    from torch.utils.data import DataLoader
    from torch_cka import CKA

    module = seeded(timm.create_model, "test_vit", img_size=64)
    data = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    paths = [f"blocks.{k}" for k in range(len(module.blocks))]
    prepared = prepare(
        subject(module, paths, preprocessing=sized(64)),
        data,
        batch_size=32,
    )
    measured = rc.measure(prepared).cka()
    ordered = data[list(itertools.chain.from_iterable(prepared.plan.batches))]
    loader = DataLoader(ordered, batch_size=32, collate_fn=lambda rows: [torch.stack(rows)])
    other = copy.deepcopy(module)
    with torch.no_grad():
        theirs = CKA(module, other, model1_layers=paths, model2_layers=paths)
        theirs.compare(loader)
    np.testing.assert_allclose(measured, theirs.export()["CKA"], atol=1e-4)
    second = compute_cka(module, copy.deepcopy(module), loader, layers=paths, device="cpu")
    np.testing.assert_allclose(measured, np.asarray(second)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_hooked_features_are_timms_intermediates(name, monkeypatch):
    module = seeded(timm.create_model, name, img_size=64)
    paths = [f"blocks.{k}" for k in range(12)]
    data = inputs(4, size=64)
    hooked = []
    monkeypatch.setattr(hsic, "gram", lambda chunks, *_: hooked.append(torch.cat(list(chunks))))
    analysed = subject(module, paths, preprocessing=sized(64))
    prepared = prepare(analysed, data)
    with pytest.warns(rc.AnalysisWarning):  # The Gram matrices stay empty.
        rc.measure(prepared)
    ordered = data[list(prepared.plan.batches[0])]
    with torch.inference_mode():
        intermediates = module.forward_intermediates(
            ordered,
            norm=False,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
    for row, (patches, prefix) in enumerate(intermediates):
        assert torch.equal(hooked[row], torch.cat([prefix, patches], dim=1).flatten(1))


def test_a_constant_layer_is_nan_in_its_row_with_a_warning_and_the_rest_stands():
    module = seeded(pathological.ConstantLayer)
    with pytest.warns(rc.AnalysisWarning, match="layer dead .* do not vary"):
        result = run(subject(module, ["fc1", "dead", "fc2"]), inputs())
    assert np.isnan(result.cka()[1]).all()
    without = run(subject(module, ["fc1", "fc2"]), inputs())
    np.testing.assert_allclose(result.cka()[np.ix_([0, 2], [0, 2])], without.cka(), atol=1e-12)
    assert [layer.path for layer in result.degenerate()] == ["dead"]
    assert any("dead" in line for line in result.warnings)


def test_a_non_finite_layer_is_nan_in_its_row_with_a_warning_and_the_rest_stands():
    module = seeded(pathological.NonFinite)
    with pytest.warns(rc.AnalysisWarning, match="layer overflow .* not finite"):
        result = run(subject(module, ["fc1", "overflow", "fc2"]), inputs())
    assert np.isnan(result.cka()[1]).all()
    assert np.isfinite(result.cka()[::2, ::2]).all()


def test_the_class_token_before_the_first_attention_does_not_vary():
    """It is the same for every image, up to rounding that depends on its position in the batch."""
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    analysed = subject(
        module,
        ["blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0"],
        preprocessing=sized(32),
    )
    with pytest.warns(rc.AnalysisWarning, match="do not vary"):
        result = run(analysed, inputs(32, size=32), tokens="cls")
    assert [layer.path for layer in result.degenerate()] == ["blocks.0.norm1", "blocks.0.attn.qkv"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_readouts_of_tokens_with_an_offset(dtype):
    """Features of 10 + noise: a mean rounded to bfloat16 is off by more than images differ (CKA by 0.03)."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()

        def forward(self, x):
            x = x.flatten(2).mT.repeat(1, 4, 4)
            x = self.first((x + 10).to(dtype))
            return self.second(torch.cat([x, x.roll(1, 2) * x], 2))

    module, data, kept = Tokens().eval(), inputs(32), {0: [], 1: []}
    analysed = subject(module, ["first", "second"], layout="nlc")
    for index, part in enumerate((module.first, module.second)):
        part.register_forward_hook(
            lambda _m, _i, output, index=index: kept[index].append(output.double().mean(1).numpy())
        )
    prepared = prepare(analysed, data, batch_size=32, tokens="mean")
    for outputs in kept.values():
        outputs.clear()
    measured = rc.measure(prepared).cka()[0, 1]
    grams = [[float64.gram(np.concatenate(kept[index]))] for index in range(2)]
    assert abs(measured - float64.minibatch_cka(*grams)) < CKA_TOLERANCE


def test_float64_models():
    module = seeded(pathological.InplaceReLU).double()
    module.register_forward_pre_hook(lambda _m, arguments: (arguments[0].double(),))
    check_against_truth(module, ["fc1", "relu", "fc2"], inputs())


def test_half_precision_stays_close():
    """bf16 keeps 8 bits: features differ by 2^-9 relative each, CKA by at most about twice that."""
    module = seeded(pathological.InplaceReLU)
    exact = run(subject(module, ["fc1", "relu", "fc2"]), inputs())
    half = run(subject(module, ["fc1", "relu", "fc2"]), inputs(), precision="bf16")
    difference = np.abs(half.cka() - exact.cka()).max()
    assert 0 < difference < 2 * 2**-8
    assert half.fingerprint != exact.fingerprint


def test_top1_is_measured_where_class_folders_match_the_classes(tmp_path):
    class Brightness(nn.Module):
        """Predicts `dark` or `light` and is wrong about nothing."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            bright = self.layer(x).mean((1, 2, 3))
            return torch.stack([bright, -bright], dim=1)

    for name, value in (("dark", 30), ("light", 220), ("unknown", 200)):
        (tmp_path / name).mkdir()
        for index in range(4):
            pixels = np.full((8, 8, 3), value + index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    known = subject(Brightness(), ["layer"], name="known", classes=("light", "dark"))
    wrong = subject(Brightness(), ["layer"], name="wrong", classes=("dark", "light"))
    other = subject(Brightness(), ["layer"], name="other", classes=("cat", "dog"))
    result = run([known, wrong, other], tmp_path, batch_size=6)
    assert result.top1("known") == 1.0
    assert result.top1("wrong") == 0.0
    assert result.top1("other") is None
    assert result.sums["top1/trials"].tolist() == [8, 8, 0]


def test_a_result_is_shown_in_a_line():
    result = run(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(), batch_size=8)
    assert repr(result) == "<Result: model; 1 layers, 40 images, 5 of 5 batches>"
