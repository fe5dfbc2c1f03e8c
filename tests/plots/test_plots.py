"""What is drawn is what was measured, legible and distinguishable, and nothing outside is touched."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from refiner_cka import plots
from refiner_cka.errors import ResultError, ResultFileError
from refiner_cka.plots.heatmaps import common_path, thinned
from refiner_cka.plots.labels import EndLabels, spread
from refiner_cka.plots.lines import caption
from refiner_cka.plots.style import COLOURS, MARKERS, palette, series, shortened
from refiner_cka.subjects.provenance import moment
from tests.synthetic import synthetic_result, with_smoothing

Array = npt.NDArray[np.float64]

RESNET = [f"layer{s + 1}.{block}" for s, count in enumerate((3, 4, 6, 3)) for block in range(count)]
LEAVES = [
    "patch_embed.proj",
    *(
        f"blocks.{index}.{leaf}"
        for index in range(12)
        for leaf in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2")
    ),
    "norm",
]


def figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def end_labels(ax: Axes) -> EndLabels:
    (found,) = ax.findobj(EndLabels)
    assert isinstance(found, EndLabels)
    return found


def data_lines(ax: Axes) -> list[mpl.lines.Line2D]:
    return [line for line in ax.lines if line.get_marker() != "None"]


def text_boxes(figure: Figure, texts: Sequence[mpl.text.Text]) -> list[Bbox]:
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts]


def overlapping(boxes: Sequence[Bbox]) -> int:
    return sum(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


# What is hard to draw


def test_constant_layer_leaves_a_gap_in_the_curve_and_hatched_cells():
    """NaN inside a curve: neither interpolated nor the end of the drawing."""
    result = synthetic_result(constant=[("vit_s", 3)])
    line = data_lines(plots.curves(result))[0]
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [3]
    ax = plots.heatmap(result, "vit_s")
    mask = np.ma.getmaskarray(ax.images[0].get_array())
    assert mask.sum() == 12 + 11
    assert mask[3].all()
    assert ax.patch.get_hatch()
    assert "undefined" in ax.get_title(loc="left")


def test_constant_last_layer_leaves_a_name_without_a_line():
    """The whole curve is NaN: there is no end to write the name at, and it is still named."""
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, constant=[("deit_s", 11)])
    ax = plots.curves(result)
    figure_of(ax).draw_without_rendering()
    assert {text.get_text() for text in end_labels(ax).texts} == {"vit_s", "deit_s (undefined)"}
    assert ax.get_title(loc="left") == ""


def test_all_curves_undefined():
    """No number at all to take the limits of the axis from."""
    ax = plots.curves(synthetic_result(constant=[("vit_s", 11)]), normalize="min-max")
    figure_of(ax).draw_without_rendering()
    assert np.isfinite(ax.get_ylim()).all()


def test_one_layer_and_three_layers_and_fewer_than_five_folds():
    """A model of one layer has no length; two batches have no error."""
    result = synthetic_result({"one": 1, "three": 3}, batches=2)
    figure = plots.compare(result)
    figure.draw_without_rendering()
    assert not [c for ax in figure.axes for c in ax.collections]
    text = figure.get_supxlabel()
    assert "no error bands: fewer than 5 folds" in text
    assert "dashed: unresolved" in text
    for model, other in itertools.product(result.models, repeat=2):
        figure_of(plots.heatmap(result, model, other)).draw_without_rendering()


def test_names_with_dollars_and_other_scripts_are_written_as_they_are():
    """`$x$` would be a formula to matplotlib, and `a$_b` a broken one."""
    names = ["ünïcode $x$_^", "a$_b{"]
    result = synthetic_result(dict.fromkeys(names, 4))
    ax = plots.curves(result)
    figure_of(ax).draw_without_rendering()
    assert {text.get_text() for text in end_labels(ax).texts} == set(names)
    for ax in (
        plots.heatmap(result, *names),
        plots.heatmap(result),
        plots.contrast(result, *names),
    ):
        figure_of(ax).draw_without_rendering()


# Curves


@pytest.mark.parametrize("normalize", ["first-last", "min-max", "none"])
def test_lines_and_bands_are_the_curves(normalize):
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.curves(result, normalize=normalize)
    bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert len(bands) == 2
    for model, line, band in zip(result.models, data_lines(ax), bands, strict=True):
        curve = result.curve(model, normalize=normalize)
        np.testing.assert_array_equal(line.get_ydata(), curve.values)
        np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, len(curve.values)))
        corners = {tuple(point) for point in band.get_paths()[0].vertices}
        assert corners >= set(zip(curve.depth, curve.lower, strict=True))
        assert corners >= set(zip(curve.depth, curve.upper, strict=True))
        assert line.get_linestyle() == "-"
        low, high = ax.get_ylim()
        assert low < curve.lower.min()
        assert curve.upper.max() < high


def test_axes_are_named_by_formula():
    result = synthetic_result()
    ax = plots.curves(result)
    assert ax.get_xlabel() == "Relative depth (first to last layer)"
    assert ax.get_ylabel() == "$s(l)$ = CKA($l$, last) / CKA(first, last)"
    assert plots.curves(result, normalize="none").get_ylabel() == "CKA($l$, last)"


def test_unresolved_curve_is_dashed_and_said_and_does_not_stretch_the_axis():
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, unresolved=["deit_s"])
    assert not result.curve("deit_s").resolved
    ax = plots.curves(result)
    solid, dashed = data_lines(ax)
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert "unresolved" in ax.get_title(loc="left")
    assert ax.get_ylim()[1] < 2 * result.curve("vit_s").upper.max()
    assert len(ax.collections) == 1
    alone = plots.curves(result, models=["deit_s"])
    low, high = alone.get_ylim()
    values = result.curve("deit_s").values
    assert low < values.min() < values.max() < high


def test_raw_curve_is_never_dashed():
    result = synthetic_result(unresolved=["vit_s"])
    ax = plots.curves(result, normalize="none")
    assert data_lines(ax)[0].get_linestyle() == "-"
    assert ax.get_title(loc="left") == ""


@pytest.mark.parametrize("count", [1, 2, 3, 8, 10])
@pytest.mark.parametrize("normalize", ["first-last", "none"])
def test_names_at_the_ends_do_not_overlap(count, normalize):
    result = synthetic_result({f"model_{i}": 6 for i in range(count)})
    ax = plots.curves(result, normalize=normalize)
    figure = figure_of(ax)
    boxes = text_boxes(figure, end_labels(ax).texts)
    assert len(boxes) == count
    assert overlapping(boxes) == 0
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
    assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    assert all(box.x0 > ax.bbox.x1 for box in boxes)


def test_names_stand_in_the_order_of_the_line_ends_after_the_axis_changes():
    result = synthetic_result({f"model_{i}": 6 for i in range(4)})
    ax = plots.curves(result)
    ax.set_ylim(0.0, 50.0)
    figure_of(ax).set_size_inches(5.0, 1.2)
    labels = end_labels(ax)
    boxes = text_boxes(figure_of(ax), labels.texts)
    assert overlapping(boxes) == 0
    by_height = [
        text.get_text() for _, text in sorted(zip([b.y0 for b in boxes], labels.texts, strict=True))
    ]
    by_value = sorted(result.models, key=lambda model: result.curve(model).values[-1])
    assert by_height == by_value


def test_spread_keeps_distance_order_and_bounds():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 10):
        wanted = np.sort(rng.uniform(0, 10, count) ** 2 / 10)
        places = spread(wanted, 0.9, 0.0, 10.0)
        assert (np.diff(places) >= 0.9 - 1e-12).all()
        assert places.min() >= -1e-12
        assert places.max() <= 10 + 1e-12
    np.testing.assert_allclose(spread(np.array([1.0, 5.0]), 1.0, 0.0, 10.0), [1.0, 5.0])
    np.testing.assert_allclose(spread(np.array([5.0, 5.0]), 1.0, 0.0, 10.0), [4.5, 5.5])
    assert (np.diff(spread(np.zeros(20), 1.0, 0.0, 10.0)) >= 1 - 1e-12).all()


def test_long_names_are_shortened_and_stay_different():
    names = [f"vit_small_patch16_224.augreg_in21k_ft_in1k=epoch{i:02d}" for i in range(10)]
    short = shortened(names, 18)
    assert all(len(name) <= 18 for name in short)
    assert len(set(short)) == 10
    same_ends = ["a" * 30 + middle + "b" * 30 for middle in "xyz"]
    assert len(set(shortened(same_ends, 10))) == 3
    assert shortened(["short"], 10) == ["short"]


def test_deep_models_carry_few_markers():
    result = synthetic_result({"deep": 150}, batch_size=8)
    line = data_lines(plots.curves(result))[0]
    _, step = line.get_markevery()
    assert 150 / step <= 13


def test_contrast_is_the_paired_difference_with_a_zero_line():
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.contrast(result, "vit_s", "resnet50")
    expected = result.contrast("vit_s", "resnet50")
    np.testing.assert_array_equal(data_lines(ax)[0].get_ydata(), expected.values)
    zero = [line for line in ax.lines if line.get_marker() == "None"]
    assert [list(line.get_ydata()) for line in zero] == [[0.0, 0.0]]
    assert ax.get_title(loc="left") == "vit_s minus resnet50"


def test_compare_shows_raw_and_normalised_and_what_they_rest_on():
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, batches=60)
    figure = plots.compare(result)
    left, right = figure.axes
    for ax, normalize in ((left, "none"), (right, "first-last")):
        drawn = [line.get_ydata() for line in data_lines(ax)]
        for values, model in zip(drawn, result.models, strict=True):
            np.testing.assert_array_equal(values, result.curve(model, normalize=normalize).values)
    same = [(line.get_color(), line.get_marker()) for line in data_lines(left)]
    assert same == [(line.get_color(), line.get_marker()) for line in data_lines(right)]
    assert figure.get_supxlabel() == (
        "960 images; CKA batches of 16; 95 % bands, jackknife over 20 folds of batches"
    )
    assert figure.get_size_inches()[0] == 6.75


def test_compare_with_another_normalisation_or_none():
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    _, right = plots.compare(result, normalize="min-max").axes
    expected = result.curve("vit_s", normalize="min-max").values
    np.testing.assert_array_equal(data_lines(right)[0].get_ydata(), expected)
    figure = plots.compare(result, normalize="none")
    (alone,) = figure.axes
    expected = result.curve("vit_s", normalize="none").values
    np.testing.assert_array_equal(data_lines(alone)[0].get_ydata(), expected)
    assert overlapping(text_boxes(figure, end_labels(alone).texts)) == 0
    stem, figure = next(plots.figures(result, normalize="none"))
    assert (stem, len(figure.axes)) == ("curves", 1)


# Heatmaps


def test_heatmap_holds_the_matrix_with_the_first_layers_at_the_lower_left():
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.heatmap(result, "vit_s", "resnet50")
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), result.cka("vit_s", "resnet50"))
    assert image.origin == "lower"
    assert (image.norm.vmin, image.norm.vmax) == (0.0, 1.0)
    assert ax.get_ylabel() == "vit_s: blocks"
    assert ax.get_xlabel() == "resnet50"
    figure_of(ax).draw_without_rendering()
    assert ax.bbox.width / 16 == pytest.approx(ax.bbox.height / 12)


def test_heatmap_of_all_models_marks_their_borders():
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.heatmap(result)
    assert ax.images[0].get_array().shape == (28, 28)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["vit_s", "resnet50"]
    assert [
        line.get_ydata()[0] for line in ax.lines if line.get_xdata()[0] != line.get_xdata()[1]
    ] == [11.5]


def test_colour_scale_keeps_the_order_in_grey():
    colours = mpl.colormaps["magma"](np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(lab(colours)[:, 0]) > 0).all()


@pytest.fixture(scope="module")
def diverse():
    models = {"vit_s": 12, "resnet50": RESNET, "deep": 150, "leaves": LEAVES}
    return synthetic_result(models, batches=5, batch_size=8)


@pytest.mark.parametrize(
    ("model", "other"),
    list(itertools.product(["vit_s", "resnet50", "deep", "leaves"], repeat=2)),
)
def test_block_labels_do_not_overlap(diverse, model, other):
    ax = plots.heatmap(diverse, model, other)
    figure_of(ax).draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        labels = [tick.label1 for tick in axis.get_major_ticks() if tick.label1.get_text()]
        assert len(labels) >= 3
        assert overlapping([label.get_window_extent() for label in labels]) == 0


def test_every_block_is_labelled_where_there_is_room():
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    for model, expected in (("vit_s", [str(i) for i in range(12)]), ("resnet50", RESNET)):
        ax = plots.heatmap(result, model)
        for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [tick.get_text() for tick in ticks] == expected


def test_common_path_and_thinning():
    assert common_path(["blocks.0", "blocks.1"]) == ("blocks", ["0", "1"])
    assert common_path(["blocks.0.attn", "blocks.1.attn"]) == ("blocks.*.attn", ["0", "1"])
    assert common_path(["layer1.0", "layer2.0"]) == ("*.0", ["layer1", "layer2"])
    assert common_path(["stem", "blocks.0"]) == ("", ["stem", "blocks.0"])
    assert common_path(["head"]) == ("", ["head"])
    numbers = [str(number) for number in range(150)]
    assert thinned(numbers, 10) == (list(range(0, 150, 20)), numbers[::20])
    positions, names = thinned(LEAVES, 16)
    assert names[:3] == ["patch_embed.proj", "blocks.1", "blocks.2"]
    assert all(LEAVES[place].startswith(name) for place, name in zip(positions, names, strict=True))


# Colours


def lab(colours: Array) -> Array:
    """sRGB -> CIELAB with white D65 (CIE 15:2004)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return lab_of_linear(linear)


