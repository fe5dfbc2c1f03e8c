"""Heatmaps: the matrix, where its layers lie, and labels that can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from refiner_cka import plots
from refiner_cka.plots.heatmaps import common_path, thinned
from tests.plots.drawn import LEAVES, RESNET, figure_of, overlapping
from tests.synthetic import synthetic_result


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
