"""Speed and memory of Refiner-ViT-S in evaluation, every comparison side by side in one run.

    python tests/bench/bench_refiner.py            # ten alternating pairs of each
    python tests/bench/bench_refiner.py --quick    # three
    python tests/bench/bench_refiner.py --tiny     # small networks and one pair: whether it runs

Prints the time of S over that of timm's DeiT-S, the plain path's time over the fast path's (medians, and of the
pairs' ratios their range), and the peak activation memory of both paths as torch's allocator sees it, weights
excluded.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from recording import record

import refiner_cka.subjects.nano  # noqa: F401  (registers the small networks)
from refiner_cka.refiner import Refiner

TINY = ("refiner_nano", "deit_nano")


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(
    first: Callable[[], object], second: Callable[[], object], pairs: int
) -> list[tuple[float, float]]:
    """Seconds of both, in alternating pairs."""
    first(), second()
    return [(seconds(first), seconds(second)) for _ in range(pairs)]


def compared(timings: list[tuple[float, float]]) -> str:
    """Median seconds of both, and the pairs' ratios: their median and range."""
    one, other = (statistics.median(times) for times in zip(*timings, strict=True))
    ratios = [a / b for a, b in timings]
    return (
        f"{one:.3f} s / {other:.3f} s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that torch's allocator has handed out at once during a call, beyond before it."""
    # torch 2.10 warns where it is not said what becomes of events when a cycle ends; there is one.
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def evaluation(model: Refiner, images: torch.Tensor, *, fast: bool) -> Callable[[], object]:
    """A call of a Refiner by the fast or the plain path."""

    def run() -> object:
        model.fast_evaluation = fast
        with torch.inference_mode():
            return model(images)

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three pairs instead of ten")
    parser.add_argument("--tiny", action="store_true", help="small networks and one pair")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    pairs = 1 if args.tiny else 3 if args.quick else 10
    batch, threads = (2, 1) if args.tiny else (args.batch, args.threads)
    names = TINY if args.tiny else ("refiner_vit_s", "deit_small_patch16_224")
    torch.set_num_threads(threads)
    torch.manual_seed(0)

    refiner, deit = (timm.create_model(name).eval() for name in names)
    images = torch.randn(batch, *deit.pretrained_cfg["input_size"])
    fast = evaluation(refiner, images, fast=True)
    plain = evaluation(refiner, images, fast=False)

    def reference() -> object:
        with torch.inference_mode():
            return deit(images)

    print(f"batch {batch}, {threads} threads, torch {torch.__version__}, {pairs} pairs")
    seconds_of = {
        " / ".join(names): compare(fast, reference, pairs),
        "plain path / fast path": compare(plain, fast, pairs),
    }
    for what, timings in seconds_of.items():
        print(f"{what}: {compared(timings)}")
    memory_plain, memory_fast = (peak_bytes(run) / 2**20 for run in (plain, fast))
    print(
        f"peak activations, plain / fast: {memory_plain:.1f} MiB / {memory_fast:.1f} MiB, "
        f"ratio {memory_plain / memory_fast:.2f}"
    )
    mebibytes = {"plain": memory_plain, "fast": memory_fast}
    record("refiner", [{"batch": batch, "seconds": seconds_of, "peak MiB": mebibytes}])


if __name__ == "__main__":
    main()
