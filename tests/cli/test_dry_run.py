"""`analyze --dry-run`: what would be measured, what it takes, and what can never fit."""

from pathlib import Path

import pytest

import refiner_cka as rc
from refiner_cka.analysis import runtime
from tests.cli.running import MODEL, SMALL, refused, succeed


def test_it_says_what_would_be_measured_and_does_nothing():
    done = succeed("analyze", *MODEL, *SMALL, "--dry-run")
    assert "memory for Gram matrices: " in done.stdout
    assert "measured: cka, top1, patch_cosine_centred" in done.stdout
    assert "results/analysis.h5 would be written" in done.stdout
    assert not Path("results").exists()
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    before = Path("results/analysis.h5").read_bytes()
    assert "would be replaced" in succeed("analyze", *MODEL, *SMALL, "--dry-run").stdout
    assert Path("results/analysis.h5").read_bytes() == before


def prepared(batch_size):
    return rc.prepare(
        "vit_nano", "digits", batch_size=batch_size, images=200, workers=0, device="cpu"
    )


def test_the_memory_of_the_sums_is_what_they_take():
    analysis = prepared(50)
    sums = rc.measure(analysis).sums.values()
    assert analysis.memory["sums"] == sum(values.nbytes for values in sums)
    matrix = 12 * 50 * 8  # a row of each of twelve layers, float64
    assert analysis.memory["Gram matrices"] == (25 + 50 + 2 * 20 + 6 * 50) * matrix
    assert analysis.memory["what a batch adds"] == 24 * 12**2 * 8
    assert analysis.memory["one batch of images"] == 50 * 3 * 32 * 32 * 4


def test_a_batch_that_can_never_fit_is_refused_with_the_largest_that_does(monkeypatch):
    room = sum(prepared(101).meters[0].memory(101).values()) - 1
    monkeypatch.setattr(runtime, "memory_of", lambda device: room)
    with pytest.raises(rc.DataError, match="a batch of at most 100 fits"):
        prepared(150)
    assert prepared(100).memory["Gram matrices"] <= room
    refusal = refused("analyze", "--model", "vit_nano", "--data", "digits", "--batch-size", 150)
    assert "--batch-size 150: the Gram matrices take" in refusal
