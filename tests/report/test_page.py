"""The page without a browser: its numbers are the result's, and no text of a result is markup in it."""

import base64
import gzip
import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

import refiner_cka as rc
from refiner_cka.plots.style import COLOURS
from refiner_cka.report import looks, matrices, texts
from refiner_cka.report.page import html
from refiner_cka.results import methods
from refiner_cka.sums import along_depth
from tests.report.pages import HOSTILE, IMAGE, SCRIPT, Page, made
from tests.synthetic import synthetic_result

MINUS = "\N{MINUS SIGN}"
PLAIN = ["vit_s", "deit_s", "resnet50", "refiner_s", "vit_b"]


@pytest.fixture(scope="module")
def result():
    return made(PLAIN)


@pytest.fixture(scope="module")
def page(result):
    return Page(html(result))


@pytest.fixture(scope="module")
def hostile():
    paths = ("<b>0</b>", "<b>1</b>", SCRIPT)
    return Page(html(made(HOSTILE, paths, said=IMAGE)))


def lines(spec):
    """The lines of a panel, each the last of what is drawn of its model."""
    return [trace for trace in spec["data"] if trace["mode"] == "lines+markers"]


def test_it_holds_what_the_summary_says_and_what_a_paper_needs(result, page):
    text, summary = " ".join(page.texts), rc.summarize(result)
    for table in summary.tables:
        for cell in (*table.headers, *(cell for row in table.rows for cell in row)):
            assert cell.replace(" +- ", " ± ") in page.texts
    for sentence in summary.sentences:
        assert sentence.replace("+-", "±") in page.texts
    assert methods.paragraph(result) in page.texts
    assert methods.bibtex(result).strip() in page.texts
    for question, answer in methods.answers(result):
        assert question in page.texts
        assert set(filter(None, map(str.strip, answer.splitlines()))) <= set(page.texts)
    assert result.fingerprint in page.texts
    assert "plain.png" in text
    bands = "95 % bands, jackknife over 20 folds of images: dark for each layer, light for the whole curve"
    assert f"64 images; CKA batches of 16; {bands}. Grey: where unrelated" in text
    assert "Dashed: unresolved (CKA(first, last) is not 5 SE above 0)." in text


def test_curves_are_those_of_the_result(result, page):
    raw, scaled = page.specs[:2]
    for spec, normalize in ((raw, "none"), (scaled, "first-last")):
        for name, line in zip(PLAIN, lines(spec), strict=True):
            curve = result.curve(name, normalize=normalize)
            np.testing.assert_allclose(line["y"], curve.values, atol=6e-5)
            assert line["x"] == pytest.approx(curve.depth)
            assert (line["line"]["dash"] == "solid") == curve.resolved
    assert [line["line"]["dash"] for line in lines(scaled)].count("dash") >= 1
    # What a point says: its layer, the value with its error, both intervals, and chance.
    curve, whole = (
        result.curve("vit_s", normalize="none", band=band) for band in ("pointwise", "simultaneous")
    )
    tail = [result.null("vit_s").quantile(share)[0, -1] for share in (0.025, 0.975)]
    interval = [
        f"{low:.3f} to {high:.3f}".replace("-", MINUS)
        for low, high in ((curve.lower[0], curve.upper[0]), (whole.lower[0], whole.upper[0]), tail)
    ]
    assert lines(raw)[0]["hovertext"][0].split("<br>") == [
        "<b>vit_s</b>",
        "blocks.0, depth 0.00",
        f"CKA(l, last): {curve.values[0]:.3f} ± {curve.se[0]:.3f}",
        f"95 %: {interval[0]}",
        f"95 % for the whole curve: {interval[1]}",
        f"unrelated images: {interval[2]}",
    ]


def test_bands_are_those_of_the_result(result, page):
    raw = page.specs[0]["data"]
    grey, whole, each = raw[:3]
    for trace, band in ((whole, "simultaneous"), (each, "pointwise")):
        curve = result.curve("vit_s", normalize="none", band=band)
        # The last layer has CKA 1 with itself, without an error but with an interval.
        known = np.isfinite(curve.lower) & np.isfinite(curve.upper)
        expected = [*curve.upper[known], *curve.lower[known][::-1]]
        np.testing.assert_allclose(trace["y"], expected, atol=6e-5)
    upper = [result.null(name).quantile(0.975)[:, -1] for name in PLAIN]
    np.testing.assert_allclose(grey["y"][:3], np.max(upper, axis=0), atol=6e-5)


