"""What a user states of how tokens lie, and the lines that ask for it."""

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import refiner_cka as rc
from cli.app import app
from tests.subjects.tokens import TOLERANCE, Views, images, outputs_of, run, seeded, subject


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Detector(nn.Module):
    """A class token, 16 patches, and two tokens of another kind behind them: no number of prefixes fits."""

    def __init__(self, extra=2, depth=3):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(depth))
        self.extra = extra

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True) + 1, x, x[:, : self.extra] - 1], 1)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def detector(extra=2):
    return subject(seeded(Detector, extra))


def test_one_line_a_model_says_what_to_type():
    data = images(8, 3, 32, 32)
    with pytest.warns(rc.AnalysisWarning) as caught:
        result = run(detector(), data, batch_size=8, smoothing=None)
    [line] = [str(each.message) for each in caught]
    assert line.startswith(
        "model: layer blocks.0 returns 19 tokens, which make no grid on images of 32x32 without 0, 1, 2, 4 or 5 "
        "prefix tokens: say how many there are, prefix_tokens=N"
    )
    assert ", and so for blocks.1, blocks.2; left out of" in line
    assert result.warnings == (line,)
    assert np.isnan(result.smoothing("patch_cosine", "model").values).all()


def test_prefix_tokens_are_stated_in_python_and_on_the_command_line(tmp_path):
    data = images(8, 3, 32, 32)
    python = subject(seeded(Detector), prefix_tokens=3)
    by_python = run(python, data, batch_size=8, smoothing="token_norm")
    text = "tests.subjects.test_stated_layouts:detector,prefix_tokens=3,label=model"
    by_text = run(text, data, batch_size=8, smoothing="token_norm")
    with torch.inference_mode():
        hidden = outputs_of(python.module, ["blocks.0"], data)["blocks.0"]
    expected = float(hidden[:, 3:].norm(dim=2).mean())
    for result in (by_python, by_text):
        found = result.smoothing("token_norm", "model").values[0]
        assert found == pytest.approx(expected, rel=TOLERANCE)
    assert by_text.provenance["stated"] == {"model": {"layout": None, "prefix_tokens": 3}}
    layout = {"format": "nlc", "prefix_tokens": 3, "grid": None}
    assert by_text.provenance["models"][0]["layers"][0] == ["blocks.0", "all", layout]


def test_the_command_line_refuses_a_layout_that_the_shapes_contradict(tmp_path):
    np.save(tmp_path / "images.npy", images(8, 3, 32, 32).numpy())
    arguments = (
        f"--tokens mean --data {tmp_path}/images.npy --batch-size 8 --out {tmp_path}".split()
    )
    for key, message in [
        ("layout=nhcw", "layout='nhcw' is unknown; choose from nlc, nchw, nhwc"),
        ("layout=nhwc", "which is nchw and not nhwc on images of 32x32: give layout=nchw"),
    ]:
        model = f"test_resnet=random,{key}"
        command = ["analyze", "--model", model, "--layers", "layer1", *arguments]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert message in " ".join(str(result.output).split())


def test_the_command_line_comes_before_what_a_subject_says():
    made = rc.subjects.resolve(
        "tests.subjects.test_stated_layouts:detector,layout=nhwc,prefix_tokens=0"
    )[0]
    assert (made.layout.stated, made.layout.stated_prefix) == ("nhwc", 0)


def test_what_was_found_and_what_was_stated_make_one_analysis_if_they_are_the_same():
    data = images(8, 3, 32, 32)

    def fingerprint(model):
        return rc.prepare(model, data, workers=0, device="cpu", batch_size=8).fingerprint

    found, stated = (
        subject(seeded(Detector, 0), **said) for said in ({}, {"prefix_tokens": 1, "layout": "nlc"})
    )
    assert fingerprint(found) == fingerprint(stated)
    module = seeded(Views, lambda x: x)
    cubes = [subject(module, ["norm"], layout=layout) for layout in (None, "nchw", "nhwc")]
    assert len({fingerprint(cube) for cube in cubes}) == 2
