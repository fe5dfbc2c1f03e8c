"""Every way in which weights are loaded, and positions for any grid."""

import copy
import logging

import pytest
import torch

from refiner_cka.errors import CheckpointError
from refiner_cka.refiner import Refiner, checkpoint_filter_fn

from .conftest import create

# What training scripts write, from the weights to be read and others to be left.
FORMS = {
    "plain": lambda own, other: own,
    "state_dict": lambda own, other: {"epoch": 3, "state_dict": own},
    "model": lambda own, other: {"model": own},
    "ddp": lambda own, other: {"state_dict": {f"module.{key}": own[key] for key in own}},
    "ema": lambda own, other: {"state_dict": other, "state_dict_ema": own},
    "model_ema": lambda own, other: {"model": other, "model_ema": own},
    "compiled": lambda own, other: {f"_orig_mod.{key}": own[key] for key in own},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_checkpoints_load_by_every_route(make, images, tmp_path, form, suffix):
    trained, other = make(seed=1, num_classes=1000), make(seed=2, num_classes=1000)
    content = FORMS[form](trained.state_dict(), other.state_dict())
    path = str(tmp_path / f"refiner{suffix}")
    torch.save(content, path)
    overlaid = create(pretrained=True, pretrained_cfg_overlay={"file": path})
    by_path = create(checkpoint_path=path)
    filtered = create()
    filtered.load_state_dict(checkpoint_filter_fn(content, filtered))
    with torch.no_grad():
        for model in (overlaid, by_path, filtered):
            assert torch.equal(model(images), trained(images))


def test_other_classes_and_channels_take_what_fits(make, tmp_path):
    trained = make(num_classes=1000)
    path = str(tmp_path / "refiner.pth")
    torch.save(trained.state_dict(), path)
    model = create(
        pretrained=True, pretrained_cfg_overlay={"file": path}, num_classes=3, in_chans=1
    )
    assert torch.equal(model.blocks[1].attn.proj.weight, trained.blocks[1].attn.proj.weight)
    torch.testing.assert_close(
        model.patch_embed.conv1.weight, trained.patch_embed.conv1.weight.sum(1, keepdim=True)
    )
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("size", [(64, 64), (16, 48), (24, 32), (16, 64), (96, 40)])
@pytest.mark.parametrize("route", ["overlay", "checkpoint_path", "load_state_dict"])
def test_positions_are_interpolated_for_any_grid(make, tmp_path, size, route, recwarn):
    trained = make(num_classes=1000)
    path = str(tmp_path / "refiner.pth")
    torch.save(trained.state_dict(), path)
    if route == "overlay":
        model = create(img_size=size, pretrained=True, pretrained_cfg_overlay={"file": path})
    elif route == "checkpoint_path":
        if size == (16, 64):
            pytest.skip("timm drops the metadata that tells 4x4 from 2x8")
        model = create(img_size=size, checkpoint_path=path)
    else:
        model = create(img_size=size)
        model.load_state_dict(torch.load(path, weights_only=True))
    rows, columns = size[0] // 8, size[1] // 8
    grid = trained.pos_embed[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, size=(rows, columns), mode="bicubic", antialias=True
    )
    patches = model.pos_embed[:, 1:].reshape(1, rows, columns, 24).permute(0, 3, 1, 2)
    torch.testing.assert_close(patches, expected)
    assert torch.equal(model.pos_embed[:, :1], trained.pos_embed[:, :1])
    assert model(torch.randn(1, 3, *size)).shape == (1, 1000)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_model_of_any_grid_loads_its_own_weights(make, tmp_path, dynamic):
    trained = make(img_size=(16, 64), num_classes=1000, dynamic_img_size=dynamic)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    state = torch.load(tmp_path / "own.pth", weights_only=True)
    for loaded in (create(img_size=(16, 64)), create(img_size=(64, 16))):
        loaded.load_state_dict(state)
    assert not torch.equal(loaded.pos_embed, trained.pos_embed)
    same = create(img_size=(16, 64))
    same.load_state_dict({**state})
    assert torch.equal(same.pos_embed, trained.pos_embed)


def test_positions_resized_by_hand_are_taken_as_they_are(make):
    state = make().state_dict()
    state["pos_embed"] = torch.randn(1, 1 + 4 * 6, 24)
    model = make(img_size=(32, 48))
    model.load_state_dict(state)
    assert torch.equal(model.pos_embed, state["pos_embed"])


def test_positions_of_an_unknown_grid_are_refused(make):
    state = dict(make(img_size=(16, 48)).state_dict())
    with pytest.raises(CheckpointError, match="no square grid"):
        make().load_state_dict(state)


def test_reading_a_square_checkpoint_into_an_equally_large_grid_is_said(make, caplog):
    with caplog.at_level(logging.INFO):
        checkpoint_filter_fn(dict(make().state_dict()), make(img_size=(16, 64)))
    assert "(4, 4) to (2, 8)" in caplog.text


def test_a_refiner_is_copied_and_pickled(make, images, tmp_path):
    model = make()
    torch.save(model, tmp_path / "whole.pt")
    with torch.no_grad():
        for other in (
            torch.load(tmp_path / "whole.pt", weights_only=False),
            copy.deepcopy(model),
        ):
            assert isinstance(other, Refiner)
            assert torch.equal(other(images), model(images))
