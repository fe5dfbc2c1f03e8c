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


@pytest.mark.parametrize(
    ("option", "value", "refusal"),
    [
        ("batch_size", 3, "--batch-size 3: it takes at least 4"),
        ("batch_size", 2**63, "--batch-size 9223372036854775808: it takes at most"),
        ("images", 0, "--images 0: it takes at least 4"),
        ("images", 10**30, "--images 1000000000000000000000000000000: it takes at most"),
        ("image_size", 0, "--image-size 0: it takes at least 1"),
        ("image_size", (32, -1), "--image-size -1: it takes at least 1"),
        ("workers", -1, "--workers -1: it takes at least 0"),
        ("workers", 2**64, "--workers 18446744073709551616: it takes at most"),
        ("seed", -1, "--seed -1: it takes at least 0"),
        ("seed", 2**63, "--seed 9223372036854775808: it takes at most 9223372036854775807"),
        ("shard", (0, 2), "--shard 0: it takes at least 1"),
        ("shard", (3, 2), "--shard 3/2: the first number must be from 1 to the second"),
        ("shard", [1, 2**63], "--shard 9223372036854775808: it takes at most"),
    ],
)
def test_a_number_that_cannot_work_is_refused_before_anything_is_looked_at(option, value, refusal):
    for function in (lambda **kw: rc.prepare("no model", "no images", **kw), rc.Options):
        with pytest.raises(rc.DataError) as caught:
            function(**{option: value})
        assert str(caught.value).startswith(refusal)
    assert rc.Options(seed=2**63 - 1, workers=0, images=4).seed == 2**63 - 1


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("-inf")])
def test_no_time_between_two_saves_is_refused_before_anything_is_looked_at(seconds):
    with pytest.raises(rc.DataError, match=r"--save-every .*: it takes seconds, 0 or more"):
        rc.analyze("no model", "no images", save_every=seconds)
    with pytest.raises(rc.DataError, match="--save-every"):
        rc.measure(None, save_every=seconds)


@pytest.mark.parametrize("function", [rc.analyze, rc.prepare])
def test_warnings_point_at_the_caller(function):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(0))
    subject = rc.Subject.from_module(module, "all", name="m")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        function(subject, torch.randn(8, 3, 8, 8), batch_size=4, images=9, device="cpu", workers=0)
    assert len(said) >= 2
    assert {warning.filename for warning in said} == {__file__}
