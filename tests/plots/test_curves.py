"""Curves over depth: what is drawn is what was measured, also where that is little."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from refiner_cka import plots
from tests.plots.drawn import (
    RESNET,
    bands,
    caption_of,
    corners,
    data_lines,
    end_labels,
    figure_of,
    note_of,
    overlapping,
    text_boxes,
)
from tests.synthetic import synthetic_result, with_index


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
    assert "undefined" in caption_of(ax)


def test_all_curves_undefined():
    """No number at all to take the limits of the axis from."""
    ax = plots.curves(synthetic_result(constant=[("vit_s", 11)]), normalize="min-max")
    figure_of(ax).draw_without_rendering()
    assert np.isfinite(ax.get_ylim()).all()


def test_one_layer_and_three_layers_and_fewer_than_twelve_images():
    """A model of one layer has no length; two batches of five images have no error."""
    result = synthetic_result({"one": 1, "three": 3}, batches=2, batch_size=5)
    figure = plots.compare(result)
    figure.draw_without_rendering()
    # What unrelated images would do needs no error.
    assert [len(ax.collections) for ax in figure.axes] == [1, 0]
    text = caption_of(figure)
    assert "no error bands: fewer than 12 images" in text
    assert "dashed: unresolved" in text
    for model, other in itertools.product(result.models, repeat=2):
        figure_of(plots.heatmap(result, model, other)).draw_without_rendering()


@pytest.mark.parametrize("normalize", ["first-last", "min-max", "none"])
def test_lines_and_bands_are_the_curves(normalize):
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.curves(result, normalize=normalize)
    *_, light, other_light, dark, other_dark = bands(ax)
    shown = zip(
        result.models, data_lines(ax), [light, other_light], [dark, other_dark], strict=True
    )
    for model, line, outer, inner in shown:
        curve, whole = (
            result.curve(model, normalize=normalize, band=band)
            for band in ("pointwise", "simultaneous")
        )
        np.testing.assert_array_equal(line.get_ydata(), curve.values)
        np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, len(curve.values)))
        for band, estimate in ((inner, curve), (outer, whole)):
            assert corners(band) >= set(zip(estimate.depth, estimate.lower, strict=True))
            assert corners(band) >= set(zip(estimate.depth, estimate.upper, strict=True))
        assert outer.get_alpha() < inner.get_alpha()
        assert line.get_linestyle() == "-"
        low, high = ax.get_ylim()
        assert low < whole.lower.min()
        assert whole.upper.max() < high


def test_axes_are_named_by_formula():
    result = synthetic_result()
    ax = plots.curves(result)
    assert ax.get_xlabel() == "Relative depth (first to last layer)"
    assert ax.get_ylabel().replace("\n", " ") == "$s(l)$ = CKA($l$, last) / CKA(first, last)"
    assert plots.curves(result, normalize="none").get_ylabel() == "CKA($l$, last)"


def test_unresolved_curve_is_dashed_and_said_and_does_not_stretch_the_axis():
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, unresolved=["deit_s"])
    assert not result.curve("deit_s").resolved
    ax = plots.curves(result)
    solid, dashed = data_lines(ax)
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert "unresolved" in caption_of(ax)
    assert ax.get_ylim()[1] < 2 * result.curve("vit_s").upper.max()
    assert len(bands(ax)) == 2
    alone = plots.curves(result, models=["deit_s"])
    low, high = alone.get_ylim()
    values = result.curve("deit_s").values
    assert low < values.min() < values.max() < high


def test_raw_curve_is_never_dashed():
    result = synthetic_result(unresolved=["vit_s"])
    ax = plots.curves(result, normalize="none")
    assert data_lines(ax)[0].get_linestyle() == "-"
    assert "dashed" not in caption_of(ax)


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
    assert note_of(ax) == "vit_s minus resnet50"


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
    assert caption_of(figure) == (
        "960 images; CKA batches of 16; 95 % bands, jackknife over 20 folds of images: dark for each "
        "layer, light for the whole curve (a) unrelated images lie below 0.027 (95 %)"
    )
    assert figure.get_size_inches()[0] == 6.75


def test_figures_of_one_column_say_what_they_rest_on():
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    for ax in (plots.curves(result), plots.contrast(result, "vit_s", "deit_s")):
        assert caption_of(ax) == (
            "640 images; CKA batches of 16; 95 % bands, jackknife over 20 folds of images: dark for "
            "each layer, light for the whole curve"
        )
    # The figure of given axes is somebody else's.
    figure = Figure()
    plots.curves(result, ax=figure.subplots())
    assert figure.get_supxlabel() == ""


def test_a_contrast_has_both_bands():
    result = synthetic_result({"vit_s": 12, "resnet50": RESNET})
    ax = plots.contrast(result, "vit_s", "resnet50", normalize="first-last")
    for drawn, band in zip(bands(ax), ("simultaneous", "pointwise"), strict=True):
        expected = result.contrast("vit_s", "resnet50", normalize="first-last", band=band)
        assert corners(drawn) >= set(zip(expected.depth, expected.upper, strict=True))


def test_grey_encloses_chance_of_every_model():
    """Models of other depths: between their layers chance is interpolated."""
    result = synthetic_result({"vit_s": 12, "short": 3}, constant=[("vit_s", 4)], batches=4)
    ax = plots.curves(result, normalize="none")
    assert caption_of(ax).endswith(" grey: where unrelated images lie (95 %)")
    grey = bands(ax)[0]
    assert to_rgb(grey.get_facecolor()[0]) == (0.86, 0.86, 0.86)
    drawn = corners(grey)
    for share, outermost in ((0.025, min), (0.975, max)):
        ends = []
        for model in result.models:
            chance = result.null(model).quantile(share)[:, -1]
            known = np.isfinite(chance)
            assert known.sum() == {"vit_s": 11, "short": 3}[model]
            ends.append((np.linspace(0, 1, len(chance))[known], chance[known]))
        middle = outermost(np.interp(0.5, *end) for end in ends)
        assert any(depth == 0.5 and value == pytest.approx(middle) for depth, value in drawn)
    low, high = ax.get_ylim()
    assert low <= min(value for _, value in drawn)
    assert max(value for _, value in drawn) <= high
    # There is no grey behind a ratio.
    assert "grey" not in caption_of(plots.curves(result))


def test_chance_too_thin_to_see_is_neither_drawn_nor_said():
    result = synthetic_result({"vit_s": 3}, batches=1)
    ax = plots.curves(result, normalize="none")
    assert "grey" in caption_of(ax)
    # 0.01 of an axis of 1.08, by 1.96 standard deviations: a hundred times less variance is enough.
    variance = result.sums["similarity/cka/variance"] * 1e-3
    certain = replace(result, sums={**result.sums, "similarity/cka/variance": variance})
    thin = plots.curves(certain, normalize="none")
    assert "grey" not in caption_of(thin)
    assert len(bands(thin)) == len(bands(ax)) - 1


def test_rough_chance_is_called_approximate():
    result = synthetic_result({"vit_s": 3})
    fourth = result.sums["similarity/cka/variance"] ** 2
    rough = replace(result, sums={**result.sums, "similarity/cka/fourth": fourth})
    assert "(95 %, approximate)" in caption_of(plots.compare(rough))
    assert "approximate" not in caption_of(plots.compare(result))


def test_another_index_is_drawn_named_and_captioned():
    models = {"vit_s": 6, "deit_s": 6}
    result = with_index(
        synthetic_result(models),
        "knn",
        "10-NN overlap (batches of 16)",
        synthetic_result(models, seed=1),
    )
    ax = plots.curves(result, index="knn", normalize="none")
    for model, line in zip(models, data_lines(ax), strict=True):
        expected = result.curve(model, index="knn", normalize="none").values
        np.testing.assert_array_equal(line.get_ydata(), expected)
    assert ax.get_ylabel() == "10-NN overlap($l$, last)"
    assert caption_of(ax).startswith("640 images; 10-NN overlap (batches of 16); 95 % bands")
    ratio = plots.curves(result, index="knn").get_ylabel()
    assert ratio == "$s(l)$ = 10-NN overlap($l$, last)\n/ 10-NN overlap(first, last)"
    raw, normalised = plots.compare(result, index="knn").axes
    np.testing.assert_array_equal(
        data_lines(raw)[1].get_ydata(),
        result.curve("deit_s", index="knn", normalize="none").values,
    )
    np.testing.assert_array_equal(
        data_lines(normalised)[1].get_ydata(), result.curve("deit_s", index="knn").values
    )
    difference = data_lines(plots.contrast(result, "vit_s", "deit_s", index="knn"))[0].get_ydata()
    expected = result.contrast("vit_s", "deit_s", index="knn").values
    np.testing.assert_array_equal(difference, expected)


def test_an_unresolved_curve_of_another_index_is_told_by_its_name():
    other = synthetic_result(unresolved=["vit_s"])
    result = with_index(synthetic_result(), "rsa", "RSA", other)
    said = caption_of(plots.curves(result, index="rsa"))
    assert said.endswith(" dashed: unresolved (RSA(first, last) is not 5 SE above 0)")


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


def test_caption_without_batch_size():
    result = synthetic_result(provenance={}, batches=1, batch_size=4)
    assert caption_of(plots.curves(result)).startswith(
        "4 images; no error bands: fewer than 12 images"
    )
