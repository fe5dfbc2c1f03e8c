"""The figures of docs/gallery.md: by the command, by the Python beside it, and in the picture that is stored."""

import json

import numpy as np
import pytest
from PIL import Image

import refiner_cka as rc
from docs import gallery
from tests.cli.running import ROOT

CARDS = {card.picture.stem.removeprefix("gallery-"): card for card in gallery.cards()}
QUESTIONS = [name for name, card in CARDS.items() if card.code]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with all that the figures are of."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        gallery.measure()
    return folder


@pytest.fixture
def _there(measured, monkeypatch):
    monkeypatch.chdir(measured)


def check_same(drawn, other, **tolerance):
    """Two figures show the same numbers, panel by panel."""
    assert len(drawn) == len(other)
    for panel, like in zip(drawn, other, strict=True):
        assert panel.keys() == like.keys()
        for kind in panel:
            assert len(panel[kind]) == len(like[kind])
            for values, wanted in zip(panel[kind], like[kind], strict=True):
                np.testing.assert_allclose(values, wanted, **tolerance)


def test_every_picture_of_the_page_is_a_figure_and_small():
    assert len(QUESTIONS) == 12
    assert len(CARDS) == 17
    shown = {ROOT / "docs" / name for name in gallery.pictures()}
    assert shown == {card.picture for card in CARDS.values()}
    assert set((ROOT / "docs" / "img").glob("gallery-*")) == shown
    stored = [*shown, *(ROOT / "docs" / "data").iterdir()]
    assert max(file.stat().st_size for file in stored) < 400_000


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("name", CARDS)
def test_a_picture_shows_what_the_command_and_the_python_beside_it_draw_today(name):
    card = CARDS[name]
    by_command = gallery.numbers(gallery.by_command(card, save=lambda _, path: path))
    assert any(values for panel in by_command for kind in panel.values() for values in kind)
    if card.code:
        check_same(gallery.numbers(gallery.by_python(card)), by_command, rtol=0, atol=0)
    with Image.open(card.picture) as picture:
        stored = json.loads(picture.text["numbers"])
    # Other processors and versions round otherwise, and a near neighbour may become another.
    check_same(by_command, stored, rtol=0.01, atol=0.005)


@pytest.mark.usefixtures("_there")
def test_the_numbers_are_those_of_the_file():
    """Of a matrix and of the curves, read without what draws them."""
    digits, seeds = (rc.load(each) for each in ("digits/analysis.h5", "docs/data/seeds.h5"))
    (own,) = drawn("own", "matrices")
    np.testing.assert_allclose(own, digits.cka("refiner_nano"), atol=1e-6)
    (across,) = drawn("across", "matrices")
    np.testing.assert_allclose(across, digits.cka("vit_nano", "resnet_nano"), atol=1e-6)
    lines = [np.array(line)[:, 1] for line in drawn("curve", "lines")]
    for model, line in zip(digits.models, lines, strict=True):
        np.testing.assert_allclose(line, digits.cka(model)[:, -1], atol=1e-6)
    lines = [np.array(line)[:, 1] for line in drawn("seeds", "lines")]
    means = [
        np.mean([seeds.cka(each)[:, -1] for each in group], 0) for group in seeds.groups.values()
    ]
    for mean in means:
        assert min(np.abs(line - mean).max() for line in lines) < 1e-6


def drawn(name, kind):
    """What is drawn of one kind in the first panel of a figure."""
    return gallery.numbers(gallery.by_python(CARDS[name]))[0][kind]
