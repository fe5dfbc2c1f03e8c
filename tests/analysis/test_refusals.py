"""What is refused, and what is left out with a warning."""

from dataclasses import replace

import numpy as np
import pytest
import timm

import refiner_cka as rc
from refiner_cka.measures.choosing import METERS
from refiner_cka.measures.meter import Meter
from refiner_cka.sums import Quantity, fold_of
from tests import pathological
from tests.analysis.runs import image_folder, inputs, prepare, run, seeded, sized, subject


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


def test_a_class_token_is_refused_where_there_is_none():
    module = seeded(timm.create_model, "test_resnet")
    analysed = subject(module, "block", preprocessing=sized(32))
    with pytest.raises(rc.LayerError, match="no class token"):
        run(analysed, inputs(8, size=32), tokens="cls")


def test_a_model_that_does_not_take_the_images_is_refused_in_one_line():
    with pytest.raises(rc.ModelError, match="model fails on images of shape 3x9x9") as caught:
        run(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(size=9))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda:7"}, rc.DeviceError, "no device 'cuda:7'"),
        ({"device": "abacus"}, rc.DeviceError, "unknown device 'abacus'"),
        ({"precision": "fp8"}, rc.DeviceError, "unknown precision 'fp8'"),
        ({"tokens": "everything"}, rc.LayerError, "unknown --tokens 'everything'"),
        ({"index": "cca"}, rc.LayerError, "unknown --index 'cca'; choose from cka, cka-cosine"),
        ({"index": "knn", "batch_size": 19}, rc.DataError, "knn takes batches of at least 20"),
        ({"batch_size": 3}, rc.DataError, "--batch-size 3: it takes at least 4"),
        ({"images": 2}, rc.DataError, "--images 2: it takes at least 4"),
        ({"shard": (3, 2)}, rc.DataError, "--shard 3/2"),
        ({"shard": (9, 9)}, rc.DataError, "--shard 9/9 would be empty"),
        ({"against": "words"}, rc.LayerError, "unknown --against 'words'"),
        ({"against": "labels"}, rc.DataError, "has no labels; leave it out"),
        ({"smoothing": "gloss"}, rc.LayerError, "unknown --smoothing 'gloss'"),
    ],
)
def test_bad_options_are_refused_before_any_forward_pass(options, error, message):
    module = seeded(pathological.InplaceReLU)
    module.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass"))
    with pytest.raises(error, match=message):
        run(subject(module, ["fc1"]), inputs(), **options)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("batch_size", "8", "int"),
        ("batch_size", np.int64(8), "int"),
        ("images", True, r"int \| None"),
        ("tokens", ["all", "cls"], "str"),
        ("smoothing", False, r"str \| None"),
        ("shard", "1/2", r"tuple\[int, int\]"),
        ("shard", (1,), r"tuple\[int, int\]"),
        ("image_size", (32, 32.0), r"int \| tuple\[int, int\] \| None"),
    ],
)
def test_options_of_another_type_are_refused_by_name(option, value, wanted):
    with pytest.raises(TypeError, match=f"{option} is .*; it takes {wanted}"):
        rc.Options(**{option: value})


def test_an_unknown_option_is_refused_by_its_name_alone():
    with pytest.raises(TypeError, match=r"^got an unexpected keyword argument 'batchsize'$"):
        rc.analyze("nano", inputs(), batchsize=8)
    assert rc.Options(shard=[1, 2], image_size=[32, 48]).shard == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantities": [Quantity("top1", "x", "mean", ("layers",))]}, "have the same name"),
        ({"quantities": [Quantity("x", "cka", "mean", ("layers",))]}, "'cka' is no path"),
        ({"quantities": [Quantity("x", "x", "mean", ("heads",))]}, "which is no axis"),
        ({"identity": {"seed": 5}}, "say other things of 'seed'"),
        ({"axes": {"layers": ()}}, "say other things of 'layers'"),
    ],
)
def test_what_a_result_cannot_hold_is_refused_before_it_is_measured(changes, message, monkeypatch):
    meter = type("Own", (Meter,), {"quantities": (), "__init__": lambda *_: None, **changes})
    monkeypatch.setitem(METERS, "own", meter)
    with pytest.raises(rc.ResultError, match=message):
        prepare(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs())


def test_a_part_with_other_sums_is_not_resumed():
    prepared = prepare(subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs())
    result = rc.measure(prepared)
    more = replace(result, sums={**result.sums, "more": result.sums["images"]})
    with pytest.raises(rc.DataError, match="holds other sums than this run"):
        rc.measure(prepared, resume=more)


def test_an_empty_shard_is_refused():
    with pytest.raises(rc.DataError, match="--shard 9/9 would be empty: the run has 5 batches"):
        run(
            subject(seeded(pathological.InplaceReLU), ["fc1"]), inputs(), batch_size=8, shard=(9, 9)
        )


@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: [module]])
def test_a_bare_module_is_refused_with_the_way_to_name_it(wrap):
    with pytest.raises(rc.ModelError, match=r"Subject\.from_module"):
        rc.analyze(wrap(seeded(pathological.InplaceReLU)), inputs())


def test_an_unreadable_image_makes_its_batch_smaller_and_is_named(tmp_path):
    folder = image_folder(tmp_path, 24)
    module = seeded(pathological.InplaceReLU)
    clean = prepare(subject(module, ["fc1", "fc2"]), folder, batch_size=8)
    (folder / "0007.png").write_bytes(b"not a picture")
    prepared = prepare(subject(module, ["fc1", "fc2"]), folder, batch_size=8)
    assert prepared.plan == clean.plan
    result = rc.measure(prepared)
    assert result.images == 23
    batch, position = next(
        (number, batch.index(7)) for number, batch in enumerate(clean.plan.batches) if 7 in batch
    )
    expected = np.bincount(fold_of(np.arange(24)), minlength=20)
    expected[fold_of(np.array([8 * batch + position]))] -= 1
    assert result.sums["images"].tolist() == expected.tolist()
    assert np.argwhere(result.image_digests == 0).tolist() == [[batch, position]]
    assert result.batch_images[batch] == 7
    assert [entry.image for entry in result.unreadable] == ["0007.png"]


def test_fewer_than_four_readable_images_are_refused(tmp_path):
    folder = image_folder(tmp_path, 6)
    for index in range(3):
        (folder / f"000{index}.png").write_bytes(b"")
    with pytest.raises(rc.DataError, match=r"fewer than 4 images could be read \(first: 0000.png"):
        run(subject(seeded(pathological.InplaceReLU), ["fc1"]), folder)


def test_readable_images_of_batches_that_became_too_small_are_counted(tmp_path):
    folder = image_folder(tmp_path, 15)
    module = seeded(pathological.InplaceReLU)
    plan = prepare(subject(module, ["fc1"]), folder, batch_size=4).plan
    for index in plan.batches[0][:2]:
        (folder / f"{index:04d}.png").write_bytes(b"")
    summary = rc.summarize(run(subject(module, ["fc1"]), folder, batch_size=4))
    assert summary.result.images == 8
    assert summary.too_small == 15 - 2 - 8
    assert any("5 readable images were left out" in sentence for sentence in summary.sentences)
