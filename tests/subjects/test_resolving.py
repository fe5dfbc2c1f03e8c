"""`--model` to subjects: aliases, random weights, provenance, own factories."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from refiner_cka.errors import LayerError, ModelError
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects import ALIASES, Subject, describe, name_apart, resolve, search
from refiner_cka.subjects.provenance import state_hash
from refiner_cka.subjects.readout import ModelLayout

VIT = "vit_ti=random,depth=2,img_size=32"


def one(text, **keywords):
    [subject] = resolve(text, **keywords)
    return subject


# Names


def test_aliases_are_pretrained_models_of_timm():
    import timm

    search("nano")
    published = set(timm.list_pretrained())
    for alias, name in ALIASES.items():
        assert (name in published) != (name.startswith("refiner_vit")), alias
    kinds = {
        "vit": "_ti _s _b _l _nano",
        "deit": "_ti _s _b _nano",
        "resnet": "18 34 50 101 152 _nano",
        "refiner": "_s _m _l _nano",
    }
    assert set(ALIASES) == {f"{kind}{size}" for kind in kinds for size in kinds[kind].split()}


def test_a_subject_of_an_alias():
    subject = one(VIT)
    assert subject.name == VIT
    assert subject.layers == ("blocks.0", "blocks.1")
    assert subject.pattern
    assert subject.layout == ModelLayout(prefix=1, patches=4)
    assert subject.preprocessing == Preprocessing(
        (3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9, "center"
    )
    assert subject.trained is False
    assert subject.classes is None
    assert subject.origin["model"] == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert subject.origin["arguments"] == {"depth": 2, "img_size": 32}
    assert subject.origin["image_size"] == [32, 32]
    assert subject.origin["seed"] == 0
    assert subject.origin["parameters"] == sum(p.numel() for p in subject.module.parameters())
    assert json.loads(json.dumps(subject.origin)) == subject.origin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deit_tiny_distilled_patch16_224=random,depth=1", ModelLayout(prefix=2, patches=196)),
        ("test_resnet=random", ModelLayout()),
        ("refiner_s=random,depth=1,img_size=32", ModelLayout(prefix=1, patches=4)),
        ("test_resnet=random,layout=nchw", ModelLayout(stated="nchw")),
        (f"{VIT},prefix_tokens=0", ModelLayout(prefix=1, patches=4, stated_prefix=0)),
        (
            "tests.subjects.test_resolving:said,prefix_tokens=2",
            ModelLayout(None, None, True, "nlc", 2),
        ),
    ],
)
def test_what_is_known_of_how_tokens_lie(text, expected):
    assert one(text).layout == expected


def said():
    return Subject.from_module(nn.Sequential(nn.Linear(2, 2)), ["0"], layout="nlc", prefix_tokens=1)


def test_keys_of_the_tool_do_not_reach_the_model():
    subject = one(f"{VIT},layout=nlc,prefix_tokens=1")
    assert subject.origin["arguments"] == {"depth": 2, "img_size": 32}
    assert subject.name == VIT


def test_preprocessing_is_the_recipes():
    resnet = one("resnet18=random").preprocessing
    assert resnet == Preprocessing((3, 224, 224), interpolation="bilinear", crop_pct=0.875)
    newer = one("resnet18.a1_in1k=random").preprocessing
    assert newer == replace(resnet, interpolation="bicubic", crop_pct=0.95)
    sized = one("resnet18=random", image_size=(64, 96)).preprocessing
    assert sized.input_size == (3, 64, 96)
    own_size = one("resnet18=random,img_size=48", image_size=(64, 96)).preprocessing
    assert own_size.input_size == (3, 48, 48)
    grey = one("test_resnet=random,in_chans=1").preprocessing
    assert grey.mean == pytest.approx((0.5,), abs=0.05)


def test_layers_are_chosen_by_pattern_or_name():
    assert one(VIT, layers="attn").layers == ("blocks.0.attn", "blocks.1.attn")
    by_hand = one(VIT, layers="blocks.1")
    assert (by_hand.layers, by_hand.pattern) == (("blocks.1",), False)
    with pytest.raises(LayerError, match="matches nothing"):
        one(VIT, layers="block.*")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnett50", "unknown model 'resnett50'; close: resnet50"),
        ("deits=random", "unknown model 'deits'; close: deit_s"),
        ("qqqqqqqq", "models --search"),
        ("resnet50.a9_in1k", r"resnet50 has no weights tagged 'a9_in1k'; its tags: .*a1_in1k"),
        (
            "refiner_m",
            r"refiner_m has no published weights to fetch.*refiner_m=FILE.*refiner_m=random",
        ),
        (
            "mixer_s32_224",
            r"timm has no pretrained weights for mixer_s32_224.*mixer_s32_224=random",
        ),
        (
            "vit_ti=random,img_size=40",
            "40 x 40 is not divisible .* patches of 16 x 16: use 48 x 48|use 32 x 32",
        ),
        ("vit_ti=random,img_size=-3", "img_size=-3 is no image size"),
        ("vit_ti=random,img_size=large", "img_size='large' is no image size"),
        (
            "vit_ti=random,heads=3",
            r"cannot be built with heads=3: .*unexpected keyword argument 'heads'",
        ),
        ("vit_ti=random,checkpoint_path=x.pth", "checkpoint_path cannot be set"),
        ("local-dir:/nowhere", "holds no config.json"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(ModelError, match=message) as refusal:
        resolve(text)
    assert "\n" not in str(refusal.value)


def test_image_size_of_a_run_must_divide_too():
    with pytest.raises(ModelError, match="230 x 224 is not divisible"):
        resolve("vit_ti=random,depth=1", image_size=(230, 224))
    assert resolve("test_resnet=random", image_size=(230, 230))


# Random weights


def test_random_weights_depend_on_the_seed_alone():
    alone = one(VIT, seed=3)
    torch.manual_seed(99)
    np.random.seed(99)
    resolve("test_resnet=random")
    again = one(VIT, seed=3)
    assert alone.origin["sha256"] == again.origin["sha256"]
    for first, second in zip(alone.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(first, second)
    assert one(VIT, seed=4).origin["sha256"] != alone.origin["sha256"]


def test_the_callers_generators_are_left_alone():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    resolve(VIT)
    with pytest.raises(ModelError):
        resolve("vit_ti=random,heads=3")
    describe(VIT)
    assert states() == before


def test_the_hash_sees_every_number_name_and_type():
    def hashed(**changes):
        module = nn.BatchNorm1d(3)
        with torch.no_grad():
            for name, value in changes.items():
                getattr(module, name)[1] = value
        return state_hash(module)

    plain = hashed()
    assert plain == hashed()
    assert len({plain, hashed(weight=2.0), hashed(bias=2.0), hashed(running_mean=2.0)}) == 4
    assert state_hash(nn.BatchNorm1d(3).double()) != plain
    assert state_hash(nn.Sequential(nn.BatchNorm1d(3))) != plain
    empty = nn.ParameterList([torch.empty(0, 2)]), nn.ParameterList([torch.empty(2, 0)])
    assert state_hash(empty[0]) != state_hash(empty[1])
    assert len(state_hash(nn.Linear(2, 2).bfloat16())) == 64


def test_equal_names_are_told_apart():
    module = nn.Sequential(nn.Linear(1, 1))
    subjects = [Subject(name, module, ("0",)) for name in ("a", "b", "a", "a#2", "a")]
    apart = name_apart(subjects)
    assert [subject.name for subject in apart] == ["a", "b", "a#2", "a#2#2", "a#3"]
    assert apart[1] is subjects[1]


# One's own networks


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the working directory, as a researcher has it; no two tests share its name."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        """
import torch
from torch import nn
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects import Subject

