"""A family of models from outside: one row, and its models are analysed by name."""

import numpy as np
import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects import describe, families
from refiner_cka.subjects.provenance import Source


def toy(spec, layers, image_size):
    """The models of the new family: `toy:DEPTH`, so many convolutions."""
    depth = int(spec.name.removeprefix("toy:"))
    module = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1, **spec.arguments) for _ in range(depth)))
    preprocessing = Preprocessing((3, *(image_size or (32, 32))))
    subject = rc.Subject.from_module(module, layers, preprocessing=preprocessing)
    return subject, Source(spec.name, weights="random")


@pytest.fixture
def with_toys(monkeypatch):
    row = families.Family(lambda name: name.startswith("toy:"), toy)
    monkeypatch.setattr(families, "FAMILIES", {"toy": row, **families.FAMILIES})


def test_models_of_a_new_family_are_analysed_by_name(with_toys):
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = rc.analyze(
        ["toy:3,label=Mine", "toy:3,bias=False", "test_vit=random,depth=2,img_size=32"],
        images,
        batch_size=8,
        workers=0,
        device="cpu",
        smoothing="none",
        seed=4,
    )
    assert result.models[:2] == ("Mine", "toy:3,bias=False")
    assert [layer.path for layer in result.layers[:3]] == ["0", "1", "2"]
    assert np.isfinite(result.cka()).all()
    origin, other = (model["origin"] for model in result.provenance["models"][:2])
    assert (origin["model"], origin["weights"], origin["seed"]) == ("toy:3", "random", 4)
    assert other["arguments"] == {"bias": False}


def test_a_model_of_a_new_family_is_described_and_its_weights_follow_the_seed(with_toys):
    assert describe("toy:1", layers="all", image_size=(4, 6)) == [("0", "Conv2d", (3, 4, 6))]
    first, second = (rc.subjects.resolve("toy:2", layers="all", seed=seed)[0] for seed in (1, 1))
    assert first.origin["sha256"] == second.origin["sha256"]
    assert not first.trained
