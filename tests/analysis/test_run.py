"""The whole analysis against float64 from the same float32 features, and what must not change its numbers.

Tolerance 1e-6: a float32 Gram of centred features carries a relative error of a few float32 eps (1.2e-7).
"""

import copy
import itertools
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.analysis import run as engine
from refiner_cka.analysis import runtime
from refiner_cka.analysis.passes import CPU_CHUNK
from refiner_cka.analysis.probe import PROBE_IMAGES
from refiner_cka.images import open_source
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.measures.gram import GramStack
from tests import float64, pathological

CKA_TOLERANCE = 1e-6
PRODUCTS = "similarity/cka/products"
TINY = Preprocessing(input_size=(3, 4, 4))


def inputs(count=40, size=4, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(factory, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory(*args, **kwargs).eval()


def subject(module, layers, name="model", **kwargs):
    kwargs.setdefault("preprocessing", TINY)
    return rc.Subject.from_module(module, layers, name=name, **kwargs)


def run(subjects, data, **kwargs):
    kwargs.setdefault("workers", 0)
    kwargs.setdefault("device", "cpu")
    return rc.analyze(subjects, data, **kwargs)


def grams_of(module, paths, batches):
    """Float64 Gram matrix of each layer's float32 features for each batch, from hooks of our own."""
    kept = {path: [] for path in paths}

    def keep(path):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            kept[path].append(float64.gram(output.float().numpy()))

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    with torch.inference_mode():
        for batch in batches:
            module(batch)
    for handle in handles:
        handle.remove()
    return [kept[path] for path in paths]


def truth(module, paths, analysis_result, data):
    """CKA in float64 from the same features of the same batches."""
    batches = [data[list(batch)] for batch in analysis_result.plan.batches]
    return float64.minibatch_cka_matrix(grams_of(module, paths, batches))


def check_against_truth(module, paths, data, batch_size=16, **kwargs):
    prepared = rc.prepare(
        subject(module, paths, **kwargs), data, batch_size=batch_size, workers=0, device="cpu"
    )
    expected = truth(module, paths, prepared, data)
    measured = engine.measure(prepared).cka()
    assert np.abs(measured - expected).max() < CKA_TOLERANCE
    return measured


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


def test_a_model_in_training_mode_is_evaluated_and_left_as_it_was():
    module = seeded(pathological.TrainingMode)
    check_against_truth(copy.deepcopy(module), ["norm", "fc1", "fc2"], inputs())
    module.train()
    module.drop.eval()
    before = copy.deepcopy(module.state_dict())
    run(subject(module, ["fc1", "fc2"]), inputs())
    assert module.training
    assert not module.drop.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*are the same up to rounding")
@pytest.mark.parametrize("zero_init_last", [True, False])
def test_resnet50(zero_init_last):
    module = seeded(timm.create_model, "resnet50", zero_init_last=zero_init_last)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 3, 112, 112, generator=generator)
    paths = [f"layer{s}.{b}" for s, depth in enumerate([3, 4, 6, 3], 1) for b in range(depth)]
    measured = check_against_truth(
        module, paths, data, batch_size=32, preprocessing=Preprocessing(input_size=(3, 112, 112))
    )
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
    prepared = rc.prepare(
        subject(module, paths, preprocessing=Preprocessing(input_size=(3, 64, 64))),
        data,
        batch_size=32,
        workers=0,
        device="cpu",
    )
    measured = engine.measure(prepared).cka()
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
    hooked = {}
    monkeypatch.setattr(
        GramStack,
        "put",
        lambda self, row, chunks: hooked.update({row: torch.cat(list(chunks))}),
    )
    analysed = subject(module, paths, preprocessing=Preprocessing(input_size=(3, 64, 64)))
    prepared = rc.prepare(analysed, data, workers=0, device="cpu")
    with pytest.warns(rc.AnalysisWarning):  # The Gram matrices stay empty.
        engine.measure(prepared)
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
        preprocessing=Preprocessing(input_size=(3, 32, 32)),
    )
    with pytest.warns(rc.AnalysisWarning, match="do not vary"):
        result = run(analysed, inputs(32, size=32), tokens="cls")
    assert [layer.path for layer in result.degenerate()] == ["blocks.0.norm1", "blocks.0.attn.qkv"]


