"""What must not change the numbers: company, order, chunks, workers, processes; and what must."""

import copy
import platform
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.analysis import process, runtime
from refiner_cka.analysis.passes import CPU_CHUNK
from refiner_cka.analysis.probe import PROBE_IMAGES
from refiner_cka.images import open_source
from refiner_cka.images.preprocessing import Preprocessing
from tests import pathological
from tests.analysis.runs import (
    PRODUCTS,
    check_against_truth,
    image_folder,
    in_processes,
    inputs,
    prepare,
    run,
    seeded,
    sized,
    subject,
)


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
        for workers in (0, 2)
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


def test_readouts_are_read_in_one_pass_as_layers_of_their_own():
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    analysed = subject(module, "block", preprocessing=sized(32))
    together = run(analysed, inputs(32, size=32), tokens="all,cls,mean")
    assert together.tokens == ("all", "cls", "mean")
    assert together.cka("model", tokens="mean").shape == (12, 12)
    for readout in together.tokens:
        alone = run(analysed, inputs(32, size=32), tokens=readout)
        np.testing.assert_allclose(
            together.cka("model", tokens=readout), alone.cka("model"), atol=1e-12
        )


def assert_same_sums(one, two):
    """Up to the order in which batches were added."""
    assert one.sums.keys() == two.sums.keys()
    for path, values in two.sums.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(one.sums[path], values, rtol=0, atol=1e-12 * scale, err_msg=path)
    np.testing.assert_array_equal(one.image_digests, two.image_digests)


def test_resuming_gives_every_sum_of_one_run():
    analysed, data = subject(seeded(pathological.InplaceReLU), ["fc1", "fc2"]), inputs(100)
    whole = run(analysed, data, batch_size=8)
    part = run(analysed, data, batch_size=8, shard=(1, 3))
    assert_same_sums(run(analysed, data, batch_size=8, resume=part), whole)


@pytest.mark.parametrize(
    ("images", "batch_size", "said"),
    [
        (146, 64, "one of 20 folds of images left out"),
        (30, 30, "one of 20 folds of images left out"),
        (12, 12, "one of 12 folds of images left out"),
        (11, 11, "CKA has none: they take at least 12 images."),
    ],
)
def test_errors_take_twelve_images_however_few_batches(images, batch_size, said):
    analysed = subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"])
    result = run(analysed, inputs(images), batch_size=batch_size)
    assert result.images == images
    for se in (result.cka_se(), result.curve("model").se, result.curve("model").upper):
        assert np.isfinite(se).all() == (images >= 12)
    assert said in dict(rc.results.answers(result))["What are the errors?"]


def test_shards_merge_to_the_whole_whatever_their_order():
    module = seeded(pathological.InplaceReLU)
    whole = run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8)
    parts = [
        run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8, shard=(part, 3))
        for part in (3, 1, 2)
    ]
    merged = rc.merge(parts)
    assert_same_sums(merged, whole)
    np.testing.assert_allclose(merged.cka_se(), whole.cka_se(), rtol=1e-6, atol=1e-12)
    assert merged.complete
    assert not parts[0].complete
    with pytest.raises(rc.ResultError, match="in two of the results"):
        rc.merge([parts[0], parts[0]])
    other = run(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8, shard=(1, 3), seed=1)
    with pytest.raises(rc.ResultError, match="different analyses"):
        rc.merge([parts[0], other])


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
        prepared = prepare(analysed, inputs(), batch_size=16)
    assert prepared.models[0].whole


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


