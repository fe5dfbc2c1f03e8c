"""`NAME=FILE`: weights of a file in a timm network, all of them, or a refusal."""

import argparse

import pytest
import timm
import torch

from refiner_cka.errors import CheckpointError
from refiner_cka.subjects import resolve
from refiner_cka.subjects.fitting import fit, unwrap

TINY = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "depth": 2}


def network(name=TINY, *, seed=1, **arguments):
    torch.manual_seed(seed)
    module = timm.create_model(name, **{**(SMALL if name == TINY else {}), **arguments})
    for parameter in module.parameters():  # no two tensors alike, no zeros
        torch.nn.init.normal_(parameter)
    return module


def save(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def load(file, name=TINY, options=",depth=2,img_size=32", **keywords):
    [subject] = resolve(f"{name}={file}{options}", **keywords)
    return subject


def assert_same(module, state, but=()):
    own = module.state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name]) != (name in but), name


# Files as training scripts write them


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.module.", "model.", "backbone.", "encoder.", "module.backbone."],
)
def test_prefixes_of_wrappers(tmp_path, prefix):
    state = network().state_dict()
    file = save(tmp_path, {"state_dict": {prefix + name: tensor for name, tensor in state.items()}})
    subject = load(file)
    assert_same(subject.module, state)
    assert subject.origin["tensors_loaded"] == [len(state), len(state)]
    assert subject.trained


def test_a_training_checkpoint_with_everything_beside_the_weights(tmp_path):
    state = network().state_dict()
    averaged = network(seed=2).state_dict()
    beside = {"args": argparse.Namespace(lr=0.1), "epoch": 7}
    content = {"model": state, "model_ema": averaged, **beside}
    subject = load(save(tmp_path, content, "epoch05.pth.tar"))
    assert_same(subject.module, averaged)
    assert subject.name == f"{TINY}=epoch05,depth=2,img_size=32"
    assert subject.origin["checkpoint_entry"] == "model_ema"
    assert subject.origin["weights"] == "epoch05.pth.tar"
    assert subject.origin["loading"] == "32 of 32 tensors loaded from model_ema"


def test_the_file_is_what_is_loaded_whatever_the_seed(tmp_path):
    file = save(tmp_path, network().state_dict())
    first, second, untrained = load(file, seed=0), load(file, seed=1), load("random")
    assert first.origin == second.origin
    assert first.origin["sha256"] != untrained.origin["sha256"]


def test_safetensors_give_the_same_weights(tmp_path):
    from safetensors.torch import save_file

    state = network().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    subject = load(tmp_path / "weights.safetensors")
    assert_same(subject.module, state)
    assert subject.origin["sha256"] == load(save(tmp_path, state)).origin["sha256"]


def test_half_precision_is_read_into_single(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in network().state_dict().items()}
    module = load(save(tmp_path, state)).module
    assert_same(module, {name: tensor.float() for name, tensor in state.items()})


def test_a_prefix_that_is_a_part_of_the_network_stays():
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    assert unwrap(state, network).keys() == network.state_dict().keys()


def test_of_names_that_differ_by_prefix_the_teachers_are_taken():
    state = {"student.backbone.weight": 1, "teacher.backbone.weight": 2, "teacher.head.weight": 3}
    assert unwrap(state, torch.nn.Linear(2, 2)) == {"weight": 2, "head.weight": 3}


def test_what_a_training_framework_keeps_beside_the_network(tmp_path):
    state = network().state_dict()
    beside = {"criterion.weight": torch.ones(3), "loss_scale": torch.ones(())}
    content = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()} | beside}
    subject = load(save(tmp_path, content, "epoch=3-step=10.ckpt"))
    assert_same(subject.module, state)
    assert sorted(subject.origin["tensors_unused"]) == sorted(beside)
    assert subject.name == f"{TINY}=epoch=3-step=10,depth=2,img_size=32"


# The head


def test_a_missing_head_is_left_as_initialised_and_said(tmp_path):
    state = network().state_dict()
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    subject = load(save(tmp_path, backbone))
    assert_same(subject.module, state, but=("head.weight", "head.bias"))
    assert subject.origin["tensors_loaded"] == [30, 32]
    assert subject.origin["tensors_missing"] == ["head.weight", "head.bias"]
    loading = "30 of 32 tensors loaded (head.weight, head.bias left as initialised)"
    assert subject.origin["loading"] == loading
    assert subject.classes is None
    untrained = load("random").module.state_dict()
    assert torch.equal(subject.module.state_dict()["head.weight"], untrained["head.weight"])


