"""What the over-smoothing measures cost: CPU time of an analysis with them over one without.

    python tests/bench/bench_smoothing.py [--pairs 5]

One thread, and CPU time rather than wall-clock time, so that other programs on the machine matter little. Batches
with and without alternate over the same images; the ratio is the median of the pairs, with their range. Effective
rank is measured on a few images only, so its cost is taken of one image and spread over the images that share it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import timm

import refiner_cka as rc
from refiner_cka import engine, smoothing
from refiner_cka.images import Batch

BATCH = 32
LATE = 25
"""Number of a batch of which no image is kept and none has its effective rank taken."""


def measurement(name, measures, attention=False):
    torch.manual_seed(0)
    subject = rc.Subject.from_module(timm.create_model(name), "block", name=name)
    images = torch.zeros(BATCH * (LATE + 1), 8, 8, 3, dtype=torch.uint8)
    analysis = rc.prepare(
        subject,
        images,
        batch_size=BATCH,
        workers=0,
        device="cpu",
        smoothing=measures,
        attention=attention,
    )
    return engine.Measurement(analysis), subject.preprocessing


def seconds(running, preprocessing, pixels, index):
    running.accumulator._batches.clear()
    before = time.process_time()
    running.add(Batch(index, {preprocessing: pixels}, None, ()))
    return time.process_time() - before


def compare(name, pairs, with_what, attention=False):
    """Return the ratios of the pairs, and seconds of a batch without measures."""
    plain, preprocessing = measurement(name, "none")
    measured, _ = measurement(name, with_what, attention)
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, *preprocessing.input_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ratios, bare = [], []
    with torch.inference_mode(), plain, measured:
        for running in (plain, measured):
            seconds(running, preprocessing, pixels, LATE)
        for _ in range(pairs):
            bare.append(seconds(plain, preprocessing, pixels, LATE))
            ratios.append(seconds(measured, preprocessing, pixels, LATE) / bare[-1])
    return ratios, statistics.median(bare)


def rank_seconds(name):
    """Return seconds of the effective rank of one image at all layers."""
    running, preprocessing = measurement(name, "effective_rank")
    pixels = torch.randint(0, 256, (8, *preprocessing.input_size), dtype=torch.uint8)
    spent = []

    def timed(tokens):
        before = time.process_time()
        values = function(tokens)
        spent.append((time.process_time() - before) / max(tokens.dear, 1))
        return values

    row = smoothing.MEASURES["effective_rank"]
    function = row.function
    smoothing.MEASURES["effective_rank"] = type(row)(**{**vars(row), "function": timed})
    try:
        with torch.inference_mode(), running:
            running.add(Batch(0, {preprocessing: pixels}, None, ()))
    finally:
        smoothing.MEASURES["effective_rank"] = row
    return sum(spent)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    default = ",".join(name for name in smoothing.choose(None) if name != "effective_rank")
    everything = ",".join(name for name in smoothing.MEASURES if name != "effective_rank")
    for name in ("deit_small_patch16_224", "resnet50"):
        ratios, bare = compare(name, pairs, default)
        share = rank_seconds(name) / smoothing.EFFECTIVE_RANK_SHARE / (bare / BATCH)
        ratio = statistics.median(ratios)
        print(
            f"{name}: default without effective rank {ratio:.3f} ({min(ratios):.3f} to "
            f"{max(ratios):.3f}), effective rank {share:+.3f}: in all {ratio + share:.3f}"
        )
        ratios, _ = compare(name, pairs, everything)
        print(f"{name}: all token measures {statistics.median(ratios):.3f}")
    ratios, _ = compare("deit_small_patch16_224", pairs, default, attention=True)
    print(f"deit_small_patch16_224: default and --attention {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
