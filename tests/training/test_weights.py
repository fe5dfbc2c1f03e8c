"""Weights and checkpoints: whole, of one training, and read again by `analyze`."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import refiner_cka as rc
from refiner_cka.training import Recipe
from tests.training.tiny import STILL, network, state_of, subject


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


def test_a_place_that_takes_no_checkpoints_is_refused_before_training(folder, tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    with pytest.raises(rc.ResultFileError, match="not a folder"):
        rc.train(subject(), folder, checkpoints=tmp_path / "file" / "run", progress=seen.append)
    assert seen == []
