"""`Subject.from_module`: any network."""

import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.errors import LayerError
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects import Subject
from refiner_cka.subjects.provenance import state_hash
from refiner_cka.subjects.readout import ModelLayout
from tests.subjects.tokens import SMALL_VIT, hugging_face, images, outputs_of


@pytest.fixture
def plain():
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def test_defaults(plain):
    subject = Subject.from_module(plain, ["0", "1"])
    assert subject.name == "Sequential"
    assert subject.module is plain
    assert (subject.layers, subject.pattern) == (("0", "1"), False)
    assert subject.preprocessing == Preprocessing()
    assert subject.layout == ModelLayout()
    assert subject.classes is None
    assert subject.trained
    assert subject.origin["sha256"] == state_hash(plain)
    assert subject.origin["weights"] == "as given"
    assert plain.training  # the mode is the run's business


PICTURES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
ASSUMED = (
    r"^mine: preprocessing assumed: 224 x 224, bicubic, crop 0.875, ImageNet's mean and standard "
    r"deviation; state it by Subject.from_module\(preprocessing=...\), which a factory may return$"
)


@pytest.fixture
def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))


def measured(subject, data):
    options = {"batch_size": 4, "workers": 0, "device": "cpu", "smoothing": "none"}
    return rc.analyze(subject, data, **options)


def test_preprocessing_that_nobody_stated_is_said_once_and_recorded(convolutions):
    subject = Subject.from_module(convolutions, ["0", "1"], name="mine")
    with pytest.warns(rc.AnalysisWarning, match=ASSUMED) as said:
        result = measured(subject, PICTURES)
    assert len(said) == 1
    assert re.match(ASSUMED, result.warnings[0])
    assert result.provenance["preprocessing_assumed"] == ["mine"]
    with pytest.warns(rc.AnalysisWarning, match=ASSUMED):
        measured(Subject("mine", convolutions, ("0", "1")), PICTURES)
    with pytest.warns(rc.AnalysisWarning, match=ASSUMED):
        rc.token_maps(subject, PICTURES, layers=["0"], device="cpu")


def test_preprocessing_that_is_stated_or_not_applied_is_not_said(convolutions):
    """Warnings are errors here."""
    stated = Subject.from_module(
        convolutions, ["0", "1"], name="mine", preprocessing=Preprocessing()
    )
    assert measured(stated, PICTURES).provenance["preprocessing_assumed"] == []
    # Floating inputs are fed as they are.
    assumed = Subject.from_module(convolutions, ["0", "1"], name="mine")
    assert measured(assumed, torch.randn(8, 3, 16, 16)).provenance["preprocessing_assumed"] == []
    timms = Subject.from_module(timm.create_model("test_resnet").eval())
    assert not timms.preprocessing.assumed


def test_stated_or_assumed_the_numbers_are_the_same_run(convolutions):
    stated = Subject.from_module(
        convolutions, ["0", "1"], name="mine", preprocessing=Preprocessing()
    )
    with pytest.warns(rc.AnalysisWarning, match=ASSUMED):
        assumed = measured(Subject.from_module(convolutions, ["0", "1"], name="mine"), PICTURES)
    assert measured(stated, PICTURES).fingerprint == assumed.fingerprint


def test_what_is_given_is_kept(plain):
    preprocessing = Preprocessing((3, 8, 8))
    subject = Subject.from_module(
        plain, "all", name="mine", preprocessing=preprocessing, classes=["a", "b"], trained=False
    )
    assert (subject.name, subject.preprocessing, subject.classes) == (
        "mine",
        preprocessing,
        ("a", "b"),
    )
    assert subject.pattern
    assert not subject.trained
    assert subject.origin["image_size"] == [8, 8]
    with pytest.raises(LayerError, match="no module 'x'"):
        Subject.from_module(plain, ["x"])


@pytest.mark.parametrize(
    ("layout", "prefix", "expected"),
    [
        ("nhwc", None, ModelLayout(stated="nhwc")),
        ("nlc", 2, ModelLayout(stated="nlc", stated_prefix=2)),
        (None, 0, ModelLayout(stated_prefix=0)),
    ],
)
def test_what_is_stated_of_the_tokens(plain, layout, prefix, expected):
    subject = Subject.from_module(plain, ["0"], layout=layout, prefix_tokens=prefix)
    assert subject.layout == expected


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"layout": "nhcw"}, "layout='nhcw' is unknown; choose from nlc, nchw, nhwc"),
        ({"prefix_tokens": -1}, "prefix_tokens=-1 is no number of tokens; give 0, 1, 2"),
        ({"prefix_tokens": "two"}, "prefix_tokens='two' is no number of tokens"),
    ],
)
def test_what_cannot_be_stated_is_refused(plain, stated, message):
    with pytest.raises(LayerError, match=message):
        Subject.from_module(plain, ["0"], **stated)


def test_a_timm_network_brings_its_own():
    module = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    subject = Subject.from_module(module)
    assert subject.layers == ("blocks.0",)
    assert subject.layout == ModelLayout(prefix=2, patches=4)
    assert subject.preprocessing.input_size == (3, 32, 32)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_a_hugging_face_network(kind):
    module = hugging_face(kind, "ViTConfig", **SMALL_VIT)
    layers = Subject.from_module(module).layers
    assert len(layers) == 2
    data = images(2, 3, 32, 32)
    outputs = outputs_of(module, layers, data)
    with torch.inference_mode():
        output = module(data, output_hidden_states=True)
    # The model's own list of hidden states: the embedding, then each block's output but the last, which is normed.
    assert torch.equal(outputs[layers[0]], output.hidden_states[1])
    assert outputs[layers[1]].shape == (2, 17, 32)
