"""`analyze --shard` and `merge`: the parts of a run are the whole."""

from pathlib import Path

import numpy as np

import refiner_cka as rc
from tests.cli.running import MODEL, SMALL, refused, succeed


def test_shards_merge_to_the_whole():
    succeed("analyze", *MODEL, *SMALL, "--out", "whole")
    for part in (1, 2):
        succeed("analyze", *MODEL, *SMALL, "--out", "parts", "--shard", f"{part}/2")
    assert sorted(path.name for path in Path("parts").iterdir()) == [
        "analysis.1-of-2.h5",
        "analysis.2-of-2.h5",
    ]
    succeed("merge", "parts/analysis.1-of-2.h5", "parts/analysis.2-of-2.h5", "--out", "merged")
    np.testing.assert_allclose(
        rc.load("merged/analysis.h5").cka(), rc.load("whole/analysis.h5").cka(), atol=1e-12
    )
    assert Path("merged/curves.pdf").exists()
    repeated = ["parts/analysis.1-of-2.h5"] * 2
    assert "merge each shard once" in refused("merge", *repeated, "--out", "x")


def test_part_of_a_run_does_not_replace_the_whole():
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    succeed("analyze", *MODEL, *SMALL, "--quiet", "--shard", "1/2")
    assert "3 batches" in refused("merge", "results/analysis.1-of-2.h5")
    assert rc.load("results/analysis.h5").complete