@pytest.mark.parametrize(
    ("path", "reason"), [("shared", "called 2 times"), ("never", "never called")]
)
def test_a_layer_named_by_hand_that_cannot_be_read_is_refused(path, reason):
    with pytest.raises(rc.LayerError, match=f"layer {path} is {reason}"):
        run(subject(seeded(pathological.CalledTwiceAndNever), ["first", path]), inputs())


def test_under_a_pattern_it_is_left_out_with_a_warning():
    with pytest.warns(rc.AnalysisWarning) as caught:
        result = run(subject(seeded(pathological.CalledTwiceAndNever), "*"), inputs())
    assert [layer.path for layer in result.layers] == ["first", "last"]
    lines = sorted(str(warning.message) for warning in caught)
    assert len(lines) == 2
    assert "never is never called" in lines[0]
    assert "shared is called 2 times" in lines[1]
    assert set(lines) == set(result.warnings)


def test_twice_the_same_command_gives_identical_arrays():
    module = seeded(pathological.InplaceReLU)
    first, second = (run(subject(module, ["fc1", "relu", "fc2"]), inputs()) for _ in range(2))
    np.testing.assert_array_equal(first.sums[PRODUCTS], second.sums[PRODUCTS])
    assert first.fingerprint == second.fingerprint


def test_the_number_of_workers_changes_nothing(tmp_path):
    folder = image_folder(tmp_path, 24)
    module = seeded(pathological.InplaceReLU)
    results = [
        run(subject(module, ["fc1", "fc2"]), folder, batch_size=8, workers=workers)
        for workers in (0, 4)
    ]
    np.testing.assert_array_equal(results[0].sums[PRODUCTS], results[1].sums[PRODUCTS])


def test_a_model_alone_and_beside_three_others():
    module = seeded(pathological.InplaceReLU)
    mine = subject(module, ["fc1", "relu", "fc2"], name="mine")
    others = [
        subject(seeded(pathological.TupleOutput), ["blocks.0", "blocks.2"], name="tuple"),
        subject(seeded(pathological.TrainingMode), ["fc1", "fc2"], name="training"),
        subject(seeded(pathological.Offset, 10), ["fc1", "deep"], name="offset"),
    ]
    alone = run(mine, inputs())
    beside = run([others[0], mine, *others[1:]], inputs())
    np.testing.assert_allclose(beside.cka("mine"), alone.cka("mine"), rtol=0, atol=1e-12)
    assert beside.cka("mine", "tuple").shape == (3, 2)
    np.testing.assert_array_equal(beside.cka("mine", "tuple"), beside.cka("tuple", "mine").T)


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
    prepared = rc.prepare(analysed, data, batch_size=32, workers=0, device="cpu", tokens="mean")
    for outputs in kept.values():
        outputs.clear()
    measured = engine.measure(prepared).cka()[0, 1]
    grams = [[float64.gram(np.concatenate(kept[index]))] for index in range(2)]
    assert abs(measured - float64.minibatch_cka(*grams)) < CKA_TOLERANCE


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_outputs_of_any_size_tell_whether_a_batch_may_be_split(scale):
    class Mixes(pathological.InplaceReLU):
        def forward(self, x):
            x = super().forward(x)
            return (x - x.mean(0)) * scale

    analysed = subject(seeded(Mixes), ["fc1", "fc2"])
    with pytest.warns(
        rc.AnalysisWarning, match=r"depend on the others of its pass.* \(its output\)"
    ):
        prepared = rc.prepare(analysed, inputs(), batch_size=16, workers=0, device="cpu")
    assert prepared.models[0].whole


