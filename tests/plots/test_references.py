"""Similarity to the labels and the pixels over depth."""

from __future__ import annotations

import numpy as np
import pytest

from refiner_cka import plots
from refiner_cka.errors import ResultError
from tests.plots.drawn import bands, caption_of, corners, data_lines, end_labels
from tests.synthetic import synthetic_result

MODELS = {"vit_s": 6, "deit_s": 4}


def test_a_panel_for_each_reference_with_a_line_and_band_for_each_model():
    result = synthetic_result(MODELS, references=["labels", "pixels"], batches=1)
    figure = plots.against(result)
    for ax, reference in zip(figure.axes, result.references, strict=True):
        assert ax.get_ylabel() == f"CKA($l$, {reference})"
        _, *drawn = bands(ax)
        for number, (model, line) in enumerate(zip(MODELS, data_lines(ax), strict=True)):
            expected = result.similarity("cka", model, reference)
            np.testing.assert_array_equal(line.get_ydata(), expected.values[:, 0])
            np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, MODELS[model]))
            # The bands for each layer lie on those for the whole curves.
            for place, kind in ((number, "simultaneous"), (number + len(MODELS), "pointwise")):
                ends = result.against(model, reference, band=kind)
                assert corners(drawn[place]) >= set(zip(ends.depth, ends.upper, strict=True))
        chance = [result.null(model, reference).quantile(0.975).max() for model in MODELS]
        assert max(value for _, value in corners(bands(ax)[0])) == max(chance)
    said = caption_of(figure)
    assert said.startswith(
        "16 images; CKA batches of 16; 95 % bands, jackknife over 16 folds of images: dark for each layer, "
        "light for the whole curve (a) grey: "
    )
    assert said.endswith("(b) grey: where unrelated images lie (95 %)")
    assert [text.get_text() for text in end_labels(figure.axes[1]).texts]


def test_as_many_panels_as_references():
    names = ["labels", "pixels", "views"]
    for count in (1, 3):
        figure = plots.against(synthetic_result({"a": 3}, references=names[:count], batches=5))
        figure.draw_without_rendering()
        shown = [ax for ax in figure.axes if ax.axison]
        assert [ax.get_ylabel() for ax in shown] == [f"CKA($l$, {name})" for name in names[:count]]
        assert figure.get_figwidth() == {1: 3.25, 3: 6.75}[count]


def test_a_group_is_the_mean_over_its_trainings():
    groups = {"batch_size": 16, "groups": {"ViT": ["v0", "v1"]}}
    result = synthetic_result(
        {"v0": 4, "v1": 4, "deit": 5}, references=["labels"], batches=10, provenance=groups
    )
    figure = plots.against(result)
    (ax,) = figure.axes
    each = np.stack([result.cka(model, "labels")[:, 0] for model in ("v0", "v1")])
    group, single = data_lines(ax)
    np.testing.assert_allclose(group.get_ydata(), each.mean(0), rtol=1e-14)
    np.testing.assert_array_equal(single.get_ydata(), result.cka("deit", "labels")[:, 0])
    thin = [line.get_ydata() for line in ax.lines if line.get_marker() == "None"]
    np.testing.assert_array_equal(thin, each)
    spread = each.mean(0) + each.std(0, ddof=1)
    outline = next(band for band in bands(ax) if band.get_linewidth()[0] > 0)
    assert max(value for _, value in corners(outline)) == pytest.approx(spread.max(), rel=1e-14)
    said = caption_of(figure)
    assert "95 % bands, jackknife over 20 folds of images: dark for each layer" in said
    assert "outlined: SD over 2 trainings" in caption_of(figure)


def test_a_reference_is_no_model_with_a_curve():
    result = synthetic_result(MODELS, references=["labels"], batches=5)
    for draw in (plots.curves, plots.compare, plots.against):
        with pytest.raises(ResultError, match="'labels' is no model but a reference"):
            draw(result, models=["vit_s", "labels"])
