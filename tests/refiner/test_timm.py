"""The interface of timm's vision transformer."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from refiner_cka.errors import ModelError

from .conftest import SMALL, create


@pytest.fixture
def timm_vit():
    return VisionTransformer(**SMALL, num_classes=5).eval()


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
    with pytest.raises(TypeError, match="is_causal"):
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
