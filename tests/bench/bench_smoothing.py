"""What the over-smoothing measures cost: CPU time of an analysis with them over one without.

    python tests/bench/bench_smoothing.py [--pairs 5]
    python tests/bench/bench_smoothing.py --tiny    # a small model and one pair: whether it runs

One thread, and CPU time rather than wall-clock time, so that other programs on the machine matter little. Analyses
with and without alternate over the same batch of inputs; the ratio is the median of the pairs, with their range.
Effective rank is measured on a few images of a run only, so its cost is taken of one image and spread over the
images that share it; it is part of every ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from recording import record

import refiner_cka as rc
from refiner_cka.measures import smoothing
from refiner_cka.measures.tokens import Tokens

RANK = "effective_rank"
MODELS = ("deit_small_patch16_224", "resnet50")
BATCH = 32
TINY_MODELS = ("test_vit",)
TINY_BATCH = 8


def build(name: str) -> nn.Module:
    """An untrained network."""
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name).eval()
    return module


def inputs(module: nn.Module, images: int) -> torch.Tensor:
    """Noise of the size that a network takes."""
    shape = rc.Subject.from_module(module).preprocessing.input_size
    return torch.randn(images, *shape, generator=torch.Generator().manual_seed(0))


def analysis(module: nn.Module, data: torch.Tensor, measures: str) -> Callable[[], object]:
    """A call that measures all images in one batch."""
    prepared = rc.prepare(
        rc.Subject.from_module(module),
        data,
        batch_size=len(data),
        workers=0,
        device="cpu",
        smoothing=measures,
    )
    return lambda: rc.measure(prepared)


def seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(module: nn.Module, data: torch.Tensor, measures: str, pairs: int) -> list[float]:
    """Time with the measures over time without, pair by pair."""
    bare, measured = (analysis(module, data, each) for each in ("none", measures))
    bare(), measured()
    timings = [(seconds(bare), seconds(measured)) for _ in range(pairs)]
    return [b / a for a, b in timings]


def rank_share(module: nn.Module, data: torch.Tensor) -> float:
    """Time of the effective rank over that of an analysis without measures, for a long run's share of images."""
    spent: list[float] = []
    row = smoothing.MEASURES[RANK]

    def timed(tokens: Tokens) -> torch.Tensor:
        _ = tokens.norms  # other measures read them too
        start = time.process_time()
        values = row.function(tokens)
        spent.append(time.process_time() - start)
        return values

    bare = seconds(analysis(module, data, "none"))
    smoothing.MEASURES[RANK] = replace(row, function=timed)
    try:
        analysis(module, data, RANK)()
    finally:
        smoothing.MEASURES[RANK] = row
    one_image = sum(spent) / smoothing.expensive_images(len(data))
    return one_image / smoothing.EFFECTIVE_RANK_SHARE / (bare / len(data))


def main() -> None:
    """Measure every model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small model and one pair")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rc.AnalysisWarning)
    pairs, batch = (1, TINY_BATCH) if arguments.tiny else (arguments.pairs, BATCH)
    chosen = {"default": smoothing.choose(None), "all": smoothing.choose("all")}
    print("| model | token measures | CPU time / without (range) | of it effective rank |")
    print("|---|---|---|---|")
    rows = []
    for name in TINY_MODELS if arguments.tiny else MODELS:
        module = build(name)
        data = inputs(module, batch)
        share = rank_share(module, data)
        for label, names in chosen.items():
            others = ",".join(each for each in names if each != RANK)
            found = [ratio + share for ratio in ratios(module, data, others, pairs)]
            rows.append({"model": name, "measures": label, "ratios": found, "rank": share})
            print(
                f"| {name} | {label} | {statistics.median(found):.3f} ({min(found):.3f} to "
                f"{max(found):.3f}) | {share:.4f} |",
                flush=True,
            )
    record("smoothing", rows)


if __name__ == "__main__":
    main()
