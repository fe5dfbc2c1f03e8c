"""Saved figures: equal bytes, fonts of few letters, and what is done once that matplotlib does again and again."""

from __future__ import annotations

import io
import re
import threading
import time
import zlib

import matplotlib as mpl
import pytest
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from refiner_cka import plots
from refiner_cka.errors import ResultFileError
from refiner_cka.plots import fonts, measuring
from refiner_cka.plots.patching import replaced
from refiner_cka.plots.style import lay_out
from tests.synthetic import synthetic_result


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


def test_laying_out_gives_axes_the_places_that_drawing_gives_them():
    figure = plots.compare(synthetic_result(constant=[("vit_s", 2)]))
    lay_out(figure)
    laid_out = [ax.get_position().bounds for ax in figure.axes]
    figure.draw_without_rendering()
    assert [ax.get_position().bounds for ax in figure.axes] == laid_out


def test_embedded_fonts_hold_letters_but_nothing_that_arranges_them(tmp_path):
    before = subset.load_font
    pdf, _ = plots.save_figure(plots.compare(synthetic_result()), tmp_path / "fig")
    fonts = embedded_fonts(pdf.read_bytes())
    assert fonts
    for font in fonts:
        assert {"glyf", "head", "hmtx"} <= {*font.keys()}
        assert {"GSUB", "GPOS", "GDEF", "MATH", "kern"}.isdisjoint(font.keys())
    assert subset.load_font is before


def embedded_fonts(pdf):
    streams = re.findall(rb"/Length1 .*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return [TTFont(io.BytesIO(zlib.decompress(stream))) for stream in streams]


@pytest.mark.parametrize("layout", ["figure.autolayout", "figure.constrained_layout.use"])
def test_a_layout_that_settings_ask_for_moves_nothing(layout, tmp_path):
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    plain = plots.save_figures(result, tmp_path / "plain")
    with mpl.rc_context({layout: True}):
        other = plots.save_figures(result, tmp_path / "other")
    with plots.styled(settings={layout: True}):
        styled = plots.save_figures(result, tmp_path / "styled")
    for one, two, three in zip(plain, other, styled, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def letters(places):
    """Return a PDF with a text for each string."""
    figure = Figure()
    for row, text in enumerate(places):
        figure.text(0.1, 0.1 + 0.2 * row, text, fontfamily="DejaVu Sans")
    with mpl.rc_context({"pdf.fonttype": 42}):
        return plots.save(figure, "letters.pdf").read_bytes()


@pytest.mark.skipif(not fonts.by_number(), reason="whole fonts before matplotlib 3.11")
def test_fonts_of_few_letters_give_what_whole_ones_give(tmp_path, monkeypatch):
    """Ligatures, accents and other scripts, in whatever order figures come."""
    monkeypatch.chdir(tmp_path)
    texts = (["0.25"], ["Refiner", "office"], ["é λ Ж"], ["é"], ["Refiner"], ["$\\lambda = 1$"])
    monkeypatch.setattr(fonts, "_subset", lambda whole, file, wanted: whole(file, {*wanted}))
    expected = [letters(each) for each in texts]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fonts, "_few", {})
    for order in (range(len(texts)), reversed(range(len(texts)))):
        for number in order:
            assert letters(texts[number]) == expected[number]
    assert len(fonts._few) > 1


def test_a_letter_that_no_font_has_is_saved_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="missing from font"):
        assert letters(["\U000f0000"]).startswith(b"%PDF")


def counted(monkeypatch):
    """Count how often texts are measured."""
    measure, calls = Text._get_layout, []

    def counting(text, renderer):
        calls.append(text.get_text())
        return measure(text, renderer)

    monkeypatch.setattr(Text, "_get_layout", counting)
    return calls


def test_texts_that_look_the_same_are_measured_once(tmp_path, monkeypatch):
    result = synthetic_result({"vit_s": 12, "deit_s": 12})
    calls = counted(monkeypatch)
    counting = Text._get_layout
    once = plots.save_figures(result, tmp_path / "once")
    few = len(calls)
    monkeypatch.setattr(measuring, "_look", lambda text, renderer: object())
    always = plots.save_figures(result, tmp_path / "always")
    assert 4 * few < len(calls) - few
    for one, two in zip(once, always, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert Text._get_layout is counting


CHANGES = [
    {"text": "longer than it was"},
    {"fontsize": 20},
    {"fontweight": "bold"},
    {"rotation": 90},
    {"ha": "right"},
    {"va": "top"},
    {"multialignment": "right"},
    {"rotation": 30, "rotation_mode": "anchor"},
    {"linespacing": 3.0},
    {"parse_math": False},
    {"text": "a figure's width " * 30, "wrap": True},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_a_text_that_looks_otherwise_is_measured_again(change):
    figure = Figure()
    text = figure.text(0.5, 0.5, "two lines\nof $x$")

    def measured(dpi=100):
        figure.set_dpi(dpi)
        renderer = FigureCanvasAgg(figure).get_renderer()
        extent = text.get_window_extent(renderer)
        box, *lines = text._get_layout(renderer)
        return extent.bounds, box.bounds, lines

    with measuring.once():
        before = measured()
        text.set(**change)
        within = measured(), measured(250)
    assert before != within[0]
    assert within == (measured(), measured(250))


def test_a_matplotlib_that_keeps_texts_otherwise_is_let_be(monkeypatch):
    monkeypatch.setattr(measuring, "_PRIVATE", ("_get_layout", "_no_such"))
    before = Text._get_layout
    with measuring.once():
        assert Text._get_layout is before


def test_a_text_of_another_thread_is_not_measured_with_these_settings():
    before, within, seen = Text._get_layout, threading.Event(), []

    def measuring_too():
        with measuring.once():
            seen.append(within.is_set())

    thread = threading.Thread(target=measuring_too)
    with measuring.once(), measuring.once():
        thread.start()
        time.sleep(0.2)
        within.set()
    thread.join()
    assert seen == [True]
    assert Text._get_layout is before


def test_another_thread_waits_to_replace_what_is_replaced():
    class Others:
        answer = 1

    done = threading.Event()

    def replacing():
        with replaced(Others, "answer", 3):
            pass
        done.set()

    thread = threading.Thread(target=replacing)
    with replaced(Others, "answer", 2):
        thread.start()
        assert not done.wait(0.2)
        assert Others.answer == 2
    assert done.wait(60.0)
    thread.join()
    assert Others.answer == 1
