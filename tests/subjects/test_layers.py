"""Which modules are layers."""

import pytest
import torch
from torch import nn

from refiner_cka.errors import LayerError
from refiner_cka.subjects.layers import choose_layers, find_layers
from tests.zoo import NETWORKS


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attn = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Identity())
        self.mlp = nn.ModuleDict({"fc": nn.Linear(4, 4)})


class Network(nn.Module):
    """Blocks two levels down, beside chains that are not blocks: a stem of convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        convolution = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(3)]
        self.stem = nn.Sequential(*convolution)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)))


def test_blocks_of_an_own_network():
    blocks = tuple(f"encoder.layer.{n}" for n in range(3))
    assert find_layers(Network(), "block") == blocks
    # Stages that are chains themselves, the last of a single block of a class of its own.
    stages = [[Block(), Block()], [Block()], [Network()]]
    staged = nn.ModuleDict({"stages": nn.Sequential(*(nn.Sequential(*each) for each in stages))})
    assert " ".join(find_layers(staged, "block")) == "stages.0.0 stages.0.1 stages.1.0 stages.2.0"


def test_blocks_of_a_network_that_is_a_sequence_itself():
    stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert find_layers(nn.Sequential(stem, Block(), Block(), head), "block") == ("1", "2")
    stages = [nn.Sequential(Block(), Block()), nn.Sequential(Block())]
    assert find_layers(nn.Sequential(stem, *stages, head), "block") == ("1.0", "1.1", "2.0")
    assert find_layers(nn.Sequential(nn.Identity(), Network()), "block")[0] == "1.encoder.layer.0"


def test_blocks_of_torchvision_networks():
    import torchvision

    with torch.device("meta"):
        resnet, mobile, vit = (
            getattr(torchvision.models, name)() for name in ("resnet18", "mobilenet_v2", "vit_b_16")
        )
    assert find_layers(resnet, "block") == tuple(
        f"layer{s}.{n}" for s in range(1, 5) for n in range(2)
    )
    body = nn.Sequential(*list(resnet.children())[:-1])
    assert find_layers(body, "block") == tuple(f"{s}.{n}" for s in range(4, 8) for n in range(2))
    assert find_layers(mobile, "block") == tuple(f"features.{n}" for n in range(1, 18))
    assert find_layers(vit, "block") == tuple(
        f"encoder.layers.encoder_layer_{n}" for n in range(12)
    )


def test_parts_of_blocks():
    assert find_layers(Network(), "attn") == tuple(f"encoder.layer.{n}.attn" for n in range(3))
    assert find_layers(Network(), "mlp") == tuple(f"encoder.layer.{n}.mlp" for n in range(3))


def test_all_leaves_out_what_returns_its_input():
    assert find_layers(Network().encoder, "all") == tuple(
        f"layer.{n}.{part}" for n in range(3) for part in ("norm", "attn.0", "mlp.fc")
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder.layer.?.norm", [f"encoder.layer.{n}.norm" for n in range(3)]),
        ("*.1.attn*", ["encoder.layer.1.attn"] + [f"encoder.layer.1.attn.{n}" for n in range(3)]),
        ("encoder.layer.[02]", ["encoder.layer.0", "encoder.layer.2"]),
        ("head", ["head"]),
    ],
)
def test_globs(pattern, expected):
    assert find_layers(Network(), pattern) == tuple(expected)


@pytest.mark.parametrize(
    ("module", "pattern", "message"),
    [
        (
            Network(),
            "encoder.layers.*",
            r"'encoder\.layers\.\*' matches nothing in Network; close: encoder\.layer",
        ),
        (Network(), "zzz*", "matches nothing in Network; it has stem, encoder, head"),
        # No repeated class: there is nothing to call a block.
        (
            nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            "block",
            "no repeated blocks found in Sequential; its modules are 0, 1",
        ),
        (nn.Linear(2, 2), "all", "Linear has no submodules"),
        (
            nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))),
            "attn",
            "no",
        ),
    ],
)
def test_refusals_say_what_is_there(module, pattern, message):
    with pytest.raises(LayerError, match=message) as refusal:
        find_layers(module, pattern)
    assert "\n" not in str(refusal.value)


def test_layers_by_hand():
    names = ["encoder.layer.2", "encoder.layer.0.norm"]
    assert choose_layers(Network(), names) == (tuple(names), False)
    assert choose_layers(Network(), "encoder.layer.2") == (("encoder.layer.2",), False)
    assert choose_layers(Network(), "encoder.layer.*.norm")[1] is True
    assert choose_layers(Network(), "block")[1] is True


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["encoder.layer.3"], r"no module 'encoder\.layer\.3'; close: encoder\.layer"),
        (["head", "head"], "'head' is named twice"),
        ([], "no layers given"),
        ([""], "no module ''"),
    ],
)
def test_names_by_hand_must_exist_once(names, message):
    with pytest.raises(LayerError, match=message):
        choose_layers(Network(), names)


def test_parts_of_timm_blocks():
    import timm

    with torch.device("meta"):
        vit, resnet, mixer = (
            timm.create_model(n) for n in ("deit_tiny_patch16_224", "resnet18", "mixer_s32_224")
        )
    assert find_layers(vit, "attn") == tuple(f"blocks.{n}.attn" for n in range(12))
    assert find_layers(vit, "mlp") == tuple(f"blocks.{n}.mlp" for n in range(12))
    # One over tokens and one over channels in each block.
    assert len(find_layers(mixer, "mlp")) == 16
    line = r"the blocks of ResNet have no attention module; they have .*conv1"
    with pytest.raises(LayerError, match=line):
        find_layers(resnet, "attn")
    kinds = [type(vit.get_submodule(name)).__name__ for name in find_layers(vit, "all")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "Conv2d": 1, "Linear": 49, "LayerNorm": 25, "GELU": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "attentions", "mlps"),
    [
        ("swin_tiny_patch4_window7_224", 12, 12),
        # One over windows and one over the grid in each block, whose first part is a convolution.
        ("maxvit_pico_rw_256", 22, 22),
        # 3 x (1 + 4) in the branches, and 3 x 2 attentions from branch to branch.
        ("crossvit_tiny_240", 21, 15),
        ("xcit_nano_12_p16_224", 14, 14),
        ("ViTModel", 4, 4),
        ("CLIPVisionModel", 4, 4),
        ("swin_t", 12, 12),
    ],
)
def test_attention_and_mlps_of_families(name, attentions, mlps):
    (network,) = (one for one in NETWORKS if one.name == name)
    module = network.build("meta")
    assert len(find_layers(module, "attn")) == attentions
    assert len(find_layers(module, "mlp")) == mlps
