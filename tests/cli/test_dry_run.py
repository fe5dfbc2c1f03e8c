"""`analyze --dry-run`: what would be measured, what it takes, and what can never fit."""

import itertools
from pathlib import Path

import pytest
import timm
import torch

import refiner_cka as rc
from refiner_cka.analysis import runtime
from refiner_cka.images.preprocessing import Preprocessing
from tests.cli.running import MODEL, SMALL, refused, succeed


def test_it_says_what_would_be_measured_and_does_nothing():
    done = succeed("analyze", *MODEL, *SMALL, "--dry-run")
    assert "memory for Gram matrices: " in done.stdout
    assert "measured: cka, top1, patch_cosine_centred" in done.stdout
    assert "results/analysis.h5 and the figures beside it would be written" in done.stdout
    assert "vit: 6 layers" in done.stderr
    assert "48 images of digits in 6 batches of 8" in done.stderr
    assert not Path("results").exists()
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    before = Path("results/analysis.h5").read_bytes()
    assert "would be replaced" in succeed("analyze", *MODEL, *SMALL, "--dry-run").stdout
    assert Path("results/analysis.h5").read_bytes() == before


def prepared(batch_size, **options):
    return rc.prepare(
        "vit_nano",
        "digits",
        **{"batch_size": batch_size, "images": 200, "workers": 0, "device": "cpu", **options},
    )


def test_the_memory_of_the_sums_is_what_they_take():
    analysis = prepared(50)
    sums = rc.measure(analysis).sums.values()
    assert analysis.memory["sums"] == sum(values.nbytes for values in sums)
    matrix = 12 * 50 * 8  # a row of each of twelve layers, float64
    assert analysis.memory["Gram matrices"] == (25 + 50 + 2 * 20 + 6 * 50) * matrix
    assert analysis.memory["what a batch adds"] == 24 * 12**2 * 8
    assert analysis.memory["one batch of images"] == 50 * 3 * 32 * 32 * 4
    assert analysis.memory["batches loaded ahead"] == 0
    assert prepared(50, workers=3).memory["batches loaded ahead"] == 2 * 3 * 50 * 3 * 32 * 32


def test_the_memory_of_attention_maps_is_that_of_the_images_that_pass_together():
    maps, columns = (
        3 * 65**2 * 4,
        64**2 * 4,
    )  # of one image of vit_nano: 3 heads, 64 patches and a class token
    for batch_size in (50, 100):
        found = prepared(batch_size, attention=True).memory["attention maps"]
        assert found == 8 * (12 * columns + max(6 * maps, 3 * 12 * columns))
    assert "attention maps" not in prepared(50).memory


def peak(analysis):
    """Bytes that a run holds at most beyond what it began with, by torch's own count."""
    # torch 2.10 warns where it is not said what becomes of events when a cycle ends; there is one.
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        rc.measure(analysis)
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(change for _, change in changes))


def test_attention_maps_take_what_is_said():
    """At 256 pixels one block's maps are all that matters."""
    torch.manual_seed(0)
    module = timm.create_model("test_vit", img_size=256, patch_size=8, depth=1)
    way = Preprocessing(input_size=(3, 256, 256))
    subject = rc.Subject.from_module(module, ["norm"], preprocessing=way)
    images = torch.randn(4, 3, 256, 256)
    analysis = rc.prepare(
        subject, images, batch_size=4, workers=0, device="cpu", smoothing="none", attention=True
    )
    said = analysis.memory["attention maps"]
    assert said > 200 * 2**20
    assert 0.85 < peak(analysis) / said < 1.1


def test_a_batch_that_can_never_fit_is_refused_with_the_largest_that_does(monkeypatch):
    room = sum(prepared(101).meters[0].memory(101).values()) - 1
    monkeypatch.setattr(runtime, "memory_of", lambda device: room)
    with pytest.raises(rc.DataError, match="a batch of at most 100 fits"):
        prepared(150)
    assert prepared(100).memory["Gram matrices"] <= room
    refusal = refused("analyze", "--model", "vit_nano", "--data", "digits", "--batch-size", 150)
    assert "--batch-size 150: the Gram matrices take" in refusal
    monkeypatch.setattr(runtime, "memory_of", lambda device: 2**20)
    with pytest.raises(
        rc.DataError, match=r"the attention maps take .* no batch fits: .*no --attention"
    ):
        prepared(8, attention=True)


def test_too_few_images_for_an_error_are_said_beforehand():
    few = ["--model", "vit_nano", "--data", "digits", "--images", "11", "--dry-run"]
    assert "too few for errors, which take at least 12 images" in succeed("analyze", *few).stderr
