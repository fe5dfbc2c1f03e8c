"""Curves over depth: what is drawn is what was measured, also where that is little."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from refiner_cka import plots
from refiner_cka.plots.lines import caption
from tests.plots.drawn import RESNET, data_lines, end_labels, figure_of, overlapping, text_boxes
from tests.synthetic import synthetic_result


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
    assert not [c for ax in figure.axes for c in ax.collections]
    text = figure.get_supxlabel()
    assert "no error bands: fewer than 12 images" in text
    assert "dashed: unresolved" in text
    for model, other in itertools.product(result.models, repeat=2):
        figure_of(plots.heatmap(result, model, other)).draw_without_rendering()


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
        "960 images; CKA batches of 16; 95 % bands, jackknife over 20 folds of images"
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


def test_caption_without_batch_size():
    result = synthetic_result(provenance={}, batches=1, batch_size=4)
    assert caption(result) == "4 images; no error bands: fewer than 12 images"
