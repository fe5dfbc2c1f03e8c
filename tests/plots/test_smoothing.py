"""The figures of over-smoothing: what they show, and that they show it whatever the result."""

from dataclasses import replace

import numpy as np
import pytest

import refiner_cka as rc
from refiner_cka import plots
from refiner_cka.results.maps import TokenMaps
from tests.plots.drawn import bands, caption_of, corners, legend_of
from tests.synthetic import ATTENTION, TOKENS, synthetic_result, with_smoothing


@pytest.fixture
def result():
    return with_smoothing(synthetic_result({"vit_s": 12, "deit_s": 8}), refined=["deit_s"])


def panels(figure):
    return [ax for ax in figure.axes if ax.lines]


def test_a_panel_for_each_measure_with_a_line_for_each_model(result):
    shown = panels(plots.smoothing(result))
    assert len(shown) == len(TOKENS)
    for ax, measure in zip(shown, TOKENS, strict=True):
        assert ax.get_ylabel().replace("\n", " ") == measure.label
        drawn = {tuple(line.get_ydata()) for line in ax.lines}
        assert drawn == {
            tuple(result.smoothing(measure.name, model).values) for model in result.models
        }
        # Each line has one for each layer and a lighter one, below, for the whole curve.
        lighter, darker = bands(ax)[:2], bands(ax)[2:]
        for kind, drawn_bands in (("simultaneous", lighter), ("pointwise", darker)):
            for model, band in zip(result.models, drawn_bands, strict=True):
                expected = result.smoothing(measure.name, model, band=kind)
                assert corners(band) >= set(zip(expected.depth, expected.upper, strict=True))


def test_the_caption_says_which_band_is_which(result):
    for figure in (plots.smoothing(result), plots.attention(result)):
        assert caption_of(figure).endswith(
            "95 % bands, jackknife over 20 folds of images: dark for each layer, light for the whole curve"
        )


def test_arrows_point_to_smoother(result):
    arrows = {
        "higher": "\N{UPWARDS ARROW} smoother",
        "lower": "\N{DOWNWARDS ARROW} smoother",
        None: "",
    }
    for ax, measure in zip(panels(plots.smoothing(result)), TOKENS, strict=True):
        assert ax.get_title(loc="right") == arrows[measure.smoother]


def test_one_depth_axis_for_all(result):
    limits = {ax.get_xlim() for ax in panels(plots.smoothing(result))}
    assert len(limits) == 1


def test_rounding_is_not_magnified_to_a_finding():
    flat = with_smoothing(synthetic_result({"vit_s": 3}))
    sums = dict(flat.sums)
    images = sums["smoothing/patch_cosine/images"]
    sums["smoothing/patch_cosine/total"] = images * 0.5
    figure = plots.smoothing(replace(flat, sums=sums))
    ax = panels(figure)[[each.name for each in TOKENS].index("patch_cosine")]
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(0.1)


def test_refined_maps_are_lines_of_their_own_and_bring_row_sums(result):
    figure = plots.attention(result)
    assert len(panels(figure)) == len(ATTENTION)
    assert legend_of(figure) == ["vit_s", "deit_s", "deit_s (refined)"]
    sums = dict(result.sums)
    softmax = [block.tokens == "softmax" for block in result.attention]
    for name, value in (("attention_row_sum", 1.0), ("attention_negative", 0.0)):
        total, images = (sums[f"smoothing/{name}/{part}"].copy() for part in ("total", "images"))
        total[:, softmax] = value * images[:, softmax] * (1 + 1e-8)
        sums[f"smoothing/{name}/total"] = total
    real = replace(result, sums=sums)
    assert len(panels(plots.attention(real))) == len(ATTENTION)
    # A softmax's rows sum to 1 and hold nothing negative: no panels for that.
    assert len(panels(plots.attention(real, models=["vit_s"]))) == 3


def test_similarity_between_blocks_is_a_matrix(result):
    ax = plots.attention_blocks(result, "deit_s", maps="refined")
    drawn = ax.images[0].get_array()
    expected = result.smoothing("attention_block_similarity", "deit_s", maps="refined").values
    np.testing.assert_array_equal(drawn, expected)


def test_a_model_that_was_not_measured_leaves_the_others(result):
    sums = {name: value.copy() for name, value in result.sums.items()}
    for name in sums:
        if name.startswith("smoothing/token_norm/"):
            sums[name][:] = 0
    figure = plots.smoothing(replace(result, sums=sums))
    labels = [ax.get_ylabel() for ax in panels(figure)]
    assert len(labels) == len(TOKENS) - 1
    assert "Token norm" not in labels


def test_nothing_measured_is_refused():
    with pytest.raises(rc.ResultError, match="no over-smoothing measures to draw"):
        plots.smoothing(synthetic_result())
    with pytest.raises(rc.ResultError, match="no attention maps of vit_s to draw"):
        plots.attention(synthetic_result())


@pytest.mark.parametrize(
    ("models", "said"), [(["deit_s"], "no attention maps of deit_s"), (["vit_s", "x"], "model 'x'")]
)
def test_attention_that_was_not_measured_is_refused_by_name(result, models, said):
    axes = {**result.axes, "attention": [b for b in result.attention if b.model == "vit_s"]}
    others = tuple(each for each in result.quantities if "attention" not in each.axes)
    of_one = replace(result, axes=axes, quantities=others)
    with pytest.raises(rc.ResultError, match=said):
        plots.attention(of_one, models=models)


def test_a_run_draws_what_it_measured(result):
    stems = [stem for stem, _ in plots.figures(result)]
    assert stems[-5:] == [
        "smoothing",
        "attention",
        "attention_vit_s",
        "attention_deit_s",
        "attention_deit_s_refined",
    ]


def test_token_maps_show_the_image_and_the_cosines_on_one_scale():
    cosines = tuple(np.full((rows, rows), 0.5) for rows in (8, 4))
    maps = TokenMaps("vit", ("blocks.0", "blocks.1"), np.zeros((32, 32, 3)), (0.5, 0.25), cosines)
    figure = plots.token_maps(maps)
    image, *shown = [ax for ax in figure.axes if ax.images][:3]
    assert image.get_title() == "vit"
    for ax, values in zip(shown, cosines, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), values)
        assert ax.images[0].get_clim() == (0.0, 1.0)
        assert ax.get_title().endswith("mean 0.50")
    # The ring lies in the middle of the chosen patch of the first layer's grid.
    assert tuple(shown[0].lines[0].get_xydata()[0]) == (10.0, 18.0)


def test_few_images_are_counted_where_there_is_a_number(result):
    sums = {path: values.copy() for path, values in result.sums.items()}
    for part in ("total", "images"):
        values = sums[f"smoothing/effective_rank/{part}"]
        values *= np.arange(len(values))[:, None] < 2  # measured in two folds only
        values[:, 0] = sums["images"] if part == "images" else np.nan
    expected = result.images * 2 // len(sums["images"])
    said = caption_of(plots.smoothing(replace(result, sums=sums)))
    assert said.startswith("(a to c, e) 640 images; batches of 16; 95 % bands, jackknife")
    assert f"(d) {expected} images; batches of 16" in said