def test_maps_are_those_of_the_result(result, page):
    (found,) = [spec["map"] for spec in page.specs if "map" in spec and "chance" in spec["map"]]
    below = np.tril_indices(len(result.layers))
    rows = slice(len(result.layers))
    expected = {
        "value": result.cka()[rows, rows],
        "error": result.cka_se()[rows, rows],
        "chance": result.chance()[rows, rows],
    }
    for name, matrix in expected.items():
        numbers = np.concatenate(found[name]).astype(float)
        np.testing.assert_allclose(numbers, matrix[below], atol=6e-4)
    # Corrected for the pairs of the two models, as the figures and the summary do.
    p_values = result.p_values("deit_s", "vit_s")
    block = [found["p"][row][:3] for row in range(3, 6)]
    np.testing.assert_allclose(np.array(block), np.where(p_values < 0.001, 0, p_values), atol=6e-4)
    views = page.options[: len(found["views"])]
    assert views[:6] == ["all models", *PLAIN]
    assert len(views) == 6 + 5 * 4 / 2
    both = found["views"][views.index("vit_s and resnet50")]
    assert (both["rows"], both["columns"]) == ([0, 3], [6, 9])


def test_every_measure_and_reference_has_a_panel(result, page):
    for name in result.measures:
        assert any(result.quantity(name).label in text for text in page.texts)
    assert {"CKA(l, labels)", "CKA(l, pixels)"} <= set(page.texts)
    titled = dict(zip(page.texts, page.texts[1:], strict=False))
    assert titled["Patch cosine"] == "higher: smoother"
    assert titled["Effective rank"] == "lower: smoother, on 64 images"


def test_figures_are_what_plotly_knows(page):
    """plotly's own check of a figure, which refuses a property that it does not have."""
    for spec in page.specs:
        if "map" not in spec:
            go.Figure(one_ground(spec))


def one_ground(value):
    """A figure with the colours of the light ground."""
    if isinstance(value, dict):
        return {key: one_ground(of) for key, of in value.items()}
    if isinstance(value, list):
        return [one_ground(of) for of in value]
    return value.partition("|")[0] if isinstance(value, str) and value[:1] == "#" else value


def test_groups_have_their_trainings_and_a_ceiling():
    groups = {"Ours": ["a", "b", "c"]}
    result = synthetic_result(dict.fromkeys("abcd", 3), batches=4, provenance={"groups": groups})
    page = Page(html(result))
    raw, _, ceiling, *_ = page.specs
    mean = next(line for line in lines(raw) if line["meta"] == "Ours")
    np.testing.assert_allclose(mean["y"], result.curve("Ours", normalize="none").values, atol=6e-5)
    spread = result.curve("Ours", normalize="none").spread[0]
    assert f"SD over trainings: {spread:.3f}" in mean["hovertext"][0]
    assert any("Outlined: SD over 3 trainings." in text for text in page.texts)
    thin = [trace for trace in raw["data"] if trace["meta"] == "Ours" and len(trace["x"]) == 3]
    for name, trace in zip("abc", thin, strict=False):
        np.testing.assert_allclose(
            trace["y"], result.curve(name, normalize="none").values, atol=6e-5
        )
    band, outline = [
        trace for trace in raw["data"] if len(trace["x"]) == 6 and trace["meta"] == "Ours"
    ]
    curve = result.curve("Ours", normalize="none")
    for trace in (band, outline):
        assert trace["y"][0] == pytest.approx(curve.values[0] + curve.spread[0], abs=6e-5)
        assert trace["y"][-1] == pytest.approx(curve.values[0] - curve.spread[0], abs=6e-5)
    assert outline["line"]["dash"] == "dot"
    np.testing.assert_allclose(lines(ceiling)[0]["y"], result.ceiling("Ours").values, atol=6e-5)
    pairs = [trace["y"] for trace in ceiling["data"] if trace["line"]["width"] == 0.6]
    expected = [np.diagonal(result.cka(*pair)) for pair in itertools.combinations("abc", 2)]
    np.testing.assert_allclose(pairs, expected, atol=6e-5)
    assert any("Thin: pairs of trainings." in text for text in page.texts)


def test_similarity_to_references_has_the_band_of_the_whole_curve():
    result = synthetic_result({"a": 3}, references=["labels"], batches=4)
    page = Page(html(result))
    to_labels = page.specs[2]
    whole = result.against("a", "labels", band="simultaneous")
    tops = [
        trace["y"][:3]
        for trace in to_labels["data"]
        if trace["meta"] == "a" and len(trace["x"]) == 6
    ]
    np.testing.assert_allclose(tops[0], whole.upper, atol=6e-5)


def test_no_text_of_a_result_is_markup(page, hostile):
    assert hostile.tags == page.tags
    assert hostile.attributes == page.attributes
    assert len(hostile.scripts) == 1
    for name in HOSTILE:
        assert name in hostile.texts
    # In figures plotly.js reads a few tags and entities: there are none but the page's own.
    told = json.dumps(hostile.specs).replace("<br>", "").replace("<b>", "").replace("</b>", "")
    assert "<" not in told
    assert "&lt;img src=x onerror=alert(1)&gt;" in told


def test_nothing_runs_but_the_two_scripts_that_the_policy_names(page):
    directives = dict(part.split(" ", 1) for part in page.policy.split("; "))
    assert directives["default-src"] == "'none'"
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (page.unpacked("plotly"), *page.scripts)
    ]
    assert directives["script-src"] == " ".join(f"'sha256-{each}'" for each in hashes)
    assert page.attributes & {"src", "href", "onclick", "onload", "onerror"} == {"href"}