def test_a_head_of_another_size_is_kept(tmp_path):
    state = network(num_classes=10).state_dict()
    subject = load(save(tmp_path, state))
    assert_same(subject.module, state)
    assert subject.module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert subject.classes is None


def test_a_head_that_the_caller_wants_otherwise_is_left_out(tmp_path):
    state = network(num_classes=10).state_dict()
    subject = load(save(tmp_path, state), options=",depth=2,img_size=32,num_classes=4")
    assert subject.module.num_classes == 4
    assert subject.origin["tensors_loaded"] == [30, 32]
    asked = load(save(tmp_path, state), options=",depth=2,img_size=32,num_classes=10")
    assert_same(asked.module, state)


def test_heads_of_self_supervision_are_left_out(tmp_path):
    backbone = network(num_classes=0).state_dict()
    teacher = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    teacher["head.mlp.0.weight"] = torch.ones(4, 4)
    subject = load(save(tmp_path, {"student": {"x": torch.ones(1)}, "teacher": teacher}))
    assert subject.origin["tensors_loaded"] == [30, 32]
    assert subject.origin["tensors_unused"] == ["head.mlp.0.weight"]


def test_a_thousand_classes_are_imagenets(tmp_path):
    subject = load(save(tmp_path, network().state_dict()))
    assert subject.classes is not None
    assert len(subject.classes) == 1000
    # Tench is the first class of ImageNet-1k, toilet paper its last.
    assert (subject.classes[0], subject.classes[-1]) == ("n01440764", "n15075141")


# Sizes


def test_the_position_embedding_is_resized_to_the_image_size(tmp_path):
    state = network(img_size=64).state_dict()
    subject = load(save(tmp_path, state), options=",depth=2", image_size=(96, 32))
    position = subject.module.state_dict()["pos_embed"]
    assert position.shape == (1, 1 + 6 * 2, 192)
    assert torch.equal(position[:, 0], state["pos_embed"][:, 0])
    assert subject.origin["tensors_loaded"] == [32, 32]
    assert subject.origin["image_size"] == [96, 32]
    assert subject.layout.patches == 12
    assert subject.preprocessing.input_size == (3, 96, 32)
    # Bicubic interpolation keeps a constant and a linear ramp's middle: an oracle that is not timm's code.
    flat = {**state, "pos_embed": torch.full_like(state["pos_embed"], 3.0)}
    subject = load(save(tmp_path, flat), options=",depth=2", image_size=(96, 32))
    flat_position = subject.module.state_dict()["pos_embed"]
    torch.testing.assert_close(flat_position, torch.full_like(flat_position, 3.0))


# Other architectures


def refusal(file, name=TINY, options=",depth=2,img_size=32"):
    with pytest.raises(CheckpointError) as caught:
        load(file, name, options)
    message = str(caught.value)
    assert "\n" not in message
    assert file.name in message
    assert len(message) < 900
    return message


def test_another_width(tmp_path):
    message = refusal(save(tmp_path, network().state_dict()), "vit_small_patch16_224")
    assert "1 of 32 tensors fit" in message  # the classifier's bias
    assert "cls_token 1x1x192 in the file, 1x1x384 in the model" in message
    assert "transformer of 2 blocks, width 192" in message


def test_a_shallower_network(tmp_path):
    message = refusal(save(tmp_path, network(depth=1).state_dict()))
    missing = "blocks.1.norm1.weight, blocks.1.norm1.bias, blocks.1.attn.qkv.weight (+9 more)"
    assert f"missing {missing}" in message


def test_a_deeper_network_though_every_tensor_fits(tmp_path):
    message = refusal(save(tmp_path, network(depth=3).state_dict()))
    assert "32 of 32 tensors fit; unexpected blocks.2.norm1.weight" in message
    assert "transformer of 3 blocks" in message