def lab_of_linear(linear: Array) -> Array:
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
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = lab_of_linear(np.clip(linear @ np.array(CVD[vision]).T, 0, 1))
    assert least_distance(seen) > 18
    assert least_distance(seen[:4]) > 35


def test_lines_survive_grey_print():
    lightness = lab(np.array([to_rgb(colour) for colour in COLOURS]))[:, :1]
    assert least_distance(lightness[:4]) > 12
    assert lightness.max() < 80
    assert len(set(MARKERS)) == len(MARKERS) >= 10
    looks = [(series(number)["color"], series(number)["marker"]) for number in range(40)]
    assert len(set(looks)) == 40


# Trajectories


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


# Manners


def test_nothing_global_is_touched():
    before = dict(mpl.rcParams)
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    for _, figure in plots.figures(result):
        figure.draw_without_rendering()
    assert dict(mpl.rcParams) == before
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_given_axes_are_drawn_in_and_returned():
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert plots.curves(result, ax=axes[0]) is axes[0]
    assert plots.heatmap(result, "vit_s", ax=axes[1]) is axes[1]
    assert plots.contrast(result, "vit_s", "deit_s", ax=axes[2]) is axes[2]
    figure.draw_without_rendering()
    assert len(figure.axes) == 3


def test_no_text_is_smaller_than_seven_points():
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, constant=[("vit_s", 2)])
    for _, figure in plots.figures(result):
        figure.draw_without_rendering()
        sizes = [t.get_fontsize() for t in figure.findobj(mpl.text.Text) if t.get_text().strip()]
        assert sizes
        assert min(sizes) >= 7.0