def test_float64_models():
    module = seeded(pathological.InplaceReLU).double()
    module.register_forward_pre_hook(lambda _m, arguments: (arguments[0].double(),))
    check_against_truth(module, ["fc1", "relu", "fc2"], inputs())


def test_readouts_are_read_in_one_pass_as_layers_of_their_own():
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    analysed = subject(module, "block", preprocessing=Preprocessing(input_size=(3, 32, 32)))
    together = run(analysed, inputs(32, size=32), tokens="all,cls,mean")
    assert together.tokens == ("all", "cls", "mean")
    assert together.cka("model", tokens="mean").shape == (12, 12)
    for readout in together.tokens:
        alone = run(analysed, inputs(32, size=32), tokens=readout)
        np.testing.assert_allclose(
            together.cka("model", tokens=readout), alone.cka("model"), atol=1e-12
        )


def test_a_class_token_is_refused_where_there_is_none():
    module = seeded(timm.create_model, "test_resnet")
    analysed = subject(module, "block", preprocessing=Preprocessing(input_size=(3, 32, 32)))
    with pytest.raises(rc.LayerError, match="no class token"):
        run(analysed, inputs(8, size=32), tokens="cls")


def test_shards_merge_to_the_whole_whatever_their_order():
    module = seeded(pathological.InplaceReLU)
    whole = run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8)
    parts = [
        run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8, shard=(part, 3))
        for part in (3, 1, 2)
    ]
    merged = rc.merge(parts)
    np.testing.assert_allclose(merged.sums[PRODUCTS], whole.sums[PRODUCTS], rtol=1e-12)
    np.testing.assert_allclose(merged.cka_se(), whole.cka_se(), rtol=1e-6, atol=1e-12)
    assert merged.complete
    assert not parts[0].complete
    with pytest.raises(rc.ResultError, match="in two of the results"):
        rc.merge([parts[0], parts[0]])
    other = run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8, shard=(1, 3), seed=1)
    with pytest.raises(rc.ResultError, match="different analyses"):
        rc.merge([parts[0], other])


def test_an_interrupted_run_keeps_what_it_measured_and_resumes_to_identical_sums():
    module = seeded(pathological.InplaceReLU)
    prepared = rc.prepare(
        subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8, workers=0, device="cpu"
    )
    whole = engine.measure(prepared)

    def interrupt(done, total):
        assert total == 100
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(rc.Interrupted) as caught:
        engine.measure(prepared, progress=interrupt)
    part = caught.value.result
    assert part.images == 40
    assert not part.complete
    resumed = engine.measure(prepared, resume=part)
    np.testing.assert_array_equal(resumed.sums[PRODUCTS], whole.sums[PRODUCTS])
    assert resumed.complete
    assert all(not layer._forward_hooks for layer in module.modules())
    other = rc.prepare(
        subject(module, ["fc1", "fc2"]), inputs(100), batch_size=10, workers=0, device="cpu"
    )
    with pytest.raises(rc.DataError, match="another analysis"):
        engine.measure(other, resume=part)


def test_hooks_and_mode_are_as_before_after_a_failure():
    class FailsLater(pathological.InplaceReLU):
        """The first pass, which finds the layers, works; the first batch fails."""

        def forward(self, x):
            if len(x) > 3:
                raise RuntimeError("no such batch")
            return super().forward(x)

    module = seeded(FailsLater).train()
    with pytest.raises(RuntimeError, match="no such batch"):
        run(subject(module, ["fc1", "fc2"]), inputs())
    assert all(not layer._forward_hooks for layer in module.modules())
    assert all(layer.training for layer in module.modules())


def test_a_model_that_does_not_take_the_images_is_refused_in_one_line():
    with pytest.raises(rc.ModelError, match="model fails on images of shape 3x9x9") as caught:
        run(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(size=9))
    assert "\n" not in str(caught.value)