def test_a_pass_that_was_given_up_changes_no_draw_of_the_next():
    class Draws(nn.Sequential):
        """Random for more images than the probe has; its second chunk finds another layer."""

        chunks = 0

        def forward(self, x):
            x = x.flatten(1)
            x = x + torch.randn_like(x) if len(x) > PROBE_IMAGES else x
            self.chunks = self.chunks + 1 if len(x) == CPU_CHUNK else 0
            return self[2](self[self.chunks == 2](x))

    module = seeded(Draws, *(nn.Linear(48, size) for size in (48, 48, 8)))
    analysed, data = subject(module, ["0", "2"]), inputs(64)
    with pytest.warns(rc.AnalysisWarning, match="different layers for different images"):
        whole, first, second = (
            run(analysed, data, batch_size=32, shard=part).sums[PRODUCTS]
            for part in ((1, 1), (1, 2), (2, 2))
        )
    np.testing.assert_allclose(first + second, whole, rtol=1e-12)


def test_a_model_whose_images_depend_on_one_another_is_given_whole_batches():
    module = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False), nn.Linear(48, 8)
    )
    with pytest.warns(rc.AnalysisWarning, match=r"depend on the others of its pass.* \(layer 1\)"):
        check_against_truth(seeded(lambda: module), ["1", "2"], inputs(64), batch_size=32)


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
                sized(4),
                Preprocessing(input_size=(3, 4, 4), crop_pct=0.5),
                Preprocessing(input_size=(3, 4, 4), mean=(0, 0, 0)),
            ]
        )
    ]
    result = run(subjects, folder, batch_size=8)
    assert sorted(decoded) == list(range(20))
    assert abs(result.cka("m0", "m1")[0, 0]) < 1 - 1e-6


DISTRIBUTED = """
import sys, torch
import refiner_cka as rc
from tests.analysis.runs import inputs, seeded, subject
from tests import pathological
result = rc.analyze(
    subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"]), inputs(100), batch_size=8, workers=0,
    device="cpu",
)
rank = torch.distributed.get_rank()
result.save(f"{sys.argv[1]}/{rank}.h5")
torch.distributed.destroy_process_group()
"""


def test_several_processes_measure_what_one_does(tmp_path):
    in_processes(DISTRIBUTED, tmp_path)
    alone = run(
        subject(seeded(pathological.InplaceReLU), ["fc1", "relu", "fc2"]), inputs(100), batch_size=8
    )
    for rank in range(3):
        held = rc.load(tmp_path / f"{rank}.h5")
        assert_same_sums(held, alone)
        np.testing.assert_array_equal(held.batches, alone.batches)


def test_tf32_and_bf16_products_are_off_inside_and_as_before_after():
    settings = process.settings(torch.device("cpu"))

    def precision():
        return [get() for name, (get, _) in settings.items() if name.startswith("float32 of")]

    before = precision()
    with runtime.Runtime(torch.device("cpu")).session():
        assert precision() == ["highest", *["ieee"] * 4]
        assert not torch.is_grad_enabled()
    assert precision() == before
    assert torch.is_grad_enabled()


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


def test_other_pictures_of_the_same_names_and_sizes_are_another_analysis(tmp_path):
    for name, level in (("one", 10), ("two", 200)):
        (tmp_path / name).mkdir()
        for index in range(6):
            Image.new("RGB", (8, 8), (level, index, 0)).save(tmp_path / name / f"{index}.bmp")
    module = seeded(pathological.InplaceReLU)
    one, two = (
        prepare(subject(module, ["fc1"]), tmp_path / name, workers=0) for name in ("one", "two")
    )
    assert one.fingerprint != two.fingerprint


def test_a_warning_of_a_part_that_the_whole_does_not_bear_out_is_gone_after_merging():
    data = inputs(32)
    module = seeded(pathological.InplaceReLU)
    order = list(prepare(subject(module, ["fc1"]), data, batch_size=8).plan.batches)
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
    assert not any("undefined" in line for line in merged.warnings)
    (line,) = merged.warnings
    assert line.startswith("14 of 32 images equal another one")
    assert merged.cka() == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
def test_memory_is_kept_inside_and_given_back_after():
    def use():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with runtime.Runtime(torch.device("cpu")).session():
        # A quarter of the pages of 64 MB. Something small may lie in the way of the second.
        assert min(use() for _ in range(5)) < 2**12
        held = resident()
    assert resident() < held - 2**25
