"""The commands that work on stored results: what a file holds is shown, drawn, exported and merged."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import refiner_cka as rc
from tests.cli.running import command, refused, succeed
from tests.synthetic import synthetic_result, with_smoothing


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


def test_the_tables_of_four_models_fit_a_terminal_of_100_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["vit_nano", "deit_nano", "resnet_nano", "refiner_nano"]
    of_four = synthetic_result(dict.fromkeys(names, 12), references=["labels", "pixels"], batches=5)
    with_smoothing(of_four).save("four.h5")
    lines = succeed("show", "four.h5").stdout.splitlines()
    rules = [place for place, line in enumerate(lines) if line.startswith("───")]
    # Heads of two lines, a rule, and a line for each model or pair of them.
    assert rules == [2, 10, 20]
    assert [lines[place] for place in (7, 17, 25)] == [""] * 3
    assert max(map(len, lines[:25])) <= 100
    assert lines[21].split()[0] == "vit_nano"