def test_out_of_memory_splits_the_pass_and_not_the_batch():
    class Hungry(pathological.InplaceReLU):
        """Has memory for five images."""

        def forward(self, x):
            if len(x) > 5:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    hungry, plenty = seeded(Hungry), seeded(pathological.InplaceReLU)
    split = run(subject(hungry, ["fc1", "relu", "fc2"]), inputs(50), batch_size=16)
    whole = run(subject(plenty, ["fc1", "relu", "fc2"]), inputs(50), batch_size=16)
    np.testing.assert_allclose(split.cka(), whole.cka(), atol=CKA_TOLERANCE)
    np.testing.assert_array_equal(split.sums["images"], whole.sums["images"])


def test_a_model_that_takes_different_ways_is_given_whole_batches():
    class Forks(nn.Module):
        """A chunk goes left or right by its first image; a whole batch goes left."""

        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = (
                nn.Linear(48, 48),
                nn.Linear(48, 48),
                nn.Linear(48, 8),
            )
            self.ways = set()

        def forward(self, x):
            x = x.flatten(1)
            way = "right" if len(x) == CPU_CHUNK and x[0, 0] > 0 else "left"
            self.ways.add(way)
            return self.last(self.get_submodule(way)(x))

    module = seeded(Forks)
    with pytest.warns(rc.AnalysisWarning, match="whole, since it calls different layers") as said:
        result = run(subject(module, ["left", "last"]), inputs(96), batch_size=32)
    assert [str(line.message) for line in said] == list(result.warnings)
    assert module.ways == {"left", "right"}
    assert result.images == 96
    assert np.isfinite(result.cka()).all()


def test_a_model_whose_images_depend_on_one_another_is_given_whole_batches():
    module = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False), nn.Linear(48, 8)
    )
    with pytest.warns(rc.AnalysisWarning, match=r"depend on the others of its pass.* \(layer 1\)"):
        check_against_truth(seeded(lambda: module), ["1", "2"], inputs(64), batch_size=32)


def test_without_memory_for_them_it_is_refused():
    class Hungry(nn.Sequential):
        def forward(self, x):
            if len(x) > PROBE_IMAGES:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    module = Hungry(nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False))
    with (
        pytest.warns(rc.AnalysisWarning, match="depend on the others of its pass"),
        pytest.raises(
            rc.DeviceError, match=r"cannot be split, since an image.s features depend on the others"
        ),
    ):
        run(subject(module.eval(), ["1"]), inputs(32))


def test_no_memory_for_one_image_is_refused():
    class Starving(pathological.InplaceReLU):
        """Works for the passes of the probe: three one after the other, and the three in turns."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 6:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    with pytest.raises(rc.DeviceError, match="one image at a time"):
        run(subject(seeded(Starving), ["fc1"]), inputs())


def test_half_precision_stays_close():
    """bf16 keeps 8 bits: features differ by 2^-9 relative each, CKA by at most about twice that."""
    module = seeded(pathological.InplaceReLU)
    exact = run(subject(module, ["fc1", "relu", "fc2"]), inputs())
    half = run(subject(module, ["fc1", "relu", "fc2"]), inputs(), precision="bf16")
    difference = np.abs(half.cka() - exact.cka()).max()
    assert 0 < difference < 2 * 2**-8
    assert half.fingerprint != exact.fingerprint


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda:7"}, rc.DeviceError, "no device 'cuda:7'"),
        ({"device": "abacus"}, rc.DeviceError, "unknown device 'abacus'"),
        ({"precision": "fp8"}, rc.DeviceError, "unknown precision 'fp8'"),
        ({"tokens": "everything"}, rc.LayerError, "unknown --tokens 'everything'"),
        ({"batch_size": 3}, rc.DataError, "batch size of 3 is too small"),
        ({"images": 2}, rc.DataError, "number of images of 2 is too small"),
        ({"shard": (3, 2)}, rc.DataError, "--shard 3/2"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(), **options)


def image_folder(folder, count, size=12):
    """Pictures that differ; files sort as they are numbered."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return folder


