"""What a newcomer adds, added from outside: one function or file, one row, and nothing else is changed."""

import warnings

import pytest
import typer
from matplotlib.figure import Figure

import refiner_cka as rc
from cli import options
from cli.app import Command, app
from refiner_cka.plots import Case, Kind, NothingToDraw, Panel, once
from tests.cli.running import command, refused, succeed
from tests.synthetic import synthetic_result


@pytest.fixture
def stored(tmp_path):
    """A result file of two models."""
    path = tmp_path / "run.h5"
    synthetic_result({"vit_s": 3, "deit_s": 4}).save(path)
    return path


@pytest.fixture(autouse=True)
def _warnings_as_they_were():
    """The command line sets filters of its own for its process."""
    with warnings.catch_warnings():
        yield


def layer_counts(result, *, models=None, tokens=None, ax=None):
    """A toy plot: how many layers each model has."""
    ax = Figure().subplots() if ax is None else ax
    names = models or result.models
    ax.bar(names, [len(result.rows(name, tokens=tokens)) for name in names])
    return ax


def test_a_plot_is_one_function_and_one_row(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(
        rc.plots.PLOTS, "layer_counts", Kind(layer_counts, cases=once("layer_counts"))
    )
    drawn = dict(rc.plots.figures(rc.load(stored)))
    assert "curves" in drawn
    assert [bar.get_height() for bar in drawn["layer_counts"].axes[0].patches] == [3, 4]
    succeed("plot", stored, "--out", tmp_path / "all")
    assert {"curves.pdf", "layer_counts.pdf"} <= {p.name for p in (tmp_path / "all").iterdir()}
    one = tmp_path / "one.svg"
    succeed("plot", stored, "-o", one, "--panel", "layer_counts,tokens=all,ylim=0:9,of=deit_s")
    assert one.read_bytes().startswith(b"<?xml")
    asked = (
        "error: 'index' means nothing for the panel layer_counts, which takes of, file, tokens, and"
    )
    assert refused("plot", stored, "-o", one, "--panel", "layer_counts,index=cka").startswith(asked)


def test_a_plot_of_each_model_says_so_in_its_row(stored, monkeypatch):
    def of_one(result, model, *, tokens=None, ax=None):
        return layer_counts(result, models=[model], tokens=tokens, ax=ax)

    def each_model(result, models, normalize):
        return [Case(f"count_{model}", [Panel("of_one", of=[model])]) for model in models]

    row = Kind(of_one, of=(1, 1), cases=each_model)
    monkeypatch.setitem(rc.plots.PLOTS, "of_one", row)
    stems = [stem for stem, _ in rc.plots.figures(rc.load(stored))]
    assert stems[-2:] == ["count_vit_s", "count_deit_s"]


def test_a_plot_with_nothing_to_draw_is_left_out_of_a_run(stored, tmp_path, monkeypatch):
    def empty(result, *, models=None, tokens=None, ax=None):
        raise NothingToDraw("no toys in this result")

    before = [stem for stem, _ in rc.plots.figures(rc.load(stored))]
    monkeypatch.setitem(rc.plots.PLOTS, "toys", Kind(empty, cases=once("toys")))
    assert [stem for stem, _ in rc.plots.figures(rc.load(stored))] == before
    refusal = refused("plot", stored, "-o", tmp_path / "toys.pdf", "--panel", "toys")
    assert refusal == "error: no toys in this result"


def test_an_export_format_is_one_function_and_one_row(stored, tmp_path, monkeypatch):
    def as_text(result):
        return "\n".join(layer.path for layer in result.layers).encode()

    monkeypatch.setitem(rc.results.WRITERS, ".txt", as_text)
    rc.results.export(rc.load(stored), tmp_path / "library.txt")
    succeed("export", stored, tmp_path / "command.txt")
    text = (tmp_path / "library.txt").read_text()
    assert text == (tmp_path / "command.txt").read_text()
    assert text.splitlines() == [f"blocks.{i}" for i in (*range(3), *range(4))]
    assert ".txt" in refused("export", stored, tmp_path / "run.xls")


def test_a_command_is_one_file_and_one_line(stored, monkeypatch):
    def count(file: options.ResultFile, model: str | None = None) -> None:
        """Print how many layers there are."""
        typer.echo(len(rc.load(file).rows(model)))

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command(cls=Command)(count)
    assert "Print how many layers there are." in succeed("--help").stdout
    assert succeed("count", stored).stdout == "7\n"
    # What all commands share holds for it.
    assert "no model 'vit_x'" in refused("count", stored, "--model", "vit_x")
    twice = command("count", stored, "--model", "vit_s", "--model", "deit_s")
    assert twice.exit_code == 2
    assert "--model is given twice: give it once." in twice.stderr
