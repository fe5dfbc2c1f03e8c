"""Names at the ends of lines: whole, in order, and never on one another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from refiner_cka import plots
from refiner_cka.plots.labels import spread
from refiner_cka.plots.style import shortened
from tests.plots.drawn import end_labels, figure_of, overlapping, text_boxes
from tests.synthetic import synthetic_result


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


def test_names_move_as_little_as_can_be():
    """By least squares under their order, which SciPy solves by pooling neighbours."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        wanted = np.sort(rng.uniform(0, 10, count))
        rank = 0.9 * np.arange(count)
        expected = optimize.isotonic_regression(wanted - rank).x + rank
        np.testing.assert_allclose(spread(wanted, 0.9, -100.0, 100.0), expected, atol=1e-12)


def test_long_names_are_shortened_and_stay_different():
    names = [f"vit_small_patch16_224.augreg_in21k_ft_in1k=epoch{i:02d}" for i in range(10)]
    short = shortened(names, 18)
    assert all(len(name) <= 18 for name in short)
    assert len(set(short)) == 10
    same_ends = ["a" * 30 + middle + "b" * 30 for middle in "xyz"]
    assert len(set(shortened(same_ends, 10))) == 3
    assert shortened(["short"], 10) == ["short"]


def test_constant_last_layer_leaves_a_name_without_a_line():
    """The whole curve is NaN: there is no end to write the name at, and it is still named."""
    result = synthetic_result({"vit_s": 12, "deit_s": 12}, constant=[("deit_s", 11)])
    ax = plots.curves(result)
    figure_of(ax).draw_without_rendering()
    assert {text.get_text() for text in end_labels(ax).texts} == {"vit_s", "deit_s (undefined)"}
    assert ax.get_title(loc="left") == ""
