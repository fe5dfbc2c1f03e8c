"""The figures of a run: all of them, by name, saved, and nothing outside touched."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from refiner_cka import plots
from refiner_cka.errors import ResultError, ResultFileError
from refiner_cka.plots import Case, drawing
from tests.plots.drawn import LEAVES, RESNET, figure_of
from tests.synthetic import synthetic_result, with_index


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
    assert stems[:3] == ["curves", "cka", "cka_vit_s"]
    assert len(stems) == 1 + 1 + 6
    assert len({stem.casefold() for stem in stems}) == len(stems)
    assert all(stem.replace("-", "").isidentifier() for stem in stems)


def test_several_readouts_are_named_in_the_stems():
    result = synthetic_result({"vit_s": 3, "deit_s": 3}, tokens=["all", "cls"], batches=5)
    stems = [stem for stem, _ in plots.figures(result)]
    heatmaps = ["cka", "cka_vit_s", "cka_deit_s"]
    assert stems == ["curves_all", "curves_cls"] + [
        f"{stem}_{tokens}" for tokens in ("all", "cls") for stem in heatmaps
    ]
    cls = plots.heatmap(result, "vit_s", tokens="cls").images[0].get_array()
    np.testing.assert_array_equal(cls, result.cka("vit_s", tokens="cls"))


def test_each_index_has_figures_of_its_own():
    models = {"vit_s": 3, "deit_s": 3}
    result, other = (
        synthetic_result(models, batches=5, references=["labels"], seed=seed) for seed in (0, 1)
    )
    both = with_index(result, "knn", "10-NN overlap (batches of 16)", other)
    drawn = dict(plots.figures(both))
    heatmaps = ["cka", "cka_vit_s", "cka_deit_s", "knn", "knn_vit_s", "knn_deit_s"]
    assert list(drawn) == ["curves", "curves_knn", *heatmaps, "against", "against_knn"]
    image = drawn["knn_vit_s"].axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), other.cka("vit_s"))


@pytest.mark.parametrize("batches", [1, 40])
def test_nothing_is_cut_at_the_edge_of_a_figure(batches):
    """One column is narrow: long names, formulas, captions and labels of layers."""
    names = {"vit_small_patch16_224.augreg_in21k": LEAVES, "resnet50": RESNET, "vit_s": 12}
    result = synthetic_result(
        names, batches=batches, references=["labels", "pixels"], constant=[("vit_s", 3)]
    )
    result = with_index(result, "knn", "10-NN overlap (batches of 16)", result)
    first, _, last = names
    figures = [
        *(figure for _, figure in plots.figures(result)),
        *(figure_of(plots.curves(result, index=index)) for index in result.indices),
        figure_of(plots.curves(result, normalize="none")),
        figure_of(plots.contrast(result, first, last, index="knn")),
        figure_of(plots.heatmap(result)),
        figure_of(plots.heatmap(result, last, given="labels")),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        ink = figure.get_tightbbox()
        # The lower and left edges of text boxes hold no ink: a hundredth of an inch is no cut.
        assert min(ink.x0, ink.y0, width - ink.x1, height - ink.y1) > -0.01


def test_no_models_to_draw_is_refused():
    with pytest.raises(ResultError, match="no model to draw"):
        plots.curves(synthetic_result(), models=[])


MANY = {"vit_s": 3, "deit_s": 3, "resnet50": 3, "vit_b": 3}


def test_several_processes_save_the_same_files_as_one(tmp_path):
    result = synthetic_result(MANY, batches=5)
    alone = plots.save_figures(result, tmp_path / "alone")
    together = plots.save_figures(result, tmp_path / "together", processes=2)
    assert [path.name for path in alone] == [path.name for path in together]
    assert [path.stem for path in alone[::2]] == [stem for stem, _ in plots.figures(result)]
    for one, other in zip(alone, together, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert multiprocessing.active_children() == []


def cases(panels):
    return [Case(str(number), [None] * count) for number, count in enumerate(panels)]


def test_figures_go_to_whichever_process_asks_the_longest_first():
    with drawing._dealt(cases([1, 2, 1, 5, 1])) as deal:
        first = next(deal)
        with drawing._helped(lambda share: {case.stem: () for case in share}, deal) as answer:
            assert (first.stem, [*answer()]) == ("3", ["1", "0", "2", "4"])
        assert [*deal] == []
    with drawing._dealt([]) as deal:
        assert [*deal] == []


def test_a_process_is_started_where_there_is_enough_to_draw():
    many = cases([1, 2, 1, 1, 5, 1, 1, 1])
    assert [drawing._helpful(many, most) for most in (1, 2, 64)] == [1, 2, 4]
    assert drawing._helpful(many[:3], 64) == drawing._helpful([], 2) == 1


def acting(monkeypatch, *, here=lambda: None, elsewhere):
    """Have this process, and others that save figures, act before they save one."""
    this, save = os.getpid(), drawing.save_figure

    def save_figure(*arguments):
        (here if os.getpid() == this else elsewhere)()
        return save(*arguments)

    monkeypatch.setattr(drawing, "save_figure", save_figure)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory():
    raise MemoryError


def hung():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


@pytest.mark.parametrize("act", [killed, out_of_memory, hung])
def test_what_another_process_could_not_save_is_saved_here(act, tmp_path, monkeypatch):
    result = synthetic_result(MANY, batches=5)
    acting(monkeypatch, elsewhere=act)
    monkeypatch.setattr(drawing, "PATIENCE", 1.0 if act is hung else 60.0)
    saved = plots.save_figures(result, tmp_path, processes=2)
    assert [path.stem for path in saved[::2]] == [stem for stem, _ in plots.figures(result)]
    assert {path.name for path in saved} == {path.name for path in tmp_path.iterdir()}
    assert multiprocessing.active_children() == []


def test_where_no_process_can_be_started_all_is_saved_here(tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", full)
    result = synthetic_result(MANY, batches=5)
    saved = plots.save_figures(result, tmp_path, processes=2)
    assert [path.stem for path in saved[::2]] == [stem for stem, _ in plots.figures(result)]


def test_a_figure_that_cannot_be_written_is_refused_whoever_draws_it(tmp_path):
    result = synthetic_result(MANY, batches=5)
    for stem, _ in plots.figures(result):
        (tmp_path / stem / f"{stem}.pdf").mkdir(parents=True)
        with pytest.raises(ResultFileError, match=f"{stem}.pdf is a folder"):
            plots.save_figures(result, tmp_path / stem, processes=2)


@pytest.mark.parametrize("act", [lambda: time.sleep(600), hung])
def test_an_interrupt_ends_the_other_processes(act, tmp_path, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    acting(monkeypatch, here=interrupted, elsewhere=act)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        plots.save_figures(synthetic_result(MANY, batches=5), tmp_path, processes=2)
    assert time.monotonic() - began < 60
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []
