"""Over-smoothing on the command line: what is asked for is measured, drawn, said and refused."""

import json
from pathlib import Path

import refiner_cka as rc
from tests.cli.running import MODEL, SMALL, refused, succeed


def test_asked_for_measures_and_attention_are_written_drawn_and_said():
    done = succeed(
        "analyze", *MODEL, *SMALL, "--smoothing", "patch_cosine,rank_collapse", "--attention"
    )
    result = rc.load("results/analysis.h5")
    token_measures = [name for name in result.measures if not name.startswith("attention")]
    assert token_measures == ["patch_cosine", "rank_collapse"]
    assert result.attention
    stems = {path.stem for path in Path("results").glob("*.pdf")}
    assert {"smoothing", "attention", "attention_vit"} <= stems
    assert (
        f"{result.quantity('patch_cosine').label}, last" in rc.summarize(result).tables[0].headers
    )
    assert result.quantity("patch_cosine").label in " ".join(done.stdout.split())
    assert "Neither implies the other." in succeed("show", "results/analysis.h5").stdout


def test_none_says_nothing_of_smoothing():
    done = succeed("analyze", *MODEL, *SMALL, "--smoothing", "none", "--json")
    assert json.loads(done.stdout)["smoothing"] == []
    assert not Path("results/smoothing.pdf").exists()


def test_an_unknown_measure_is_refused_in_one_line():
    line = refused("analyze", *MODEL, *SMALL, "--smoothing", "rank")
    assert "unknown --smoothing 'rank'; choose all, none or from" in line
    assert not Path("results/analysis.h5").exists()


def test_maps_draws_an_image():
    succeed("maps", "--model", "test_vit=random", "--data", "digits", "--image", "3")
    assert Path("results/maps.pdf").stat().st_size > 1000
    line = refused("maps", "--model", "test_vit=random", "--data", "digits", "--image", "9999")
    assert "there is no image 9999" in line