def test_names_that_are_no_text_are_written_escaped():
    escape = "\x1b]0;owned\x07‮"
    page = Page(html(synthetic_result({"caf\udce9": 2, escape: 2}, batches=4)))
    assert "caf\\udce9" in page.texts
    assert rc.printable(escape) in page.texts


def test_an_unfinished_run_says_so_and_one_without_batches_has_a_page():
    page = Page(html(synthetic_result({"a": 3}, batches=2, total_batches=5)))
    assert "Unfinished: this page is of 2 of 5 batches." in page.texts
    empty = synthetic_result({"a": 3}, batches=0, total_batches=5)
    assert "Unfinished: this page is of 0 of 5 batches." in Page(html(empty)).texts


def test_what_is_undefined_is_said_and_left_blank():
    result = synthetic_result({"a": 3}, batches=4, constant=[("a", 1)])
    page = Page(html(result))
    (found,) = [spec["map"] for spec in page.specs if "map" in spec]
    assert [[value is None for value in row] for row in found["value"]] == [[0], [1, 1], [0, 1, 0]]
    assert any("Blank: undefined." in text for text in page.texts)
    assert lines(page.specs[0])[0]["y"][1] is None
    nothing = synthetic_result({"a": 2}, batches=4, constant=[("a", 0), ("a", 1)])
    assert not any("Grey:" in text for text in Page(html(nothing)).texts)


def test_too_few_images_for_errors_and_values_below_zero_are_said():
    few = synthetic_result({"a": 3}, batches=1, batch_size=6, unresolved=["a"], seed=1)
    text = " ".join(Page(html(few)).texts)
    assert "no error bands: fewer than 12 images." in text
    assert "Dashed: unresolved (fewer than 12 images, so no errors)." in text
    least = few.cka().min()
    assert least < -0.05
    assert f"Least {MINUS}{-least:.3f}, in the colour of 0." in text


def test_provenance_may_be_deep_and_mixed():
    deep = {"last": "seen", "mixed": [{"name": "a"}, 1]}
    for level in range(300):
        deep = {f"level {level}": deep, "mixed": [{"name": "a"}, "b", None]}
    text = " ".join(Page(html(synthetic_result({"a": 2}, batches=4, provenance=deep))).texts)
    assert "level 299" in text
    assert '{"last": "seen", "mixed": [{"name": "a"}, 1]}' in text
    assert '[{"name": "a"}, "b", null]' in text


def test_equal_results_give_equal_pages(result):
    assert html(result) == html(replace(result))


def test_a_page_of_many_layers_is_small_enough_to_be_sent(page):
    """The largest map with errors and chance, of numbers that do not compress, beside the plotting library."""
    count, rng = 200, np.random.default_rng(0)
    layers = along_depth([("m", f"blocks.{place}", "all") for place in range(count)])
    value, *beside = rng.random((4, count, count))
    few = json.dumps(matrices.panel("CKA", layers, value, {}).spec)
    more = dict(zip(("error", "chance", "p"), beside, strict=True))
    full = json.dumps(matrices.panel("CKA", layers, value, more).spec)
    for spec, pairs in ((few, matrices.MOST), (full, matrices.DETAILED)):
        share = pairs / (count * (count + 1) / 2)
        packed = len(gzip.compress(spec.encode())) * 4 / 3 * share
        assert len(page.packed["plotly"]) + packed < 5.2e6


def test_maps_of_very_many_layers_hold_less(result, monkeypatch):
    monkeypatch.setattr(matrices, "DETAILED", 10)
    (figure,) = matrices.similarity(result)
    assert not {"error", "chance", "p"} & set(figure.panels[0].spec["map"])
    assert "errors and chance of so many pairs are in the file" in figure.caption.lower()
    monkeypatch.setattr(matrices, "MOST", 100)
    (figure,) = matrices.similarity(result)
    assert figure.panels == []
    assert figure.caption == "120 pairs of layers are too many for a page: use plot."


@pytest.mark.parametrize("colour", COLOURS)
def test_lines_are_seen_on_the_dark_ground(colour):
    assert looks.contrast(np.array(rgb(looks.on_dark(colour)))) >= looks.CONTRAST


def rgb(colour):
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def test_contrast_is_that_of_wcag():
    """By hand: of #808080 the luminance is 0.2159."""
    ground = 0.2126 * 0.00749 + 0.7152 * 0.00857 + 0.0722 * 0.01161
    assert looks.contrast(np.full(3, 128 / 255)) == pytest.approx(
        (0.2159 + 0.05) / (ground + 0.05), rel=1e-3
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.4126, "0.413"),
        (-0.01, f"{MINUS}0.010"),
        (0.00012, "0.0001"),
        (0.0, "0.000"),
        (23.456, "23.46"),
        (1234.56, "1234.6"),
        (np.nan, "undefined"),
    ],
)
def test_numbers_are_written_with_the_digits_they_need(value, expected):
    assert texts.number(value) == expected
