"""The commands that work on stored results: what a file holds is shown, drawn, exported and merged."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import refiner_cka as rc
from cli import console
from tests.cli.running import command, refused, succeed
from tests.synthetic import synthetic_result, with_index, with_smoothing

NANO = ["vit_nano", "deit_nano", "resnet_nano", "refiner_nano"]
LONG = ["vit_small_patch16_224.augreg_in21k_ft_in1k", "resnet50.a1_in1k", "convnext_tiny.fb_in22k"]
TEN = [f"epoch{number:03d}" for number in range(10)]


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=20), refined=["b"])
    result.save("run.h5")
    return result


def test_show_says_what_was_found_and_how_it_was_made(result):
    lines = succeed("show", "run.h5").stdout.splitlines()
    assert set(rc.summarize(result).sentences) <= set(lines)
    for question, answer in rc.results.answers(result):
        start = lines.index(question) + 1
        told = [f"  {line}" for line in answer.splitlines()]
        assert lines[start : start + len(told)] == told
    assert f"fingerprint: {result.fingerprint}" in lines


def test_show_as_json_is_the_summary(result):
    shown = json.loads(succeed("show", "run.h5", "--json").stdout)
    assert shown == {**rc.summarize(result).as_dict(), "files": []}


def test_show_prints_the_text_for_a_methods_section_and_what_it_cites(result):
    shown = succeed("show", "run.h5", "--methods").stdout
    assert shown == f"{rc.results.paragraph(result)}\n\n{rc.results.bibtex(result)}"
    done = command("show", "run.h5", "--methods", "--json")
    assert (done.exit_code, "exclude each other" in done.stderr) == (2, True)


def test_plot_draws_all_figures_or_one(result, tmp_path):
    succeed("plot", "run.h5", "--out", "all")
    assert {path.stem for path in (tmp_path / "all").glob("*.pdf")} == {
        stem for stem, _ in rc.plots.figures(result)
    }
    succeed("plot", "run.h5", "-o", "one/ab.pdf", "--panel", "heatmap,of=a:b")
    assert [path.name for path in sorted((tmp_path / "one").iterdir())] == ["ab.pdf"]
    succeed("plot", "run.h5", "--out", "scaled", "--normalize", "min-max")
    assert (tmp_path / "scaled" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_export_writes_a_table(result, tmp_path):
    succeed("export", "run.h5", "table.json")
    document = json.loads((tmp_path / "table.json").read_text())
    np.testing.assert_array_equal(document["cka"], result.cka())
    succeed("export", "run.h5", "table.csv")
    assert "blocks.0" in (tmp_path / "table.csv").read_text()
    assert ".csv" in refused("export", "run.h5", "table.xls")


def test_export_names_every_suffix_and_refuses_in_one_line(result, tmp_path):
    told = succeed("export", "--help").stdout
    assert all(suffix in told for suffix in rc.results.WRITERS)
    assert refused("export", "run.h5", "run.jsn").endswith("did you mean run.json?")
    before = sorted(tmp_path.iterdir())
    assert "run.h5 is a file, not a folder" in refused("export", "run.h5", "run.h5/table.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv is a folder" in refused("export", "run.h5", "folder.csv")
    assert sorted({*tmp_path.iterdir()} - {tmp_path / "folder.csv"}) == before


def test_merge_adds_parts(result):
    for number in range(2):
        batches = result.batches + 20 * number
        dataclasses.replace(result, batches=batches, total_batches=40).save(f"part{number}.h5")
    succeed("merge", "part0.h5", "part1.h5", "--out", "whole", "--quiet")
    whole = rc.load("whole/analysis.h5")
    assert (whole.images, whole.complete) == (640, True)
    np.testing.assert_allclose(whole.cka(), result.cka())
    assert whole.quantities == result.quantities
    assert "batch 0 is in two of the results" in refused("merge", "part0.h5", "part0.h5")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.h5", None, "none.h5"),
        ("text.h5", b"not HDF5", "text.h5"),
        ("newer.h5", {"format": "refiner-cka", "format_version": 99}, "newer"),
        ("other.h5", {"creator": "someone else"}, "other.h5"),
    ],
)
def test_a_file_that_is_no_result_is_refused(name, content, expected):
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        with h5py.File(name, "w") as file:
            file.attrs.update(content)
    assert expected in refused("show", name)
    assert expected in refused("plot", name)


def shown(monkeypatch, result, width):
    """The lines of the summary on a terminal, blank ones and warnings left out."""
    monkeypatch.setattr(console, "_width", lambda: width)
    result.save("shown.h5")
    printed = succeed("show", "shown.h5").stdout.partition("Which weights?")[0].splitlines()
    return [line for line in printed if line]


@pytest.mark.parametrize(("references", "most"), [((), 13), (("labels", "pixels"), 16)])
def test_the_summary_of_four_models_is_short(tmp_path, monkeypatch, references, most):
    monkeypatch.chdir(tmp_path)
    note = "trained on the first 1,437 embedded digits (digits-train), not on the other 360 (digits-test)"
    provenance = {"notes": dict.fromkeys(NANO, note)}
    of_four = with_smoothing(
        synthetic_result(
            dict.fromkeys(NANO, 12), references=references, batches=10, provenance=provenance
        )
    )
    lines = shown(monkeypatch, with_index(of_four, "rsa", "RSA", of_four), 100)
    assert len(lines) <= most
    assert max(map(len, lines)) <= 100
    # The models, and their differences.
    assert [line.split()[0] for line in lines].count("vit_nano") == 2


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("names", [NANO, LONG, TEN])
def test_a_narrow_terminal_breaks_no_number_and_no_word(tmp_path, monkeypatch, names, width):
    monkeypatch.chdir(tmp_path)
    of_all = synthetic_result(dict.fromkeys(names, 3), references=["labels", "pixels"], batches=5)
    of_all = with_smoothing(of_all)
    lines = shown(monkeypatch, of_all, width)
    assert max(map(len, lines)) <= width
    summary = rc.summarize(of_all)
    text = " ".join(" ".join(lines).split())
    for sentence in summary.sentences:
        assert sentence in text
    for row in itertools.chain.from_iterable(table.rows for table in summary.tables):
        assert all(any(cell in line for line in lines) for cell in row[1:])
    parts = [part for name in names for part in re.findall("[^_./-]+", name)]
    assert all(part in text for part in parts)
    assert not any(line.rstrip().endswith("+-") for line in lines)