def test_figures_of_a_run_have_safe_and_different_stems():
    names = ["vit_s", "VIT_S", "a/b=c", "a.b c", "ünï", "../x"]
    result = synthetic_result(dict.fromkeys(names, 3), batches=5)
    stems = [stem for stem, _ in plots.figures(result)]
    assert stems[:2] == ["curves", "cka_vit_s"]
    assert len(stems) == 1 + 6 + 15
    assert len({stem.casefold() for stem in stems}) == len(stems)
    assert all(stem.replace("-", "").isidentifier() for stem in stems)


def test_several_readouts_are_named_in_the_stems():
    result = synthetic_result({"vit_s": 3, "deit_s": 3}, tokens=["all", "cls"], batches=5)
    stems = [stem for stem, _ in plots.figures(result)]
    per_readout = ["curves", "cka_vit_s", "cka_deit_s", "cka_vit_s_deit_s"]
    assert stems == [f"{stem}_{tokens}" for tokens in ("all", "cls") for stem in per_readout]
    cls = plots.heatmap(result, "vit_s", tokens="cls").images[0].get_array()
    np.testing.assert_array_equal(cls, result.cka("vit_s", tokens="cls"))


@pytest.mark.parametrize("name", plots.PLOTS)
def test_every_plot_can_be_drawn_by_name(name):
    result = with_smoothing(synthetic_result({"vit_s": 12, "deit_s": 12}))
    taken = plots.PLOTS[name].models
    models = ["vit_s", "deit_s"][: 2 if taken is None else taken[1]]
    figure = plots.draw(result, name, models, tokens="all")
    figure.draw_without_rendering()
    assert figure.axes


