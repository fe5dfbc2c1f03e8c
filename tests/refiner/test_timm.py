"""The interface of timm's vision transformer, and every way in which timm loads weights."""

import copy
import logging

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from refiner_cka.errors import CheckpointError, ModelError
from refiner_cka.refiner import Refiner, checkpoint_filter_fn

from .conftest import SMALL

SMALL_S = {key: value for key, value in SMALL.items() if key != "num_classes"}


def create(**options):
    return timm.create_model("refiner_vit_s", **(SMALL_S | options)).eval()


@pytest.fixture
def timm_vit():
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, num_heads=4, depth=4, num_classes=5
    ).eval()


def test_importing_registers_three_models():
    assert timm.list_models("refiner_vit_*") == ["refiner_vit_l", "refiner_vit_m", "refiner_vit_s"]


@pytest.mark.parametrize(
    ("name", "crop"), [("refiner_vit_s", 0.9), ("refiner_vit_m", 1.0), ("refiner_vit_l", 1.13)]
)
def test_default_cfg_tells_the_preprocessing(name, crop):
    with torch.device("meta"):
        model = timm.create_model(name)
    data = timm.data.resolve_model_data_config(model)
    assert data["mean"] == data["std"] == (0.5, 0.5, 0.5)
    assert data["crop_pct"] == crop
    assert data["input_size"] == (3, 224, 224)
    assert model.default_cfg["classifier"] == ("head", "aux_head")


def test_there_are_no_weights_to_fetch():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        create(pretrained=True)


@pytest.mark.parametrize("num_classes", [7, 0])
def test_num_classes_and_reset_classifier_agree(num_classes):
    images = torch.randn(2, 3, 32, 32)
    made, reset = create(num_classes=num_classes), create()
    reset.reset_classifier(num_classes)
    width = num_classes or 24
    assert made(images).shape == reset(images).shape == (2, width)
    assert reset.num_classes == made.num_classes == num_classes
    assert reset.get_classifier() is reset.head
    assert set(made.state_dict()) == set(reset.state_dict())


def test_reset_classifier_keeps_the_precision():
    model = create().to(torch.float64)
    model.reset_classifier(3, "avg")
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", ""])
def test_pooling(pool):
    model = create(global_pool=pool, num_classes=5)
    images = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 17, 24)
    features = model.forward_head(tokens, pre_logits=True)
    mean, most = tokens[:, 1:].mean(1), tokens[:, 1:].amax(1)
    expected = {
        "token": tokens[:, 0],
        "avg": mean,
        "max": most,
        "avgmax": (mean + most) / 2,
        "": tokens,
    }[pool]
    torch.testing.assert_close(features, expected)
    assert model(images).shape == ((2, 17, 5) if pool == "" else (2, 5))


@pytest.mark.parametrize("sequence", [tuple, list])  # argument files give lists
def test_in_chans_and_rectangular_images(sequence):
    model = create(in_chans=1, img_size=sequence((32, 48)))
    assert model(torch.randn(2, 1, 32, 48)).shape == (2, 1000)


@pytest.mark.parametrize("indices", [None, 2, [0, 3], [-1]])
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
@pytest.mark.parametrize("norm", [False, True])
def test_forward_intermediates_gives_what_timm_gives(timm_vit, indices, output_fmt, norm):
    images = torch.randn(2, 3, 32, 32)
    for options in (
        {},
        {"return_prefix_tokens": True},
        {"intermediates_only": True, "stop_early": True},
        {"output_dict": True},
        {"output_dict": True, "return_prefix_tokens": True, "intermediates_only": True},
    ):
        options = options | {"indices": indices, "output_fmt": output_fmt, "norm": norm}
        ours = create().forward_intermediates(images, **options)
        theirs = timm_vit.forward_intermediates(images, **options)
        shapes = torch.utils._pytree.tree_map(lambda t: tuple(t.shape), (ours, theirs))
        assert shapes[0] == shapes[1]