def test_a_deeper_resnet_though_every_tensor_fits(tmp_path):
    deeper = timm.create_model("resnet34").state_dict()
    message = refusal(save(tmp_path, deeper), "resnet18", "")
    assert "unexpected layer1.2.conv1.weight" in message
    assert "ResNet with 3, 4, 6, 3 blocks" in message


def test_another_family_with_a_head_of_another_size(tmp_path):
    """timm drops the head, loads without strictness, names nothing, and leaves the network random."""
    file = save(tmp_path, timm.create_model("test_resnet", num_classes=10).state_dict())
    message = refusal(file)
    assert "0 of 32 tensors fit" in message
    assert "missing cls_token" in message
    assert "unexpected conv1" in message


def test_other_patches_are_not_resampled(tmp_path):
    message = refusal(save(tmp_path, network(patch_size=32, img_size=64).state_dict()))
    assert "patch_embed.proj.weight 192x3x32x32 in the file, 192x3x16x16 in the model" in message


def test_layer_scale_that_the_network_does_not_have(tmp_path):
    message = refusal(save(tmp_path, network(init_values=0.1).state_dict()))
    assert "unexpected blocks.0.ls1.gamma" in message


def test_one_tensor_short(tmp_path):
    state = network().state_dict()
    del state["blocks.1.mlp.fc2.bias"]
    assert "31 of 32 tensors fit; missing blocks.1.mlp.fc2.bias" in refusal(save(tmp_path, state))


def test_a_plain_checkpoint_in_a_distilled_network(tmp_path):
    state = network("deit_tiny_patch16_224", depth=1).state_dict()
    message = refusal(save(tmp_path, state), "deit_tiny_distilled_patch16_224", ",depth=1")
    assert "missing dist_token" in message
    reverse = network("deit_tiny_distilled_patch16_224", depth=1).state_dict()
    assert "dist_token" in refusal(save(tmp_path, reverse), "deit_tiny_patch16_224", ",depth=1")


def test_a_network_whose_only_part_is_called_like_a_head():
    network = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match="0 of 2 tensors fit; missing fc"):
        fit(network, {"other.weight": torch.ones(2, 2)}, "a.pth does not fit Net")


def test_quantised_weights_are_no_weights(tmp_path):
    state = network().state_dict()
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].to(torch.int8)
    assert "int8" in refusal(save(tmp_path, state))


# Families with conversions and buffers of their own


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("test_convnext", {}),
        ("test_efficientnet", {}),
        ("test_resnet", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
    ],
)
def test_families(tmp_path, name, small):
    module = network(name, num_classes=7, **small)
    options = "".join(f",{key}={value}" for key, value in small.items())
    subject = load(save(tmp_path, {"model": module.state_dict()}), name, options)
    assert_same(subject.module, module.state_dict())
    assert subject.origin["tensors_loaded"] == [len(module.state_dict())] * 2


def test_batch_counts_that_old_checkpoints_lack(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    old = {name: state[name] for name in state if not name.endswith("num_batches_tracked")}
    subject = load(save(tmp_path, old), "test_resnet", "")
    assert subject.origin["tensors_loaded"] == [len(old), len(state)]
    assert all(name.endswith("num_batches_tracked") for name in subject.origin["tensors_missing"])


def test_refiner_weights_for_another_image_size(tmp_path):
    import refiner_cka.refiner  # noqa: F401

    module = network("refiner_vit_s", depth=2, img_size=64, num_classes=10)
    file = save(tmp_path, {"state_dict": module.state_dict()}, "r.pth.tar")
    subject = load(file, "refiner_s")
    own, saved = subject.module.state_dict(), module.state_dict()
    assert subject.origin["tensors_loaded"] == [len(own), len(own)]
    assert own["pos_embed"].shape == (1, 5, 384)
    assert_same(subject.module, saved | {"pos_embed": own["pos_embed"]})
    assert subject.name == "refiner_s=r,depth=2,img_size=32"


def test_the_files_of_a_glob_are_models(tmp_path):
    for epoch in (10, 2):
        save(tmp_path, network(seed=epoch).state_dict(), f"epoch{epoch}.pth")
    subjects = resolve(f"{TINY}={tmp_path}/epoch*.pth,depth=2,img_size=32")
    assert [subject.origin["weights"] for subject in subjects] == ["epoch2.pth", "epoch10.pth"]
    assert_same(subjects[1].module, network(seed=10).state_dict())
