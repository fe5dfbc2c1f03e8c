"""Training: what is drawn, what is learned, what is written, what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import refiner_cka as rc
from refiner_cka import training
from refiner_cka.training import Augmentation, Recipe

SIDE = 8
GEOMETRY = rc.Preprocessing((3, SIDE, SIDE), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0)
STILL = Recipe(epochs=1, batch_size=8, augmentation=None)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path):
    """Dark and bright pictures, 20 of each, in two class folders."""
    noise = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(20):
            pixels = level + noise.integers(-30, 30, (SIDE, SIDE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "images" / name / f"{index}.png"
            )
    return tmp_path / "images"


def network(classes=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, classes)
    )


def subject(module=None, **others):
    module = network() if module is None else module
    return rc.Subject.from_module(module, ["1"], name="mine", preprocessing=GEOMETRY, **others)


def state_of(trained):
    return {name: value.clone() for name, value in trained.subject.module.state_dict().items()}


def test_it_learns_an_image_folder_and_the_result_is_ready_to_analyse(folder):
    seen = []
    trained = rc.train(
        subject(),
        folder,
        held_out=folder,
        recipe=Recipe(epochs=8, batch_size=8),
        progress=seen.append,
    )
    assert rc.accuracy(trained.subject, folder) == 1.0
    assert trained.subject.classes == ("bright", "dark")
    assert tuple(seen) == trained.epochs
    assert trained.epochs[-1].accuracy == 1.0
    assert trained.epochs[-1].loss < trained.epochs[0].loss
    assert str(trained.epochs[-1]).startswith("epoch 8 of 8: loss 0.")
    result = rc.analyze(trained.subject, folder, batch_size=8)
    (finding,) = rc.summarize(result).findings
    assert finding.top1 == 1.0


def test_assumed_preprocessing_is_said_and_after_training_is_a_fact(folder):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(SIDE), network())
    own = rc.Subject.from_module(module, ["0"], name="mine")
    with pytest.warns(rc.AnalysisWarning, match=r"^mine: preprocessing assumed: 224 x 224") as said:
        trained = rc.train(own, folder, held_out=folder, recipe=STILL)
    assert len(said) == 1
    with pytest.warns(rc.AnalysisWarning, match="preprocessing assumed"):
        rc.accuracy(rc.Subject("mine", module, ("0",)), folder)
    assert rc.accuracy(trained.subject, folder) == trained.epochs[-1].accuracy


def test_provenance_tells_of_the_new_weights(folder):
    before = subject()
    trained = rc.train(before, folder, recipe=STILL, seed=3)
    assert trained.subject.origin["weights"] == "trained"
    assert trained.subject.origin["sha256"] != before.origin["sha256"]
    assert trained.subject.origin["recipe"]["epochs"] == 1
    assert trained.subject.origin["seed"] == 3


def test_the_seed_decides_and_the_callers_generator_is_left_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    name = "test_vit=random,img_size=32,num_classes=2"
    runs = [
        state_of(rc.train(name, folder, recipe=Recipe(epochs=1, batch_size=8), seed=seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not all(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


def test_one_step_is_adamw_on_the_smoothed_cross_entropy(folder):
    """The first step of AdamW by hand, in float64: without moments it is the sign of the gradient."""
    module = network()
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    labels = torch.tensor([0] * 20 + [1] * 20)
    by_hand = copy.deepcopy(module).double()
    loss = nn.functional.cross_entropy(by_hand(inputs), labels, label_smoothing=0.2)
    loss.backward()
    recipe = Recipe(
        epochs=1,
        batch_size=40,
        weight_decay=0.3,
        label_smoothing=0.2,
        augmentation=None,
        warmup=0.5,
    )
    trained = rc.train(subject(module), folder, recipe=recipe)
    assert trained.epochs[0].loss == pytest.approx(loss.item(), abs=1e-6)
    # OneCycleLR begins at 1/25 of the peak.
    rate = recipe.learning_rate / 25
    for (name, before), after in zip(
        by_hand.named_parameters(), trained.subject.module.parameters(), strict=True
    ):
        decay = 0.3 * rate if before.ndim > 1 else 0.0
        step = before.grad / (before.grad.abs() + 1e-8)
        expected = before.detach() * (1 - decay) - rate * step
        # Where the gradient is near 0 its float32 rounding decides the step.
        clear = before.grad.abs() > 1e-5
        assert clear.float().mean() > 0.5, name
        difference = (after.detach().double() - expected).abs()[clear]
        assert difference.max() < 1e-6, name


def test_the_rate_rises_then_falls_to_nothing(folder, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def watched(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    rc.train(subject(), folder, recipe=Recipe(epochs=10, batch_size=8, learning_rate=1e-2))
    assert len(rates) == 50
    assert max(rates) == pytest.approx(1e-2, rel=1e-2)
    assert int(np.argmax(rates)) == pytest.approx(5, abs=1)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.1), (9, 0.1), (3, 0.0)])
def test_any_number_of_steps_can_be_warmed_up(folder, epochs, warmup):
    recipe = Recipe(epochs=epochs, batch_size=40, warmup=warmup)
    assert len(rc.train(subject(), folder, recipe=recipe).epochs) == epochs


def test_checkpoints_begin_untrained_and_end_trained(folder, tmp_path):
    module = network()
    untrained = {name: value.clone() for name, value in module.state_dict().items()}
    recipe = Recipe(epochs=5, batch_size=8)
    trained = rc.train(
        subject(module), folder, recipe=recipe, checkpoints=tmp_path / "run", every=2
    )
    names = [path.name for path in trained.checkpoints]
    assert names == [f"epoch{number:02}.safetensors" for number in (0, 2, 4, 5)]
    first, last = load_file(trained.checkpoints[0]), load_file(trained.checkpoints[-1])
    assert all(torch.equal(first[name], untrained[name]) for name in untrained)
    assert all(torch.equal(last[name], value) for name, value in state_of(trained).items())
    assert not all(torch.equal(first[name], last[name]) for name in untrained)


def test_saved_weights_are_a_checkpoint_of_analyze(folder, tmp_path):
    trained = rc.train("resnet_nano=random", folder, recipe=STILL)
    assert trained.subject.name == "resnet_nano=trained"
    path = rc.save_weights(trained.subject, tmp_path / "mine.safetensors")
    again = f"resnet_nano={path}"
    assert rc.accuracy(again, folder) == rc.accuracy(trained.subject, folder)


def test_the_classifier_gets_the_classes_of_the_images(folder):
    trained = rc.train("vit_nano=random,depth=1", folder, recipe=STILL)
    assert trained.subject.module.head.out_features == 2


# Distillation


def test_the_teachers_decisions_reach_the_distillation_token_alone(folder):
    """A teacher that always says the wrong class turns the distillation head round, not the other."""
    recipe = Recipe(epochs=6, batch_size=8, augmentation=None)
    liar = network()
    rc.train(subject(liar), folder, recipe=recipe)
    liar[3].weight.data.neg_()
    liar[3].bias.data.neg_()
    assert rc.accuracy(subject(liar), folder) == 0.0
    teacher = subject(liar)
    trained = rc.train(
        f"deit_nano=random,depth=2,img_size={SIDE}", folder, teacher=teacher, recipe=recipe
    )
    student = trained.subject.module
    assert not student.distilled_training
    source = training._labelled(folder)
    images = torch.stack([GEOMETRY.transform()(source.read(i)) for i in range(len(source.ids))])
    with torch.no_grad():
        student.set_distilled_training(True)
        student.train()
        own, distilled = student(GEOMETRY.normalize(images))
    labels = torch.tensor(source.labels)
    assert (own.argmax(1) == labels).float().mean() > 0.9
    assert (distilled.argmax(1) == labels).float().mean() < 0.1


def test_refiner_learns_with_token_mixing(folder):
    name = f"refiner_nano=random,depth=2,img_size={SIDE},token_mixing=true"
    trained = rc.train(name, folder, held_out=folder, recipe=Recipe(epochs=5, batch_size=8))
    assert trained.epochs[-1].accuracy > 0.9


# Augmentation


def test_no_augmentation_is_the_identity():
    maps = Augmentation(rotation=0, scale=0, shear=0, shift=0).draw(3)
    assert torch.equal(maps, torch.eye(2, 3).expand(3, 2, 3))
    images = torch.randint(0, 256, (3, 3, 6, 6), dtype=torch.uint8)
    assert torch.equal(training._warp(images, maps), images)


def test_maps_stay_within_their_limits():
    torch.manual_seed(0)
    maps = Augmentation(rotation=90, scale=0, shear=0, shift=0.25).draw(2000)
    turns = maps[:, :, :2]
    eye = torch.eye(2).expand(2000, 2, 2)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), eye)
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 85 < angles.abs().max() <= 90
    shifts = maps[:, :, 2].abs()
    # A quarter of a side is a half in coordinates from -1 to 1.
    assert 0.49 < shifts.max() <= 0.5
    sizes = torch.linalg.det(Augmentation(rotation=30, scale=0.2, shear=0).draw(2000)[:, :, :2])
    assert 0.63 < sizes.min() < 0.66
    assert 1.42 < sizes.max() < 1.45


def test_flips_mirror_half_of_the_images():
    torch.manual_seed(0)
    maps = Augmentation(rotation=0, scale=0, shear=0, shift=0, flip=True).draw(400)
    images = torch.arange(400 * 6, dtype=torch.float32).reshape(400, 1, 2, 3)
    warped = training._warp(images, maps)
    mirrored = maps[:, 0, 0] < 0
    assert 150 < mirrored.sum() < 250
    torch.testing.assert_close(warped[mirrored], images[mirrored].flip(3))
    torch.testing.assert_close(warped[~mirrored], images[~mirrored])


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    maps = torch.tensor([[[1.0, 0.0, 2 / 4], [0.0, 1.0, 0.0]]])
    row = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).expand(1, 1, 4, 4)
    assert training._warp(row, maps)[0, 0, 0].tolist() == [20, 30, 40, 40]


# Refusals


def test_images_without_classes_are_refused():
    with pytest.raises(rc.DataError, match="a folder for each class"):
        rc.train(subject(), torch.zeros(8, 3, SIDE, SIDE))


def test_held_out_images_of_other_classes_are_refused(folder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "other" / name / f"{index}.png")
    seen = []
    with pytest.raises(rc.DataError, match=r"holds the class 'cat', which .*images does not"):
        rc.train(subject(), folder, held_out=tmp_path / "other", recipe=STILL, progress=seen.append)
    assert seen == []
    with pytest.raises(rc.DataError, match=r"does not predict all classes of .*, such as 'cat'"):
        rc.accuracy(subject(classes=["dog", "cow"]), tmp_path / "other")


def test_logits_of_another_number_are_refused(folder):
    with pytest.raises(rc.ModelError, match=r"returns \(8, 3\), not \(images, 2\) logits"):
        rc.train(subject(network(3)), folder, recipe=STILL)


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (
            "vit_nano=random,depth=1",
            "resnet_nano=random,num_classes=2",
            rc.ModelError,
            "no distillation token",
        ),
        (
            "deit_nano=random,depth=1",
            "resnet_nano",
            rc.DataError,
            "resnet_nano does not predict all classes of .*images",
        ),
    ],
)
def test_teachers_that_cannot_teach_are_refused(folder, student, teacher, error, message):
    with pytest.raises(error, match=message):
        rc.train(student, folder, teacher=teacher, recipe=STILL)


def test_a_refused_training_leaves_the_student_as_it_was(folder):
    (student,) = rc.subjects.resolve("deit_nano=random,depth=1")
    with pytest.raises(rc.DataError):
        rc.train(student, folder, teacher="resnet_nano", recipe=STILL)
    assert not student.module.distilled_training


def test_a_teacher_with_its_classes_in_another_order_teaches_by_name(folder):
    class Knowing(nn.Module):
        """Bright is its logit 2, dark its logit 0."""

        def forward(self, images):
            level = images.mean((1, 2, 3))
            return torch.stack([-level, level - 9, level], dim=1)

    knowing = nn.Sequential(Knowing(), nn.Identity())
    teacher = subject(knowing, classes=["dark", "grey", "bright"])
    assert rc.accuracy(teacher, folder) == 1.0
    name = f"deit_nano=random,depth=2,img_size={SIDE}"
    recipe = Recipe(epochs=6, batch_size=8, augmentation=None)
    student = rc.train(name, folder, teacher=teacher, recipe=recipe).subject.module
    source = training._labelled(folder)
    images = torch.stack([GEOMETRY.transform()(source.read(i)) for i in range(len(source.ids))])
    student.set_distilled_training(True)
    with torch.no_grad():
        _, distilled = student.train()(GEOMETRY.normalize(images))
    assert (distilled.argmax(1) == torch.tensor(source.labels)).float().mean() > 0.9


def test_a_loss_that_is_no_number_ends_it(folder):
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=math.inf)
    with pytest.raises(rc.ModelError, match="lower the learning rate"):
        rc.train(subject(), folder, recipe=recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(epochs=0), "at least 1 epoch"),
        (Recipe(batch_size=2), "at least 1 epoch"),
        (Recipe(warmup=1.5), "0 to 1"),
        (Recipe(label_smoothing=2), "0 to 1"),
    ],
)
def test_recipes_that_train_nothing_are_refused(folder, recipe, message):
    with pytest.raises(rc.ModelError, match=message):
        rc.train(subject(), folder, recipe=recipe)


def test_checkpoints_of_a_longer_training_are_not_mixed_with(folder, tmp_path):
    arguments = {"checkpoints": tmp_path / "run", "every": 2}
    longer = Recipe(epochs=4, batch_size=8)
    rc.train(subject(), folder, recipe=longer, **arguments)
    rc.train(subject(), folder, recipe=longer, **arguments)
    with pytest.raises(rc.ResultFileError, match=r"holds epoch04.safetensors of another training"):
        rc.train(subject(), folder, recipe=Recipe(epochs=2, batch_size=8), **arguments)


def test_weights_in_another_memory_order_are_saved(tmp_path):
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    path = rc.save_weights(module, tmp_path / "conv.safetensors")
    assert torch.equal(load_file(path)["weight"], module.weight)


def test_every_readable_image_counts_for_accuracy(folder, monkeypatch):
    """Also those of a last batch too small for CKA; an unreadable one is named."""
    monkeypatch.setattr(training, "_EVALUATED", 13)
    (folder / "dark" / "broken.png").write_bytes(b"not an image")
    right = []

    class Watching(nn.Module):
        def forward(self, images):
            right.append(len(images))
            level = images.mean((1, 2, 3))
            return torch.stack([level, -level], dim=1)

    watching = nn.Sequential(nn.Identity(), Watching())
    with pytest.warns(rc.AnalysisWarning, match=r"broken.png is left out"):
        assert rc.accuracy(subject(watching), folder) == 1.0
    assert sum(right) == 40


def test_what_is_no_classifier_has_no_accuracy(folder):
    feature_maps = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3))
    with pytest.raises(rc.ModelError, match=r"not \(images, classes\) logits"):
        rc.accuracy(subject(feature_maps), folder)


def test_a_place_that_takes_no_checkpoints_is_refused_before_training(folder, tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    with pytest.raises(rc.ResultFileError, match="not a folder"):
        rc.train(subject(), folder, checkpoints=tmp_path / "file" / "run", progress=seen.append)
    assert seen == []


def test_unreadable_images_are_named_and_left_out(folder):
    (folder / "dark" / "broken.png").write_bytes(b"not an image")
    with pytest.warns(rc.AnalysisWarning, match=r"broken.png is left out"):
        trained = rc.train(subject(), folder, recipe=STILL)
    assert len(trained.epochs) == 1
