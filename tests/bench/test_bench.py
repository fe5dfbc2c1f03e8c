"""Every benchmark runs, on something tiny, and prints a number for each thing it claims to measure."""

import math
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench.recording import another

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"(?<![\w.])-?\d[\d.]*(?:e[-+]?\d+)?(?!\w)|nan|inf")

# Script -> what begins a row, and how many numbers follow.
ROWS = {
    "bench_accuracy": {
        f"| {package} {version(package)} | `{call}` |": numbers
        for package, call, numbers in (
            ("refiner-cka", "analyze", 5),
            ("refiner-cka", "cka", 5),
            ("pytorch-cka", "compute_cka", 5),
            ("pytorch-cka", "cka_from_features", 5),
            ("torch-cka", "CKA.compare", 4),  # it takes no tuples
        )
    },
    "bench_analysis": {
        f"| test_vit, 6 blocks, batches of 8 | {tool} |": numbers
        for tool, numbers in (
            ("whole batches", 3),
            ("refiner-cka, CKA alone", 5),
            ("refiner-cka, default", 6),
            (f"pytorch-cka {version('pytorch-cka')}", 5),
            (f"torch_cka {version('torch-cka')}", 5),
        )
    },
    "bench_gpu": {"| refiner_nano, 12 blocks | bf16 | 8 |": 15},
    "bench_loading": {
        **{
            f"| 60 x 45, 3 kB | {models} | {loader} |": 3
            for models in ("1 model", "3 models, one geometry", "3 models, three geometries")
            for loader in ("refiner-cka", "refiner-cka --fast-pixels", "timm")
        },
        **{
            f"| {step} |": 3
            for step in (
                "read",
                "decode",
                "resize",
                "crop",
                "to tensor",
                "stack",
                "digest",
                "hand over",
                "normalise",
            )
        },
    },
    "bench_models": {
        "| CKA alone |": 3,
        "| default |": 3,
        "peak memory above a run of one:": 2,
    },
    "bench_profile": {
        f"| test_vit, 6 blocks, batches of 8 | {part} |": numbers
        for part, numbers in (
            ("products of Gram matrices", 4),
            ("copies and centring for them", 4),
            ("default token measures", 4),
            ("end of the batch", 3),
            ("images, hooks, taking turns", 3),
        )
    },
    "bench_refiner": {
        "refiner_nano / deit_nano:": 5,
        "plain path / fast path:": 5,
        "peak activations, plain / fast:": 3,
    },
    "bench_rows": {"| 6 |": 6},
    "bench_saving": {"| 6 |": 7},
    "bench_smoothing": {"| test_vit | default |": 4, "| test_vit | all |": 4},
    "bench_versions": {"test_vit: elapsed": 3, "test_vit: processor": 3},
}


def test_no_benchmark_is_left_out():
    assert {path.stem for path in FOLDER.glob("bench_*.py")} == set(ROWS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so():
    done = subprocess.run(
        [sys.executable, FOLDER / "bench_gpu.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "this machine has no GPU that torch can use: nothing was measured\n"
    assert not done.stdout


@pytest.mark.parametrize("rounds", [3, 5])
def test_another_run_lies_within_the_printed_spread(rounds):
    """In at least 95 % of pairs of runs, up to four standard deviations of so many pairs."""
    rng = np.random.default_rng(0)
    runs = rng.lognormal(0.1, 0.2, (2000, 2, rounds))
    spreads = np.array([another(run) for run in runs[:, 0]])
    medians = np.median(runs[:, 1], axis=1)
    within = ((spreads[:, 0] <= medians) & (medians <= spreads[:, 2])).mean()
    assert 0.95 - 4 * np.sqrt(0.95 * 0.05 / 2000) < within < 0.98
    np.testing.assert_allclose(spreads[:, 1], np.median(runs[:, 0], axis=1))
    assert np.isnan(another([1.0])[::2]).all()


@pytest.mark.parametrize("script", ROWS)
def test_it_measures_what_it_claims_to(script, tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", "--tiny"],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for start, count in ROWS[script].items():
        [row] = [line for line in done.stdout.splitlines() if line.startswith(start)]
        numbers = [float(number) for number in NUMBER.findall(row.removeprefix(start))]
        assert len(numbers) == count, row
        assert all(math.isfinite(number) for number in numbers), row
        # Memory in whole megabytes may be none, and CKA of unrelated layers on either side of 0.
        assert sum(number > 0 for number in numbers) >= count - 1, row


def test_the_page_of_the_comparison_has_a_row_for_each_call():
    script = (FOLDER / "bench_accuracy.py").read_text()
    page = (FOLDER.parents[1] / "docs" / "comparison.md").read_text()
    calls = re.findall(r'Package\("(.+?)", "(.+?)", (\w+)', script)
    assert len(calls) == 9
    for package, call, _ in calls:
        assert re.search(rf"^\| {package} [\d.]+ \| `{re.escape(call)}` \|", page, re.MULTILINE), (
            call
        )