def test_three_models_decode_each_image_once(tmp_path):
    decoded = []

    class Counted:
        """A folder that counts what is decoded."""

        def __init__(self, folder):
            self.folder = folder

        def __getattr__(self, name):
            return getattr(self.folder, name)

        def read(self, index):
            decoded.append(index)
            return self.folder.read(index)

    folder = Counted(open_source(image_folder(tmp_path, 20)))
    subjects = [
        subject(
            seeded(pathological.InplaceReLU), ["fc1"], name=f"m{k}", preprocessing=preprocessing
        )
        for k, preprocessing in enumerate(
            [
                TINY,
                Preprocessing(input_size=(3, 4, 4), crop_pct=0.5),
                Preprocessing(input_size=(3, 4, 4), mean=(0, 0, 0)),
            ]
        )
    ]
    result = run(subjects, folder, batch_size=8)
    assert sorted(decoded) == list(range(20))
    assert abs(result.cka("m0", "m1")[0, 0]) < 1 - 1e-6


def test_an_unreadable_image_makes_its_batch_smaller_and_is_named(tmp_path):
    folder = image_folder(tmp_path, 24)
    module = seeded(pathological.InplaceReLU)
    clean = rc.prepare(
        subject(module, ["fc1", "fc2"]), folder, batch_size=8, workers=0, device="cpu"
    )
    (folder / "0007.png").write_bytes(b"not a picture")
    prepared = rc.prepare(
        subject(module, ["fc1", "fc2"]), folder, batch_size=8, workers=0, device="cpu"
    )
    assert prepared.plan == clean.plan
    result = engine.measure(prepared)
    assert result.images == 23
    assert sorted(result.sums["images"])[-3:] == [7, 8, 8]
    assert [entry.image for entry in result.unreadable] == ["0007.png"]


def test_fewer_than_four_readable_images_are_refused(tmp_path):
    folder = image_folder(tmp_path, 6)
    for index in range(3):
        (folder / f"000{index}.png").write_bytes(b"")
    with pytest.raises(rc.DataError, match=r"fewer than 4 images could be read \(first: 0000.png"):
        run(subject(seeded(pathological.InplaceReLU), ["fc1"]), folder)


