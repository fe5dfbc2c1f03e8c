"""One declaration of the options of a run: the signatures that follow from it, and who is warned."""

import inspect
import warnings
from typing import Literal, get_type_hints

import pytest
import torch
from torch import nn

import refiner_cka as rc


@pytest.mark.parametrize("function", [rc.analyze, rc.prepare, rc.Options])
def test_a_signature_shows_types_and_defaults_alone(function):
    assert getattr(rc, function.__name__) is function
    shown = inspect.signature(function).parameters
    assert str(shown["batch_size"]).replace("'", "") == "batch_size: int = 64"
    assert str(shown["images"]).replace("'", "") == "images: int | None = None"
    assert all(shown[name].kind is inspect.Parameter.KEYWORD_ONLY for name in rc.Options.about())


def test_every_option_is_explained():
    assert get_type_hints(rc.Options)["precision"] == Literal["fp32", "bf16", "fp16"]
    for name, about in rc.Options.about().items():
        assert f"{name}: {about.text}" in rc.Options.__doc__


@pytest.mark.parametrize("function", [rc.analyze, rc.prepare])
def test_warnings_point_at_the_caller(function):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(0))
    subject = rc.Subject.from_module(module, "all", name="m")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        function(subject, torch.randn(8, 3, 8, 8), batch_size=4, images=9, device="cpu", workers=0)
    assert len(said) >= 2
    assert {warning.filename for warning in said} == {__file__}
