"""Heatmaps: the matrix, where its layers lie, and labels that can be read."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from refiner_cka import plots
from refiner_cka.plots.heatmaps import common_path, thinned
from refiner_cka.plots.style import lay_out
from tests.plots.drawn import LEAVES, RESNET, caption_of, figure_of, overlapping
from tests.synthetic import synthetic_result, with_index


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
    assert [tick.get_text() for tick in ax.get_yticklabels(minor=True)] == ["vit_s", "resnet50"]
    numbers = [int(tick.get_text()) for tick in ax.get_yticklabels()]
    assert numbers[0] == 0
    again = numbers.index(0, 1)
    assert list(ax.get_yticks()) == [*numbers[:again], *(12 + each for each in numbers[again:])]
    assert len(numbers) >= 6
    assert [
        line.get_ydata()[0] for line in ax.lines if line.get_xdata()[0] != line.get_xdata()[1]
    ] == [11.5]


@pytest.mark.parametrize("layers", [12, 24])
def test_six_models_with_long_names_have_more_numbers_than_the_first_and_none_cover_another(layers):
    names = [f"vit_small_patch16_224.recipe_{number}_in21k" for number in range(6)]
    ax = plots.heatmap(synthetic_result(dict.fromkeys(names, layers), batches=4))
    figure_of(ax).draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        labels = axis.get_majorticklabels()
        of_each = Counter(int(place) // layers for place in axis.get_majorticklocs())
        assert [of_each[number] >= 2 for number in range(6)] == [True] * 6
        told = [int(label.get_text()) for label in labels]
        assert told == [int(place) % layers for place in axis.get_majorticklocs()]
        boxes = [label.get_window_extent() for label in (*labels, *axis.get_minorticklabels())]
        assert not overlapping(boxes)


@pytest.fixture(scope="module")
def few():
    """So few images that a first layer of its own is within chance of all others."""
    models = {"vit_s": 6, "deit_s": 4}
    return synthetic_result(models, batches=2, references=["labels"], unresolved=["vit_s"])


@pytest.mark.parametrize("shown", [("vit_s",), ("vit_s", "deit_s"), ()])
def test_dots_mark_pairs_within_chance(few, shown):
    ax = plots.heatmap(few, *shown)
    within = few.p_values(*shown, tokens="all") >= 0.05
    assert 0 < within.sum() < within.size
    (dots,) = ax.collections
    assert {tuple(dot) for dot in dots.get_offsets()} == {
        (column, row) for row, column in np.argwhere(within)
    }
    assert "dots: within chance" in caption_of(ax)
    figure_of(ax).draw_without_rendering()
    cell = ax.bbox.height / within.shape[0] / figure_of(ax).dpi * 72
    assert np.sqrt(dots.get_sizes()[0]) < 0.6 * cell


def test_no_dots_where_all_pairs_are_above_chance_or_undefined():
    ax = plots.heatmap(synthetic_result(constant=[("vit_s", 3)]), "vit_s")
    assert not ax.collections
    assert caption_of(ax).endswith(" hatched: undefined")


def test_approximate_chance_is_said_where_it_decides(few):
    def said(fourth):
        rough = replace(few, sums={**few.sums, "similarity/cka/fourth": fourth})
        return caption_of(plots.heatmap(rough, "vit_s"))

    fourth = np.zeros_like(few.sums["similarity/cka/fourth"])
    assert said(fourth).endswith("dots: within chance")
    clear, within = np.argwhere(few.p_values(tokens="all")[:6, :6] >= 0.05)[0], (4, 5)
    for pair, expected in ((clear, True), (within, False)):
        one = fourth.copy()
        one[tuple(pair)] = one[tuple(pair[::-1])] = few.sums["similarity/cka/variance"].max() ** 2
        assert ("(approximate)" in said(one)) == expected


def test_values_clearly_below_0_have_a_scale_in_two_colours(few):
    least = few.cka("vit_s").min()
    assert least < -0.05
    ax = plots.heatmap(few, "vit_s")
    assert ax.images[0].get_clim() == (-1.0, 1.0)
    white = ax.images[0].cmap(ax.images[0].norm(0.0))
    np.testing.assert_allclose(white[:3], 0.97, atol=0.01)
    positive = plots.heatmap(few, "vit_s", vmin=0)
    assert positive.images[0].get_clim() == (0.0, 1.0)
    assert positive.images[0].colorbar.extend == "min"
    # Unrelated images lie on both sides of 0, which says nothing.
    within = plots.heatmap(synthetic_result({"a": 3}), "a")
    assert within.images[0].colorbar.extend == "neither"
    assert within.images[0].get_clim() == (0.0, 1.0)


def test_what_layers_share_beyond_a_reference():
    result = synthetic_result({"vit_s": 6, "deit_s": 4}, references=["labels", "pixels"])
    for shown in (("vit_s",), ("vit_s", "deit_s")):
        ax = plots.heatmap(result, *shown, given="pixels")
        expected = result.partial(*shown, given="pixels").values
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
        assert ax.images[0].colorbar.ax.get_ylabel() == "Partial CKA given pixels"
        assert not ax.collections


def test_references_are_no_rows_of_a_heatmap_but_may_be_asked_for():
    result = synthetic_result({"vit_s": 6, "deit_s": 4}, references=["labels"])
    assert plots.heatmap(result).images[0].get_array().shape == (10, 10)
    ax = plots.heatmap(result, "vit_s", "labels")
    np.testing.assert_array_equal(ax.images[0].get_array(), result.cka("vit_s", "labels"))
    assert ax.get_xlabel() == "labels"


def test_another_index_names_the_colours():
    result = with_index(
        synthetic_result({"a": 3}), "rsa", "RSA", synthetic_result({"a": 3}, seed=1)
    )
    ax = plots.heatmap(result, "a", index="rsa")
    np.testing.assert_array_equal(ax.images[0].get_array(), result.similarity("rsa", "a").values)
    assert ax.images[0].colorbar.ax.get_ylabel() == "RSA"


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


@pytest.mark.parametrize("panels", [1, 4])
def test_a_figure_of_heatmaps_is_as_high_as_what_is_in_it(panels):
    """What is left at the top and the right is what the layout leaves around all, 0.03 inches, within 0.01."""
    result = synthetic_result({f"vit_{number}": 12 for number in range(panels)})
    figure = plots.compose(result, [plots.Panel("heatmap", of=[name]) for name in result.models])
    lay_out(figure)
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    width, height = figure.get_size_inches() * figure.dpi
    gaps = height - max(box.y1 for box in boxes), width - max(box.x1 for box in boxes)
    np.testing.assert_allclose(np.array(gaps) / figure.dpi, 0.03, atol=0.01)


def test_a_matrix_as_wide_as_its_figure_is_where_laying_it_out_would_put_it(diverse):
    sides = [[], *([name] for name in diverse.models), *itertools.permutations(diverse.models, 2)]
    figures = [plots.compose(diverse, [plots.Panel("heatmap", of=[*names])]) for names in sides]
    placed = [figure for figure in figures if figure.placed]
    assert len(placed) > 8
    for figure in placed:
        before = figure.get_tightbbox().bounds, [ax.get_position().bounds for ax in figure.axes]
        lay_out(figure)
        after = figure.get_tightbbox().bounds, [ax.get_position().bounds for ax in figure.axes]
        np.testing.assert_allclose(before[0], after[0], atol=1e-3)
        np.testing.assert_allclose(before[1], after[1], atol=1e-3)
