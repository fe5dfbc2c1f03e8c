"""Figures put together of files, models and panels: what is asked for is what is drawn, or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from refiner_cka import plots
from refiner_cka.errors import ResultError
from refiner_cka.plots import Model, Panel
from refiner_cka.plots.captions import lettered
from refiner_cka.plots.layout import shape
from tests.plots.drawn import (
    bands,
    caption_of,
    corners,
    data_lines,
    end_labels,
    figure_of,
    legend_of,
    overlapping,
)
from tests.plots.test_style import states
from tests.synthetic import synthetic_result, with_index, with_smoothing

MODELS = {"vit_s": 6, "deit_s": 6, "resnet50": 8}


@pytest.fixture(scope="module")
def run():
    return with_smoothing(
        synthetic_result(MODELS, batches=10, references=["labels"]), refined=["deit_s"]
    )


@pytest.fixture(scope="module")
def other():
    """Other images, and one model alone in both."""
    return with_smoothing(synthetic_result({"vit_s": 6, "mine": 4}, batches=4, seed=1))


@pytest.fixture(scope="module")
def files(run, other):
    return {"a": run, "b": other}


def composed(results, *texts, models=(), **style):
    """A figure of panels and models as they are written on the command line."""
    with plots.styled(style.pop("style", "column"), style):
        chosen = plots.read_models(results, models) if models else None
        figure = plots.compose(results, [Panel.parse(text) for text in texts], models=chosen)
    figure.draw_without_rendering()
    return figure


def panels_of(figure):
    return [ax for ax in figure.axes if ax.lines or ax.images]


def names_of(ax):
    return [text.get_text() for text in end_labels(ax).texts]


def test_two_curves_with_letters_and_a_line_at_1(run):
    figure = composed(run, "curve", "curve,normalize=first-last")
    raw, ratio = panels_of(figure)
    for ax, normalize in ((raw, "none"), (ratio, "first-last")):
        for line, model in zip(data_lines(ax), MODELS, strict=True):
            expected = run.curve(model, normalize=normalize).values
            np.testing.assert_array_equal(line.get_ydata(), expected)
    assert [ax.texts[0].get_text() for ax in (raw, ratio)] == ["a", "b"]
    at_one = [line for line in ratio.lines if line.get_marker() == "None"]
    assert [list(line.get_ydata()) for line in at_one] == [[1.0, 1.0]]
    assert figure.get_figwidth() == 3.25
    # One above the other: depth is named once.
    assert (raw.get_xlabel(), ratio.get_xlabel()) == ("", "Relative depth (first to last layer)")


def test_two_files_with_a_label_and_a_colour(files):
    figure = composed(
        files, "curve,file=a", "curve,file=b", models=["vit_s,label=Ours $x_,color=C3"]
    )
    for ax, (name, result) in zip(panels_of(figure), files.items(), strict=True):
        (line,) = data_lines(ax)
        expected = result.curve("vit_s", normalize="none").values
        np.testing.assert_array_equal(line.get_ydata(), expected)
        assert to_hex(line.get_color()) == plots.style.COLOURS[3]
        assert names_of(ax) == ["Ours $x_"]
        assert ax.get_title() == name
    assert "(a) 160 images" in caption_of(figure)
    assert "(b) 64 images" in caption_of(figure)


def test_models_of_one_label_are_told_apart(run, files):
    alike = ["vit_s,label=X", "deit_s,label=X", "resnet50"]
    (ax,) = panels_of(composed(run, "curve", models=alike))
    assert sorted(names_of(ax)) == ["X (deit_s)", "X (vit_s)", "resnet50"]
    (ax,) = panels_of(composed(files, "curve", models=alike))
    told = ["X (b)", "X (deit_s, a)", "X (vit_s, a)", "resnet50"]
    assert sorted(names_of(ax)) == told


def test_all_files_together_unless_a_panel_names_one(files):
    (ax,) = panels_of(composed(files, "curve"))
    assert sorted(names_of(ax)) == ["deit_s", "mine", "resnet50", "vit_s (a)", "vit_s (b)"]
    first, *_, again, mine = data_lines(ax)
    np.testing.assert_array_equal(
        again.get_ydata(), files["b"].curve("vit_s", normalize="none").values
    )
    # One model, one colour; another file, another marker.
    assert again.get_color() == first.get_color() != mine.get_color()
    assert again.get_marker() != first.get_marker()
    assert "a: 160 images" in caption_of(figure_of(ax))


def test_models_are_shown_in_the_order_asked_for(run):
    figure = composed(run, "curve", "heatmap", models=["resnet50,label=R50", "vit_s"], style="text")
    curve, heatmap, *_ = panels_of(figure)
    assert sorted(names_of(curve)) == ["R50", "vit_s"]
    everywhere = data_lines(plots.curves(run))
    assert [line.get_color() for line in data_lines(curve)] == [
        everywhere[2].get_color(),
        everywhere[0].get_color(),
    ]
    order = [*run.rows("resnet50"), *run.rows("vit_s")]
    expected = run.cka()[np.ix_(order, order)]
    np.testing.assert_array_equal(heatmap.images[0].get_array(), expected)
    assert [tick.get_text() for tick in heatmap.get_xticklabels(minor=True)] == ["R50", "vit_s"]


def test_a_heatmap_of_two_on_a_scale_of_ones_own(run):
    figure = composed(
        run, "heatmap,of=vit_s:resnet50,vmin=0.2,vmax=.9", **{"image.cmap": "viridis"}
    )
    ax = panels_of(figure)[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), run.cka("vit_s", "resnet50"))
    assert ax.images[0].get_clim() == (0.2, 0.9)
    assert ax.images[0].get_cmap().name == "viridis"
    shown = ax.images[0].colorbar.get_ticks()
    assert len([tick for tick in shown if 0.2 <= tick <= 0.9]) > 3


def test_a_contrast_with_the_band_of_the_whole_curve(run):
    figure = composed(run, "contrast,of=vit_s:deit_s,band=simultaneous,ylim=-.2:.2")
    (ax,) = panels_of(figure)
    assert ax.get_ylim() == (-0.2, 0.2)
    (band,) = bands(ax)
    expected = run.contrast("vit_s", "deit_s", band="simultaneous")
    assert corners(band) >= set(zip(expected.depth, expected.upper, strict=True))
    assert "95 % bands for the whole curve, jackknife" in caption_of(figure)


@pytest.mark.parametrize(
    ("band", "count", "said"),
    [("both", 2, "dark for each"), ("pointwise", 1, "bands for each layer"), ("none", 0, "")],
)
def test_bands_are_those_asked_for(run, band, count, said):
    figure = composed(run, f"curve,of=vit_s,normalize=first-last,band={band}")
    assert len(bands(panels_of(figure)[0])) == count
    assert said in caption_of(figure)
    assert ("bands" in caption_of(figure)) == bool(count)


def test_measures_side_by_side_name_their_lines_once(run):
    figure = composed(
        run, "measure,of=patch_cosine", "measure,of=effective_rank,x=block", style="text"
    )
    one, two = panels_of(figure)
    for model, line in zip(MODELS, data_lines(one), strict=True):
        expected = run.smoothing("patch_cosine", model).values
        np.testing.assert_array_equal(line.get_ydata(), expected)
    assert [list(line.get_xdata()) for line in data_lines(two)] == [
        list(range(layers)) for layers in MODELS.values()
    ]
    assert [len(ax.findobj(plots.labels.EndLabels)) for ax in (one, two)] == [0, 1]
    assert figure.get_figwidth() == 6.75
    maps = composed(run, "measure,of=attention_entropy,title=Entropy $H$")
    assert sorted(names_of(panels_of(maps)[0])) == [
        *("deit_s", "deit_s (refined)", "resnet50", "vit_s"),
    ]


def test_other_kinds_of_panels(run):
    figure = composed(
        run, "blocks,of=deit_s,maps=refined", "against,of=labels", "heatmap,of=vit_s,given=labels"
    )
    blocks, against, heatmap = panels_of(figure)[:3]
    expected = run.smoothing("attention_block_similarity", "deit_s", maps="refined").values
    np.testing.assert_array_equal(blocks.images[0].get_array(), expected)
    np.testing.assert_array_equal(
        data_lines(against)[0].get_ydata(), run.cka("vit_s", "labels")[:, 0]
    )
    np.testing.assert_array_equal(
        heatmap.images[0].get_array(), run.partial("vit_s", given="labels").values
    )


def test_a_trajectory_has_a_colour_bar_in_the_order_of_time():
    provenance = states("run/epoch4.pth", "run/epoch0.pth", "run/epoch10.pth")
    names = [model["name"] for model in provenance["models"]]
    result = with_smoothing(synthetic_result(dict.fromkeys(names, 3), provenance=provenance))
    for figure in (plots.compare(result), plots.smoothing(result)):
        figure.draw_without_rendering()
        bar = figure.axes[-1]
        assert bar.get_ylabel() == "vit_nano: epoch"
        assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "4", "10"]
        assert not any(labels.texts for labels in figure.findobj(plots.labels.EndLabels))
        colours = [to_hex(colour) for colour in bar.collections[-1].get_cmap().colors]
        drawn = {
            line.get_ydata()[0]: to_hex(line.get_color()) for line in data_lines(figure.axes[0])
        }
        assert set(drawn.values()) == set(colours)
    by_epoch = {
        name: to_hex(line.get_color())
        for name, line in zip(names, data_lines(figure.axes[0]), strict=True)
    }
    assert colours == [by_epoch[names[place]] for place in (1, 0, 2)]


@pytest.mark.parametrize("style", ["column", "text", "talk"])
def test_nothing_overlaps_or_is_cut_also_with_plain_savefig(style, files, tmp_path):
    names = ["vit_s,label=A long name of ours", "deit_s", "resnet50"]
    asked = (
        ["curve", "curve,normalize=first-last"],
        ["curve", "heatmap,of=vit_s:resnet50", "measure,of=token_norm", "contrast,of=vit_s:deit_s"],
        ["heatmap"],
    )
    for number, texts in enumerate(asked):
        figure = composed(files["a"], *texts, models=names, style=style)
        # Drawn by whoever saves it, with matplotlib's own settings.
        figure.savefig(tmp_path / f"{number}.svg")
        width, height = figure.get_size_inches()
        assert width == plots.STYLES[style][0]
        ink = figure.get_tightbbox()
        assert min(ink.x0, ink.y0, width - ink.x1, height - ink.y1) > -0.01
        shown = [ax for ax in panels_of(figure) if ax.axison]
        with plots.styled(style):
            boxes = [ax.get_tightbbox() for ax in shown]
        assert overlapping([box for box in boxes if box is not None]) == 0
        svg = (tmp_path / f"{number}.svg").read_text()
        assert "<text" in svg
        assert "A long name" in svg or "A long" in svg


def test_no_blank_above_or_below_a_heatmap():
    wide = synthetic_result({"few": 4, "many": 16}, batches=3)
    figure = figure_of(plots.heatmap(wide, "few", "many"))
    figure.draw_without_rendering()
    ax = figure.axes[0]
    width, height = figure.get_size_inches()
    assert height < 0.75 * width
    assert height - ax.get_tightbbox().y1 / figure.dpi < 0.12


def test_five_models_have_a_whole_legend():
    names = {f"a_rather_long_name_of_model_{number}": 3 for number in range(5)}
    result = with_smoothing(synthetic_result(names, batches=3))
    figure = plots.compose(
        result,
        [Panel("measure", of=name) for name in ("patch_cosine", "token_norm", "rank_collapse")],
        width=6.75,
    )
    figure.draw_without_rendering()
    assert len(legend_of(figure)) == 5
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_panels_fill_their_grid():
    with plots.styled("text"):
        assert [shape(count, 6.75) for count in (1, 2, 3, 4, 5, 6, 7)] == [
            *((1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (2, 3), (3, 3)),
        ]
        assert shape(4, 3.25) == (4, 1)


def test_what_all_panels_say_is_said_once():
    said = [["x", "p"], ["x"], ["x", "p"], ["x", "p", "q"]]
    assert lettered(said, "abcd") == ["x", "(a, c, d) p", "(d) q"]
    assert lettered([["p"], ["p"], ["p"], []], "abcd") == ["(a to c) p"]
    assert lettered([["p", "", "q"]], "") == ["p", "q"]


def test_a_style_of_ones_own(run, tmp_path):
    style = tmp_path / "own.mplstyle"
    style.write_text(
        "# mine\nfigure.figsize: 4, 2.5  # in\nfont.size: 10\naxes.prop_cycle: cycler('color', ['#ff0000', 'b'])\n"
    )
    figure = composed(run, "curve,band=none", style=style, **{"lines.linewidth": "3"})
    assert tuple(figure.get_size_inches()) == (4.0, 2.5)
    lines = data_lines(panels_of(figure)[0])
    assert [to_hex(line.get_color()) for line in lines[:2]] == ["#ff0000", "#0000ff"]
    assert {line.get_linewidth() for line in lines} == {3.0}
    assert panels_of(figure)[0].yaxis.label.get_fontsize() == 10
    assert mpl.rcParams["lines.linewidth"] != 3.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image.cmapp": "magma"}, "no setting 'image.cmapp': did you mean image.cmap"),
        ({"lines.linewidth": "thick"}, "the setting lines.linewidth: "),
        ({"image.cmap": "magmaa"}, "the setting image.cmap: "),
        ({"text.usetex": "true"}, "text.usetex is none of a figure's look"),
        (
            {"axes.prop_cycle": "cycler('color', [__import__('os')])"},
            "the setting axes.prop_cycle: ",
        ),
        ({"font.family": "Helvetika Nowhere"}, "no font 'Helvetika Nowhere' here: "),
        ({"figure.dpi": "0"}, "the setting figure.dpi: give a positive number"),
        ({"style": "colum"}, "no style 'colum': did you mean column"),
        ({"style": "none.mplstyle"}, "cannot read the style none.mplstyle: No such file"),
    ],
)
def test_settings_are_refused_in_one_line(run, settings, told):
    with pytest.raises(ResultError, match=re.escape(told)) as caught:
        composed(run, "curve", **settings)
    assert "\n" not in str(caught.value)


def test_of_several_fonts_those_that_are_there_are_used(run, caplog):
    figure = composed(run, "curve", **{"font.family": "No Such Font, DejaVu Sans"})
    figure.draw_without_rendering()
    assert panels_of(figure)[0].yaxis.label.get_fontfamily() == ["DejaVu Sans"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pie", "no panel 'pie': choose among curve, contrast"),
        ("curv", "did you mean curve?"),
        ("contrast,of=vit_s", "the panel contrast is of 2 names, not 1"),
        ("heatmap,of=vit_s:vit_s:vit_s", "of 0 to 2 names, not 3"),
        (
            "heatmap,normalize=none",
            "'normalize' means nothing for the panel heatmap, which takes of, file, tokens",
        ),
        ("measure,of=patch_cosine,index=cka", "'index' means nothing for the panel measure"),
        ("curve,index=cca", "'cca' was not measured"),
        ("heatmap,given=labels", "of one model or of two"),
        ("heatmap,of=vit_s,given=pixels", "no reference 'pixels'"),
        ("against,of=label", "no reference 'label' in this result: did you mean labels?"),
        ("curve,of=vit_x", "no model 'vit_x' for the panel curve: did you mean vit_s?"),
        (
            "measure,of=patch_cosin",
            "no measure 'patch_cosin' in this result: did you mean patch_cosine?",
        ),
        ("curve,normalize=best", "unknown normalisation 'best'"),
        ("curve,tokens=cls", "no readout 'cls'"),
        ("curve,band=wide", "no bands 'wide'"),
        ("curve,x=time", "no axis 'time'"),
        ("curve,file=c", "no file 'c' for the panel curve"),
        ("curve,ylim=low", "ylim=low of the panel curve: give a range LOW:HIGH"),
        ("curve,ylim=a:b", "ylim=a:b of the panel curve: give a range LOW:HIGH"),
        ("curve,ylim=1", "ylim=1 of the panel curve: give a range LOW:HIGH"),
        ("curve,yscale=lag", "yscale=lag of the panel curve: "),
        ("curve,title=a$_b{", "no formula that matplotlib can draw"),
        ("curve,ylim=0:1,ylim=0:2", "'ylim' is given twice"),
        ("heatmap,vmin=low", "vmin is a number, not 'low'"),
        ("heatmap,vmin=1,vmax=0", "a scale from 1 to 0 is empty"),
        ("contrast,of=vit_s:resnet50,x=block", "different numbers of layers"),
        ("contrast,of=vit_s:vit_s", "vit_s minus itself is 0 everywhere: name two models"),
        ("ceiling", "no groups of trainings in this result"),
    ],
)
def test_panels_are_refused_in_one_line(run, text, told):
    with pytest.raises(ResultError, match=re.escape(told)) as caught:
        composed(run, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vit", "no model 'vit' here: did you mean vit_s?"),
        ("vit_s,colour=red", "'colour' means nothing for a model in a figure"),
        ("vit_s,label=a,label=b", "'label' is given twice"),
        ("vit_s,color=reddish", "no color 'reddish' for vit_s"),
    ],
)
def test_models_are_refused_in_one_line(run, text, told):
    with pytest.raises(ResultError, match=re.escape(told)):
        composed(run, "curve", models=[text])


def test_files_that_do_not_go_together_are_refused(run, other):
    def refusal(text, *results):
        with pytest.raises(ResultError) as caught:
            composed(dict(zip("abc", results, strict=False)), text)
        return str(caught.value)

    small, large = (
        with_index(result, "knn", f"10-NN overlap (batches of {size})", result)
        for result, size in ((run, 16), (other, 64))
    )
    assert refusal("curve,index=knn", small, large) == (
        "a has 10-NN overlap (batches of 16) of all and b has 10-NN overlap (batches of 64) of all: draw each in "
        "a panel of its own with file="
    )
    assert refusal("curve,index=knn", small, other).startswith("b: 'knn' was not measured")
    assert "vit_s and vit_s are in several files" in refusal("heatmap,of=vit_s:vit_s", run, other)
    assert "mine and resnet50 are in no one file" in refusal(
        "contrast,of=mine:resnet50", run, other
    )
    assert "is of one, name it with file= (a, b)" in refusal("heatmap", run, other)


def test_files_are_named_by_what_tells_them_apart():
    assert list(plots.named([Path("x/a.h5"), Path("y/b.h5")])) == ["a", "b"]
    assert list(plots.named([Path("x/analysis.h5"), Path("y/analysis.h5")])) == ["x", "y"]
    with pytest.raises(ResultError, match="a file is given twice"):
        plots.named([Path("a.h5"), Path("./a.h5")])


def test_names_may_hold_what_separates():
    names = ["hf-hub:timm/vit", "vit=epoch1,depth=2"]
    result = synthetic_result(dict.fromkeys(names, 3), batches=2)
    figure = composed(
        result, "heatmap,of=hf-hub:timm/vit:two", models=[names[0], f"{names[1]},label=two"]
    )
    np.testing.assert_array_equal(panels_of(figure)[0].images[0].get_array(), result.cka(*names))


def test_the_same_from_python(run, other):
    figure = Figure()
    one, two = figure.subplots(1, 2)
    ours = Model("vit_s", label="Ours", color="red")
    plots.curves(run, models=[ours, Model("mine", result=other)], normalize="none", ax=one)
    plots.heatmap(run, ours, "deit_s", ax=two)
    figure.draw_without_rendering()
    assert sorted(names_of(one)) == ["Ours", "mine"]
    assert data_lines(one)[0].get_color() == "#ff0000"
    assert two.get_ylabel() == "Ours: blocks"
    with plots.styled("talk"):
        assert figure_of(plots.curves(run)).get_figwidth() == 10.0
    assert figure_of(plots.curves(run)).get_figwidth() == 3.25
