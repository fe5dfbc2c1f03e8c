"""Groups of trainings in figures: mean, spread and each training, told apart from errors over images."""

from __future__ import annotations

import numpy as np
import pytest

from refiner_cka import plots
from refiner_cka.errors import ResultError
from tests.plots.drawn import (
    bands,
    caption_of,
    corners,
    data_lines,
    end_labels,
    figure_of,
    legend_of,
    note_of,
    overlapping,
    text_boxes,
)
from tests.synthetic import synthetic_result, with_smoothing

GROUPS = {"ViT-S": ["v0", "v1", "v2"], "DeiT-S": ["d0", "d1"]}
MODELS = {"v0": 6, "d0": 6, "resnet": 8, "v1": 6, "v2": 6, "d1": 6}
SHOWN = ["ViT-S", "DeiT-S", "resnet"]


@pytest.fixture(scope="module")
def result():
    provenance = {"batch_size": 16, "groups": GROUPS}
    return with_smoothing(synthetic_result(MODELS, batches=10, provenance=provenance))


def thin_lines(ax):
    return [line for line in ax.lines if line.get_marker() == "None"]


def test_a_group_is_drawn_as_mean_spread_and_each_training(result):
    ax = plots.curves(result, normalize="none")
    assert [text.get_text() for text in end_labels(ax).texts] == sorted(
        SHOWN, key=lambda name: result.curve(name, normalize="none").values.mean()
    )
    for name, line in zip(SHOWN, data_lines(ax), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), result.curve(name, normalize="none").values)
    trainings = [model for group in GROUPS.values() for model in group]
    for model, line in zip(trainings, thin_lines(ax), strict=True):
        np.testing.assert_array_equal(
            line.get_ydata(), result.curve(model, normalize="none").values
        )
    light, vit, deit, resnet = bands(ax)
    for band, name in ((vit, "ViT-S"), (deit, "DeiT-S")):
        curve = result.curve(name, normalize="none")
        assert corners(band) >= set(zip(curve.depth, curve.values - curve.spread, strict=True))
        assert corners(band) >= set(zip(curve.depth, curve.values + curve.spread, strict=True))
    curve = result.curve("resnet", normalize="none")
    assert corners(resnet) >= set(zip(curve.depth, curve.upper, strict=True))
    whole = result.curve("resnet", normalize="none", band="simultaneous")
    assert corners(light) >= set(zip(whole.depth, whole.upper, strict=True))
    everywhere = [result.null(model).quantile(0.975)[:, -1].max() for model in result.models]
    assert max(everywhere) == pytest.approx(0.072, abs=5e-4)
    # An outline is over trainings, a filled band over images.
    assert [band.get_linewidth()[0] > 0 for band in (vit, deit, resnet)] == [True, True, False]
    assert caption_of(ax).endswith(
        "outlined: SD over 2 or 3 trainings unrelated images lie below 0.072 (95 %)"
    )


@pytest.mark.parametrize("draw", [plots.compare, plots.smoothing, plots.attention])
def test_the_caption_says_what_each_band_is_over(result, draw):
    both = caption_of(draw(result))
    assert "95 % bands" in both
    assert "outlined: SD over 2 or 3 trainings" in both
    groups = caption_of(draw(result, models=["ViT-S"]))
    assert "95 % bands" not in groups
    assert "outlined: SD over 3 trainings" in groups
    assert "outlined" not in caption_of(draw(result, models=["v0", "resnet"]))


def test_measures_of_groups_are_means_over_trainings(result):
    for figure in (plots.smoothing(result), plots.attention(result)):
        assert legend_of(figure) == SHOWN
    ax = plots.smoothing(result).axes[0]
    line = data_lines(ax)[0]
    np.testing.assert_array_equal(
        line.get_ydata(), result.smoothing("patch_cosine_centred", "ViT-S").values
    )


def test_a_contrast_of_groups_has_its_interval_over_trainings(result):
    ax = plots.contrast(result, "ViT-S", "DeiT-S")
    difference = result.contrast("ViT-S", "DeiT-S")
    (band,) = bands(ax)
    assert corners(band) >= set(zip(difference.depth, difference.upper, strict=True))
    assert band.get_linewidth()[0] > 0
    assert note_of(ax) == "ViT-S minus DeiT-S; outlined: 95 % over 5 trainings"


def test_the_ceiling_is_drawn_with_errors_over_images_and_each_pair(result):
    ax = plots.ceiling(result)
    light, dark = bands(ax)[:2], bands(ax)[2:]
    for group, line, outer, band in zip(GROUPS, data_lines(ax), light, dark, strict=True):
        found = result.ceiling(group)
        np.testing.assert_array_equal(line.get_ydata(), found.values)
        assert corners(band) >= set(zip(found.depth, found.upper, strict=True))
        assert band.get_linewidth()[0] == 0
        whole = result.ceiling(group, band="simultaneous")
        assert corners(outer) >= set(zip(whole.depth, whole.upper, strict=True))
    pairs = [("v0", "v1"), ("v0", "v2"), ("v1", "v2")]
    for pair, line in zip(pairs, thin_lines(ax), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), np.diagonal(result.cka(*pair)))
    assert caption_of(ax).endswith("thin: pairs of trainings")
    assert "95 % bands, jackknife over 20 folds of images: dark" in caption_of(ax)
    assert overlapping(text_boxes(figure_of(ax), end_labels(ax).texts)) == 0


def test_a_run_with_groups_has_a_ceiling_and_one_heatmap_for_all_trainings(result):
    stems = [stem for stem, _ in plots.figures(result)]
    heatmaps = ["cka", "cka_v0", "cka_d0", "cka_resnet"]
    assert [stem for stem in stems if stem.startswith("cka")] == heatmaps
    assert "ceiling" in stems
    assert "ceiling" not in [stem for stem, _ in plots.figures(synthetic_result({"a": 3, "b": 3}))]


def test_a_group_keeps_its_colour_and_its_trainings_have_it(result):
    every = data_lines(plots.curves(result))
    some = data_lines(plots.curves(result, models=["DeiT-S", "v0", "v1"]))
    assert len({line.get_color() for line in every}) == 3
    assert some[0].get_color() == every[1].get_color()
    assert {line.get_color() for line in some[1:]} == {every[0].get_color()}
    assert len({line.get_marker() for line in (every[0], *some[1:])}) == 3


def test_undefined_layers_of_trainings_are_drawn_as_gaps():
    result = synthetic_result(
        {"a": 4, "b": 4}, constant=[("b", 1)], batches=4, provenance={"groups": {"G": ["a", "b"]}}
    )
    for ax in (plots.ceiling(result), plots.curves(result)):
        figure_of(ax).draw_without_rendering()
        (line,) = data_lines(ax)
        assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [1]


def test_refusals(result):
    with pytest.raises(plots.NothingToDraw, match="name them with group="):
        plots.ceiling(synthetic_result({"a": 3}))
    with pytest.raises(ResultError, match="no group 'resnet'"):
        plots.ceiling(result, models=["resnet"])
    with pytest.raises(ResultError, match="'ViT-S' is a group"):
        plots.heatmap(result, "ViT-S")
