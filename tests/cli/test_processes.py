"""Several processes: whose parts are gone on from, which of them speaks, and whole runs of them under torchrun."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import refiner_cka as rc
from cli import processes
from tests.cli.running import MODEL, ROOT, SMALL, refused, succeed
from tests.stress.scenarios import SCENARIOS

PRODUCTS = "similarity/cka/products"
STRESS = ROOT / "tests" / "stress"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The three parts of a run, and the whole."""
    folder = tmp_path_factory.mktemp("shards")
    for part in ("1/3", "2/3", "3/3", "1/1"):
        succeed("analyze", *MODEL, *SMALL, "--out", folder, "--quiet", "--shard", part)
    return [rc.load(folder / f"analysis.{part}-of-3.h5") for part in (1, 2, 3)], rc.load(
        folder / "analysis.h5"
    )


def interrupted(**parts):
    """Leave parts in `results` as processes do that were killed."""
    for name, result in parts.items():
        result.save(f"results/analysis.{name.replace('_', '-')}.h5")


def test_one_process_goes_on_from_the_parts_of_several(shards):
    (one, two, three), whole = shards
    # Process 1 went on, like the others, from what process 0 holds; process 7 exists no more.
    interrupted(partial=rc.merge([one, two]), partial_1=two, partial_7=three)
    for name in ("analysis.partial-x.h5", "analysis.1-of-3.partial-1.h5", "other.partial.h5"):
        Path("results", name).touch()
    assert "analysis.partial-1.h5 holds this run, interrupted" in refused("analyze", *MODEL, *SMALL)
    succeed("analyze", *MODEL, *SMALL, "--resume", "--quiet")
    result = rc.load("results/analysis.h5")
    np.testing.assert_allclose(result.sums[PRODUCTS], whole.sums[PRODUCTS], rtol=1e-12, atol=1e-12)
    assert result.batches.tolist() == whole.batches.tolist()
    assert sorted(path.name for path in Path("results").glob("*partial*")) == [
        "analysis.1-of-3.partial-1.h5",
        "analysis.partial-x.h5",
        "other.partial.h5",
    ]


def test_a_part_of_another_run_is_not_taken_in(shards):
    (one, two, _), _ = shards
    interrupted(partial=one, partial_1=two)
    refusal = refused("analyze", *MODEL, *SMALL, "--resume", "--seed", 1)
    assert "analysis.partial-1.h5 holds another run: " in refusal
    succeed("analyze", *MODEL, *SMALL, "--overwrite", "--quiet", "--seed", 1)
    assert rc.load("results/analysis.h5").complete
    assert not list(Path("results").glob("*partial*"))


def test_overwriting_goes_on_from_nothing(shards, monkeypatch):
    """What was measured before may be of other images, which the fingerprint need not tell."""
    (one, two, _), _ = shards
    interrupted(partial=one, partial_1=two)

    def measure(*args, **kwargs):
        assert kwargs["resume"] is None
        assert not list(Path("results").glob("*partial*"))
        raise rc.DataError("seen")

    monkeypatch.setattr(rc, "measure", measure)
    assert "seen" in refused("analyze", *MODEL, *SMALL, "--overwrite", "--quiet")


def test_merging_parts_removes_them_when_all_were_taken(shards):
    parts, whole = shards
    interrupted(partial=parts[0], partial_1=parts[1], partial_2=parts[2])
    names = [f"results/analysis.partial{number}.h5" for number in ("", "-1", "-2")]
    assert "holds this run, interrupted" in refused("merge", *names[:2])
    succeed("merge", *names)
    np.testing.assert_allclose(rc.load("results/analysis.h5").cka(), whole.cka(), atol=1e-12)
    assert not list(Path("results").glob("*partial*"))


@pytest.mark.parametrize(
    ("rank", "local", "error", "waited", "speaks"),
    [
        (0, 0, rc.DataError("x"), 0, True),
        (0, 0, rc.ProcessError("x"), 0, True),
        (1, 1, rc.DataError("x"), 6, True),
        (8, 0, rc.DataError("x"), 3, True),
        (1, 1, typer.BadParameter("x"), 6, True),
        (1, 1, RuntimeError("the device is lost"), 0, True),
        (1, 1, rc.ProcessError("x"), 0, False),
        (1, 1, KeyboardInterrupt(), 0, False),
    ],
)
def test_the_first_process_speaks_for_all(rank, local, error, waited, speaks, monkeypatch):
    slept = [0.0]
    monkeypatch.setattr("time.sleep", slept.append)
    for name, value in {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": 16}.items():
        monkeypatch.setenv(name, str(value))
    assert processes.speaks(error) == speaks
    assert sum(slept) == waited


def program(name, *arguments):
    done = subprocess.run(
        [sys.executable, STRESS / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_scenarios_of_several_processes(tmp_path):
    """All in one process, which imports once: see tests/stress/scenarios.py for what they are."""
    lines = program("scenarios", tmp_path)
    assert lines.splitlines() == [f"{scenario.__name__}: ok" for scenario in SCENARIOS]


def test_runs_killed_at_random_moments_go_on_to_the_same_result():
    assert "8 runs of 320 images in 40 batches, all resumed to the same result" in program(
        "stress", "--cases", 8, "--images", 320
    )
