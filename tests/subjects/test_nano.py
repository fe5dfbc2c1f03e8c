"""The embedded networks: what they are, how well they read, and that they need nothing but the package."""

import re
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

import refiner_cka as rc
from refiner_cka.plots.models import palette
from refiner_cka.plots.style import series
from refiner_cka.subjects import find_layers, nano, resolve

ROOT = Path(__file__).parents[2]
COSINE = "patch_cosine_centred"
NAMES = ["vit_nano", "deit_nano", "resnet_nano", "refiner_nano"]


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def held_out():
    """The last 360 digits, made without this package: sklearn's copy, Pillow's resizing."""
    data = load_digits()
    pictures = [
        Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).resize((32, 32), Image.BICUBIC)
        for image in data.images[1437:]
    ]
    grey = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    inputs = (grey.float() / 127.5 - 1).unsqueeze(1).expand(-1, 3, -1, -1)
    return inputs, torch.from_numpy(data.target[1437:])


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_the_held_out_digits_as_the_documentation_says(name, offline):
    model = timm.create_model(name, pretrained=True).eval()
    inputs, labels = held_out()
    with torch.no_grad():
        right = (model(inputs).argmax(1) == labels).float().mean().item()
    assert right >= 0.95
    assert rc.accuracy(name, "digits-test") == pytest.approx(right, abs=1e-6)
    page = (ROOT / "docs" / "nano.md").read_text()
    (told,) = re.findall(rf"^\| `{name}` \|[^|]*\| (\d+\.\d) %", page, re.MULTILINE)
    # On another machine rounding may decide one image the other way.
    assert float(told) == pytest.approx(100 * right, abs=100 / 360 + 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_twelve_blocks_and_is_small(name):
    model = timm.create_model(name)
    assert len(find_layers(model, "block")) == 12
    file = ROOT / "refiner_cka" / "data" / f"{name}.safetensors"
    assert 1e6 < file.stat().st_size < 1.5e6
    told = re.search(r"([\d ]+) parameters", getattr(nano, name).__doc__ or "")
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert 0.25e6 < counted < 0.36e6
    if name != "deit_nano":  # told as its difference from the ViT
        assert told
        assert int(told[1].replace(" ", "")) == counted


def test_the_accuracies_match():
    accuracies = [rc.accuracy(name, "digits-test") for name in NAMES]
    assert max(accuracies) - min(accuracies) < 0.03


@pytest.fixture(scope="module")
def on_held_out():
    return rc.analyze(NAMES, "digits-test", batch_size=32, workers=0, smoothing=COSINE)


def test_what_the_readme_and_notebook_1_say_of_them_holds(on_held_out):
    result = on_held_out
    vit, deit, resnet, refiner = (result.curve(name, normalize="none").values for name in NAMES)
    assert vit[0] < deit[0]
    assert max(np.ptp(vit[8:]), np.ptp(deit[8:])) < 0.1
    assert (np.diff(resnet) > 0).all()
    assert all((refiner[1:11] < other[1:11]).all() for other in (vit, deit, resnet))
    assert refiner[11] - refiner[10] > refiner[10] - refiner[0]
    smooth = {name: result.smoothing(COSINE, name).values for name in NAMES}
    assert smooth["refiner_nano"][6] < 0.3 < 0.45 < smooth["vit_nano"][6]
    assert smooth["refiner_nano"][11] > smooth["vit_nano"][11]
    (contrast,) = [
        entry
        for entry in rc.summarize(result).smoothing_comparisons
        if (entry.model, entry.other) == ("vit_nano", "refiner_nano")
    ]
    assert contrast.difference.upper < 0


def test_the_table_of_the_documentation_is_what_was_measured(on_held_out):
    """Of the seed that ships; the middle is the sixth block."""
    result = on_held_out
    page = (ROOT / "docs" / "nano.md").read_text()
    for name in NAMES:
        raw = result.curve(name, normalize="none")
        cosines = result.smoothing(COSINE, name).values
        measured = [1 / raw.values[0], raw.values[5], cosines[5], cosines[-1]]
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", page, re.MULTILINE)
        told = [float(cell) for cell in row.split("|")[2:]]
        assert told == pytest.approx(measured, abs=0.006)


def test_the_numbers_of_the_readme_are_what_was_measured():
    result = rc.analyze(NAMES, "digits", smoothing=COSINE)

    def half_way(line):
        return line.values[5]  # of twelve blocks, as docs/glossary.md has it

    raw = {name: half_way(result.curve(name, normalize="none")) for name in NAMES}
    cosine = {name: result.smoothing(COSINE, name) for name in ("refiner_nano", "vit_nano")}
    measured = [
        *raw.values(),
        *(half_way(line) for line in cosine.values()),
        *(line.values[-1] for line in cosine.values()),
    ]
    page = " ".join((ROOT / "README.md").read_text().split())
    told = re.findall(
        r"(?<=[( ])0\.\d\d(?=[) ])", page[page.index("What it shows") : page.index("## Install")]
    )
    assert [float(number) for number in told] == pytest.approx(measured, abs=0.006)


def test_deit_has_two_prefix_tokens_and_two_heads():
    subject = resolve("deit_nano")[0]
    assert subject.layout.prefix == 2
    assert type(subject.module.head_dist) is type(subject.module.head)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert subject.module.eval().forward_features(images).shape == (2, 66, 48)


def test_the_resnet_keeps_a_grid_to_its_end():
    shapes = [shape for _, _, shape in rc.subjects.describe("resnet_nano")]
    assert shapes[0] == (16, 16, 16)
    assert shapes[-1] == (56, 4, 4)


def test_the_main_job_needs_nothing_but_the_package(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = rc.analyze(NAMES, "digits", images=64, batch_size=16, workers=0)
    assert result.models == tuple(NAMES)
    assert np.isfinite(result.cka(*NAMES[:2])).all()
    summary = rc.summarize(result)
    assert all(finding.top1 > 0.9 for finding in summary.findings)
    assert any("not on the other 360 (digits-test)" in sentence for sentence in summary.sentences)


def test_checkpoints_of_one_network_are_a_trajectory(tmp_path):
    for epoch, seed in (("epoch00", 0), ("epoch05", 1), ("epoch10", 2)):
        module = resolve("vit_nano=random,depth=2", seed=seed)[0].module
        rc.save_weights(module, tmp_path / f"{epoch}.safetensors")
    models = [
        f"vit_nano={tmp_path}/epoch{epoch}.safetensors,depth=2" for epoch in ("00", "05", "10")
    ]
    result = rc.analyze([*models, "resnet_nano"], "digits-test", images=16, batch_size=8, workers=0)
    looks = palette(result, result.models)
    assert len({look["marker"] for look in looks[:3]}) == 1
    brightness = [sum(look["color"][:3]) for look in looks[:3]]
    assert brightness == sorted(brightness, reverse=True)
    assert looks[3] == series(3)


def test_classes_are_known_of_the_embedded_weights_alone():
    assert resolve("vit_nano")[0].classes == tuple("0123456789")
    assert resolve("vit_nano=random")[0].classes is None
    assert resolve("vit_nano,num_classes=7")[0].classes is None


def test_arguments_override_the_size():
    assert len(find_layers(resolve("refiner_nano=random,depth=4")[0].module, "block")) == 4
    shapes = rc.subjects.describe("vit_nano", image_size=(64, 64))
    assert shapes[0][2] == (257, 48)