class Net(nn.Module):
    def __init__(self, width=4, act="relu"):
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU())) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(3, width)
        self.act = act

    def forward(self, x):
        return self.fc(self.blocks(x).mean((2, 3)))

class nested:
    make = staticmethod(lambda **options: Net(**options))

def subject(size=32):
    preprocessing = Preprocessing((3, size, size))
    classes = ["cat", "dog", "cow", "pig"]
    return Subject.from_module(
        Net(), ["blocks.1", "fc"], name="x", preprocessing=preprocessing, classes=classes
    )

def broken():
    raise ValueError("first line\\nsecond line")

def nothing():
    return 3

constant = 3
"""
    )
    return name


def test_a_factory_with_arguments(own):
    subject = one(f"{own}:Net=random,width=7,act=gelu,label=Mine")
    assert subject.name == "Mine"
    assert subject.module.fc.out_features == 7
    assert subject.module.act == "gelu"
    assert subject.layers == ("blocks.0", "blocks.1")
    assert subject.preprocessing == Preprocessing()
    assert subject.origin["model"] == f"{own}:Net"
    assert subject.origin["arguments"] == {"width": 7, "act": "gelu"}
    assert not subject.trained
    nested, plain = one(f"{own}:nested.make=random"), one(f"{own}:Net=random")
    assert nested.origin["sha256"] == plain.origin["sha256"]


def test_a_factory_may_return_a_subject(own):
    subject = one(f"{own}:subject,size=64", layers="blocks.0")
    assert subject.name == f"{own}:subject,size=64"
    assert subject.layers == ("blocks.1", "fc")
    assert subject.preprocessing.input_size == (3, 64, 64)
    assert subject.classes == ("cat", "dog", "cow", "pig")
    assert subject.trained
    resized = one(f"{own}:subject", image_size=(16, 8))
    assert resized.preprocessing.input_size == (3, 16, 8)
    assert resized.origin["image_size"] == [16, 8]


def test_a_factory_with_a_file(own, tmp_path):
    trained = one(f"{own}:Net=random", seed=5)
    torch.save(
        {"model": {f"module.{k}": v for k, v in trained.module.state_dict().items()}}, "mine.pth"
    )
    loaded = one(f"{own}:Net=mine.pth")
    assert loaded.name == f"{own}:Net=mine"
    assert loaded.origin["sha256"] == trained.origin["sha256"]
    assert loaded.origin["tensors_loaded"] == [6, 6]
    assert loaded.trained
    # The head may differ, nothing else.
    other_head = one(f"{own}:Net=mine.pth,width=9").origin["loading"]
    loading = "4 of 6 tensors loaded (fc.weight, fc.bias left as initialised) from model"
    assert other_head == loading
    torch.save({"blocks.0.0.weight": torch.ones(1)}, "other.pth")
    line = r"other\.pth does not fit .*:Net.*missing blocks\.0\.0\.bias"
    with pytest.raises(ModelError, match=line):
        resolve(f"{own}:Net=other.pth")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("broken", "failed: ValueError: first line$"),
        ("nothing", "returned a int: return an nn.Module or a Subject"),
        ("constant", "is a int, not a function"),
        ("brokn", "has no 'brokn'; close: broken"),
        ("Net,depth=3", r"failed: TypeError: .*unexpected keyword argument 'depth'"),
    ],
)
def test_factories_that_do_not_work(own, attribute, message):
    with pytest.raises(ModelError, match=message) as refusal:
        resolve(f"{own}:{attribute}")
    assert "\n" not in str(refusal.value)


def test_a_factory_that_cannot_be_imported(own):
    import sys

    path = list(sys.path)
    with pytest.raises(ModelError, match=r"no\.such cannot be imported: No module named 'no'"):
        resolve("no.such:thing")
    Path("syntax_error_here.py").write_text("def (:")
    with pytest.raises(ModelError, match="syntax_error_here cannot be imported"):
        resolve("syntax_error_here:thing")
    assert sys.path == path


# Without weights


def test_describe_gives_layers_with_output_shapes():
    assert describe("deit_ti")[0] == ("blocks.0", "Block", (197, 192))
    assert describe("resnet18", image_size=(64, 96))[-1] == ("layer4.1", "BasicBlock", (512, 2, 3))
    assert describe("vit_ti,img_size=32,depth=1", layers="mlp") == [
        ("blocks.0.mlp", "Mlp", (5, 192))
    ]
    assert [row[2] for row in describe("refiner_s,depth=2")] == [(197, 384)] * 2
    # Fused attention reads the weights of this layer and never calls it.
    assert ("blocks.0.attn.qkv", "Linear", None) in describe(
        "eva02_tiny_patch14_224,depth=1", layers="all"
    )


def test_describe_needs_no_weights_and_says_what_does_not_run(own):
    assert describe("vit_l")[-1] == ("blocks.23", "Block", (197, 1024))
    assert describe(f"{own}:subject")[1] == ("fc", "Linear", (4,))
    with pytest.raises(ModelError, match="does not run on an image of 3 x 8 x 8"):
        describe("inception_v3", layers="all", image_size=(8, 8))


def test_search():
    found = search("resnet50 a1")
    assert "resnet50.a1_in1k" in found
    assert all("resnet50" in name and "a1" in name for name in found)
    assert search("refiner_vit") == ["refiner_vit_l", "refiner_vit_m", "refiner_vit_s"]
    assert search("no such model") == []