def test_top1_is_measured_where_class_folders_match_the_classes(tmp_path):
    class Brightness(nn.Module):
        """Predicts `dark` or `light` and is wrong about nothing."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            bright = self.layer(x).mean((1, 2, 3))
            return torch.stack([bright, -bright], dim=1)

    for name, value in (("dark", 30), ("light", 220), ("unknown", 220)):
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
    assert result.sums["top1/trials"].sum(0).tolist() == [8, 8, 0]


MEMORY = """
import resource, sys, torch, timm
import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
torch.manual_seed(0)
module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8)
subject = rc.Subject.from_module(module, "block", preprocessing=Preprocessing(input_size=(3, 32, 32)))
images = torch.randint(0, 256, (2000, 32, 32, 3), dtype=torch.uint8)
peaks = []
for count in (200, 2000):
    result = rc.analyze(subject, images, images=count, workers=0, device="cpu")
    assert result.images >= count - 3
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_peak_memory_does_not_grow_with_the_images():
    """Kept features of 1,800 more images and 12 blocks would take 280 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert float(done.stdout.split()[-1]) < 20


def test_no_features_are_alive_after_their_hook():
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    references, alive = [], []

    class Watch(nn.Module):
        def forward(self, x):
            alive.append(sum(reference() is not None for reference in references))
            return x

    for block in module.blocks:
        block.register_forward_hook(lambda _m, _i, output: references.append(weakref.ref(output)))
    module.norm = nn.Sequential(Watch(), module.norm)
    analysed = subject(module, "block", preprocessing=Preprocessing(input_size=(3, 32, 32)))
    prepared = rc.prepare(analysed, inputs(16, size=32), batch_size=8, workers=0, device="cpu")
    references.clear()
    alive.clear()
    engine.measure(prepared)
    # Of twelve blocks only the last one's output is still alive when the final norm reads it.
    assert max(alive) == 1


DISTRIBUTED = """
import sys, numpy as np, torch
import refiner_cka as rc
from tests.analysis.test_run import PRODUCTS, inputs, seeded, subject
from tests import pathological
result = rc.analyze(
    subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"]), inputs(100), batch_size=8, workers=0,
    device="cpu",
)
rank = torch.distributed.get_rank()
np.savez(f"{sys.argv[1]}/{rank}.npz", products=result.sums[PRODUCTS], batches=result.batches)
torch.distributed.destroy_process_group()
"""


def test_several_processes_measure_what_one_does(tmp_path):
    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    root = Path(__file__).parents[2]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "3",
    ]
    environment = {**__import__("os").environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    alone = run(
        subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"]), inputs(100), batch_size=8
    )
    for rank in range(3):
        with np.load(tmp_path / f"{rank}.npz") as held:
            np.testing.assert_allclose(held["products"], alone.sums[PRODUCTS], rtol=1e-6)
            np.testing.assert_array_equal(held["batches"], alone.batches)


def test_tf32_is_off_inside_and_as_before_after():
    before = torch.backends.cudnn.conv.fp32_precision
    with runtime.Runtime(torch.device("cpu")).session():
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert not torch.is_grad_enabled()
    assert torch.backends.cudnn.conv.fp32_precision == before
    assert torch.is_grad_enabled()


def test_other_pictures_of_the_same_names_and_sizes_are_another_analysis(tmp_path):
    for name, level in (("one", 10), ("two", 200)):
        (tmp_path / name).mkdir()
        for index in range(6):
            Image.new("RGB", (8, 8), (level, index, 0)).save(tmp_path / name / f"{index}.bmp")
    module = seeded(pathological.InplaceReLU)
    one, two = (
        rc.prepare(subject(module, ["fc1"]), tmp_path / name, workers=0) for name in ("one", "two")
    )
    assert one.fingerprint != two.fingerprint


def test_a_warning_of_a_part_that_the_whole_does_not_bear_out_is_gone_after_merging():
    data = inputs(32)
    module = seeded(pathological.InplaceReLU)
    order = list(rc.prepare(subject(module, ["fc1"]), data, batch_size=8).plan.batches)
    data[list(order[0])] = data[order[0][0]].clone()
    data[list(order[2])] = data[order[2][0]].clone()
    parts = []
    for shard in ((1, 2), (2, 2)):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            parts.append(
                run(subject(module, ["fc1"]), data, batch_size=8, shard=shard, smoothing="none")
            )
    assert "undefined (NaN)" in parts[0].warnings[0]
    merged = rc.merge(parts)
    assert merged.warnings == ()
    assert merged.cka() == 1


def test_readable_images_of_batches_that_became_too_small_are_counted(tmp_path):
    folder = image_folder(tmp_path, 15)
    module = seeded(pathological.InplaceReLU)
    plan = rc.prepare(subject(module, ["fc1"]), folder, batch_size=4).plan
    for index in plan.batches[0][:2]:
        (folder / f"{index:04d}.png").write_bytes(b"")
    summary = rc.summarize(run(subject(module, ["fc1"]), folder, batch_size=4))
    assert summary.result.images == 8
    assert summary.too_small == 15 - 2 - 8
    assert any("5 readable images were left out" in sentence for sentence in summary.sentences)


def test_an_empty_shard_is_refused():
    with pytest.raises(rc.DataError, match="--shard 9/9 would be empty: the run has 5 batches"):
        run(
            subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(), batch_size=8, shard=(9, 9)
        )


@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: [module]])
def test_a_bare_module_is_refused_with_the_way_to_name_it(wrap):
    with pytest.raises(rc.ModelError, match=r"Subject\.from_module"):
        rc.analyze(wrap(seeded(pathological.InplaceReLU)), inputs())


def test_a_result_is_shown_in_a_line():
    result = run(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(), batch_size=8)
    assert repr(result) == "<Result: model; 1 layers, 40 images, 5 of 5 batches>"
