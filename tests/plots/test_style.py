"""Colours and markers: distinguishable for everyone, in grey, and along a training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb

from refiner_cka import plots
from refiner_cka.plots.models import palette
from refiner_cka.plots.style import COLOURS, MARKERS, series
from refiner_cka.subjects.provenance import moment
from tests.plots.drawn import data_lines
from tests.synthetic import synthetic_result, with_smoothing

Array = npt.NDArray[np.float64]


def lab(colours: Array, seen: Sequence[Sequence[float]] = np.eye(3)) -> Array:
    """sRGB -> CIELAB with white D65 (CIE 15:2004), as somebody sees it: a matrix of linear RGB."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(seen), 0, 1)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    t = linear @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


CVD = {
    # Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def least_distance(points: Array) -> float:
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize("vision", CVD)
def test_colours_survive_colour_blindness(vision):
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    seen = lab(colours, CVD[vision])
    assert least_distance(seen) > 18
    assert least_distance(seen[:4]) > 35


def test_lines_survive_grey_print():
    lightness = lab(np.array([to_rgb(colour) for colour in COLOURS]))[:, :1]
    assert least_distance(lightness[:4]) > 12
    assert lightness.max() < 80
    assert len(set(MARKERS)) == len(MARKERS) >= 10
    assert len({tuple(series(number).values()) for number in range(40)}) == 40


def test_colour_scale_keeps_the_order_in_grey():
    colours = mpl.colormaps["magma"](np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(lab(colours)[:, 0]) > 0).all()


def states(*files: str, model: str = "vit_nano", **others: object) -> dict[str, object]:
    """The provenance of one network with the weights of each file; `random` and `pretrained` are no files."""
    names = {f"{model}={file}": Path(file) for file in files}
    moments = {name: moment(file) for name, file in names.items()}
    return {
        "models": [
            {
                "name": name,
                "origin": {"model": model, "arguments": {}, "image_size": [32, 32]} | others,
            }
            for name in names
        ],
        "training": {name: at for name, at in moments.items() if at is not None},
    }


def together(*provenances):
    """One run of the models of several."""
    return {
        "models": [model for each in provenances for model in each["models"]],
        "training": {name: at for each in provenances for name, at in each["training"].items()},
    }


def looks_of(provenance):
    names = [model["name"] for model in provenance["models"]]
    return palette(synthetic_result(dict.fromkeys(names, 3), provenance=provenance), names)


def lightness_of(looks):
    return lab(np.array([to_rgb(look["color"]) for look in looks]))[:, 0]


def test_states_of_one_training_go_from_light_to_dark_with_one_marker():
    provenance = states("run/epoch00.pth", "run/epoch05.pth", "run/epoch10.pth")
    names = [model["name"] for model in provenance["models"]]
    result = synthetic_result(dict.fromkeys(names, 6), provenance=provenance)
    looks = palette(result, names)
    assert (np.diff(lightness_of(looks)) < -5).all()
    assert len({look["marker"] for look in looks}) == 1
    drawn = plots.compare(result).axes[0]
    assert [line.get_color() for line in data_lines(drawn)] == [look["color"] for look in looks]
    axes = plots.smoothing(with_smoothing(result)).axes[0]
    assert [line.get_color() for line in data_lines(axes)] == [look["color"] for look in looks]


def test_the_order_of_a_trajectory_is_that_of_training():
    looks = looks_of(states("e10.pth", "e2.pth", "e1.pth"))
    assert (np.diff(lightness_of(looks)) > 5).all()


def test_several_trainings_of_one_network_have_a_colour_map_each():
    """Also of two networks; what is no moment of a training has a colour of its own."""
    files = [f"run{run}/epoch{epoch}.pth" for run in (1, 2) for epoch in (1, 5, 10)]
    for provenance in (
        together(states(*files), states("random", model="deit_nano")),
        together(states(*files[:3]), states(*files[:3], model="resnet_nano"), states("pretrained")),
    ):
        looks = looks_of(provenance)
        assert len({look["color"] for look in looks}) == 7
        for run in (looks[:3], looks[3:6]):
            assert (np.diff(lightness_of(run)) < -5).all()
        assert looks[0]["marker"] != looks[3]["marker"]
        assert looks[6] == series(6)


@pytest.mark.parametrize(
    "provenance",
    [
        {"models": states("a", "b", "c")["models"]},
        states("epoch00.pth", "epoch05.pth"),
        states("epoch05.pth", "./epoch5.pth", "epoch05.pt", "epoch10.pth"),
        # Three seeds, whether the folder or the file says so.
        states("run1/epoch04.pth", "run2/epoch04.pth", "run3/epoch04.pth"),
        states("seed0.pth", "seed1.pth", "seed2.pth"),
        # Three recipes trained for as long.
        states("lr1e-2/epoch4.pth", "lr1e-3/epoch4.pth", "lr1e-4/epoch4.pth"),
        states("pretrained", "random", "epoch1.pth", "epoch2.pth"),
        together(states("e1.pth", "e2.pth"), states("e3.pth", arguments={"depth": 6})),
    ],
)
def test_other_models_keep_colours_of_their_own(provenance):
    assert looks_of(provenance) == [series(number) for number in range(len(provenance["models"]))]


def test_a_model_has_one_colour_in_all_figures_of_a_run():
    names = ["vit_s", "resnet50", "refiner_s"]
    result = with_smoothing(
        synthetic_result(dict.fromkeys(names, 6)), refined=["vit_s", "refiner_s"]
    )
    everywhere = [line.get_color() for line in data_lines(plots.compare(result).axes[0])]
    some = data_lines(plots.curves(result, models=["refiner_s", "vit_s"]))
    assert [line.get_color() for line in some] == [everywhere[2], everywhere[0]]
    lines = data_lines(plots.attention(result).axes[0])
    assert {line.get_color() for line in lines} <= set(everywhere)
    looks = [(line.get_color(), line.get_marker()) for line in lines]
    assert len(set(looks)) == len(looks) > len({colour for colour, _ in looks})