def test_forward_intermediates_are_the_block_outputs(make, images):
    model = make()
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    with torch.no_grad():
        features, intermediates = model.forward_intermediates(
            images, output_fmt="NLC", return_prefix_tokens=True
        )
        assert torch.equal(features, model.norm(outputs[-1]))
        for output, (patches, prefix) in zip(outputs, intermediates, strict=True):
            assert torch.equal(output, torch.cat([prefix, patches], dim=1))


def test_forward_intermediates_refuses_masks_and_unknown_formats(make, images):
    with pytest.raises(ModelError, match="masked"):
        make().forward_intermediates(images, is_causal=True)
    with pytest.raises(ModelError, match="NLC"):
        make().forward_intermediates(images, output_fmt="NHWC")


@pytest.mark.parametrize("feature_cls", ["getter", "fx"])
def test_features_only(feature_cls):
    model = create(features_only=True, feature_cls=feature_cls, out_indices=(1, 2))
    assert model.feature_info.channels() == [24, 24]
    assert model.feature_info.reduction() == [8, 8]
    features = model(torch.randn(2, 3, 32, 32))
    if feature_cls == "getter":
        assert [tuple(feature.shape) for feature in features] == [(2, 24, 4, 4)] * 2
    else:
        assert [tuple(tokens.shape) for tokens in features] == [(2, 17, 24)] * 2


def test_weight_decay_and_layer_groups():
    model = create()
    assert model.no_weight_decay() == {"pos_embed", "cls_token"}
    optimizer = create_optimizer_v2(model, "adamw", weight_decay=0.1)
    kept = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    assert not {id(model.pos_embed), id(model.cls_token)} & kept
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    assert scales[id(model.pos_embed)] < scales[id(model.blocks[0].mlp.fc1.weight)]
    assert scales[id(model.blocks[0].mlp.fc1.weight)] < scales[id(model.blocks[3].mlp.fc1.weight)]
    assert scales[id(model.head.weight)] == scales[id(model.aux_head.weight)] == 1


def test_dropout_and_stochastic_depth_rates():
    model = create(
        drop_rate=0.1,
        drop_path_rate=0.3,
        attn_drop_rate=0.4,
        proj_drop_rate=0.5,
        pos_drop_rate=0.6,
    )
    assert model.head_drop.p == 0.1
    rates = [getattr(block.drop_path1, "drop_prob", 0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert model.blocks[1].attn.attn_drop.p == 0.4
    assert model.blocks[1].attn.proj_drop.p == model.blocks[1].mlp.drop1.p == 0.5
    assert model.pos_drop.p == 0.6
    model.train()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))


# Checkpoints --------------------------------------------------------------------------------------


def nested(state_dict, other, form):
    """A checkpoint file's content in one of the forms that training scripts write."""
    return {
        "plain": state_dict,
        "state_dict": {"epoch": 3, "state_dict": state_dict},
        "model": {"model": state_dict},
        "ddp": {"state_dict": {f"module.{key}": value for key, value in state_dict.items()}},
        "ema": {"state_dict": other, "state_dict_ema": state_dict},
        "model_ema": {"model": other, "model_ema": state_dict},
        "compiled": {f"_orig_mod.{key}": value for key, value in state_dict.items()},
    }[form]


FORMS = ["plain", "state_dict", "model", "ddp", "ema", "model_ema", "compiled"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_checkpoints_load_by_every_route(make, images, tmp_path, form, suffix):
    trained, other = make(seed=1, num_classes=1000), make(seed=2, num_classes=1000)
    content = nested(trained.state_dict(), other.state_dict(), form)
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


@pytest.mark.parametrize("conv_stem", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_dynamic_image_size_equals_a_model_of_that_size(make, conv_stem, gradients):
    dynamic = make(dynamic_img_size=True, conv_stem=conv_stem)
    fixed = make(img_size=(24, 48), conv_stem=conv_stem)
    fixed.load_state_dict(dynamic.state_dict())
    images = torch.randn(2, 3, 24, 48)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(dynamic(images), fixed(images))
        shapes = [f.shape for f in dynamic.forward_intermediates(images, intermediates_only=True)]
    assert shapes == [(2, 24, 3, 6)] * 4


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