@pytest.mark.parametrize(
    ("name", "models", "options", "told"),
    [
        ("pie", [], {}, "choose one of compare, curves, contrast, heatmap"),
        ("contrast", ["vit_s"], {}, "takes 2 models, not 1"),
        ("heatmap", ["vit_s"] * 3, {}, "takes 0 to 2 models, not 3"),
        ("heatmap", ["vit_s"], {"normalize": "none"}, "takes no normalisation"),
        ("curves", ["vit_x"], {}, "no model 'vit_x'"),
        ("curves", [], {"normalize": "best"}, "unknown normalisation 'best'"),
        ("compare", [], {"tokens": "cls"}, "no readout 'cls'"),
    ],
)
def test_refusals_are_one_line(name, models, options, told):
    with pytest.raises(ResultError, match=told) as caught:
        plots.draw(synthetic_result(), name, models, **options)
    assert "\n" not in str(caught.value)


def test_no_models_to_draw_is_refused():
    with pytest.raises(ResultError, match="no model to draw"):
        plots.curves(synthetic_result(), models=[])


def test_saved_figures_are_whole_and_the_same_each_time(tmp_path):
    result = synthetic_result(constant=[("vit_s", 2)])
    first = plots.save_figure(plots.compare(result), tmp_path / "new" / "fig.v1")
    assert [path.name for path in first] == ["fig.v1.pdf", "fig.v1.png"]
    second = plots.save_figure(plots.compare(result), tmp_path / "again")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    pdf = first[0].read_bytes()
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    with Image.open(first[1]) as picture:
        assert picture.width == round(6.75 * 300)
    (tmp_path / "taken.pdf").mkdir()
    with pytest.raises(ResultFileError, match="is a folder"):
        plots.save_figure(plots.compare(result), tmp_path / "taken")


def test_caption_without_batch_size():
    result = synthetic_result(provenance={}, batches=1, batch_size=4)
    assert caption(result) == "4 images; no error bands: fewer than 5 folds of batches"
