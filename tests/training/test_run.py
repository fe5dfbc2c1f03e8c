"""A training from beginning to end: what is learned, what is recorded, what is refused."""

import pytest
import torch
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.training import Recipe
from tests.training.tiny import SIDE, STILL, network, state_of, subject


def test_it_learns_an_image_folder_and_the_result_is_ready_to_analyse(folder):
    seen = []
    recipe = Recipe(epochs=8, batch_size=8)
    trained = rc.train(subject(), folder, held_out=folder, recipe=recipe, progress=seen.append)
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


def test_the_classifier_gets_the_classes_of_the_images(folder):
    trained = rc.train("vit_nano=random,depth=1", folder, recipe=STILL)
    assert trained.subject.module.head.out_features == 2


def test_images_without_classes_are_refused():
    with pytest.raises(rc.DataError, match="a folder for each class"):
        rc.train(subject(), torch.zeros(8, 3, SIDE, SIDE))


def test_held_out_images_of_other_classes_are_refused(folder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "other" / name / f"{index}.png")
    seen = []
    with pytest.raises(rc.DataError, match=r"other holds the class 'cat', which is not learned"):
        rc.train(subject(), folder, held_out=tmp_path / "other", recipe=STILL, progress=seen.append)
    assert seen == []
    with pytest.raises(rc.DataError, match=r"does not predict all classes of .*, such as 'cat'"):
        rc.accuracy(subject(classes=["dog", "cow"]), tmp_path / "other")


def test_logits_of_another_number_are_refused(folder):
    with pytest.raises(rc.ModelError, match=r"returns \(8, 3\), not \(images, 2\) logits"):
        rc.train(subject(network(3)), folder, recipe=STILL)


def test_unreadable_images_are_named_and_left_out(folder):
    (folder / "dark" / "broken.png").write_bytes(b"not an image")
    with pytest.warns(rc.AnalysisWarning, match=r"broken.png is left out"):
        trained = rc.train(subject(), folder, recipe=STILL)
    assert len(trained.epochs) == 1
