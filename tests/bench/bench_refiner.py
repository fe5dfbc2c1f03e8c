"""Speed and memory of Refiner-ViT-S in evaluation, every comparison side by side in one run.

    python tests/bench/bench_refiner.py            # ten alternating pairs of each
    python tests/bench/bench_refiner.py --quick    # three

Prints the time of S over that of timm's DeiT-S, the plain path's time over the fast path's, and the
peak activation memory of both paths as torch's allocator sees it, weights excluded.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch.profiler import ProfilerActivity, profile

from refiner_cka.refiner import Refiner, refiner_vit_s


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(first: Callable[[], object], second: Callable[[], object], pairs: int) -> list[float]:
    """Median seconds of both over alternating pairs, and the median of the pairs' ratios."""
    first(), second()
    timings = [(seconds(first), seconds(second)) for _ in range(pairs)]
    return [
        statistics.median(a for a, _ in timings),
        statistics.median(b for _, b in timings),
        statistics.median(a / b for a, b in timings),
    ]


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that torch's allocator has handed out at once during a call, beyond before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
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
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    pairs = 3 if args.quick else 10
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    refiner = refiner_vit_s().eval()
    deit = timm.create_model("deit_small_patch16_224").eval()
    images = torch.randn(args.batch, 3, 224, 224)
    fast = evaluation(refiner, images, fast=True)
    plain = evaluation(refiner, images, fast=False)

    def reference() -> object:
        with torch.inference_mode():
            return deit(images)

    print(f"batch {args.batch}, {args.threads} threads, torch {torch.__version__}, {pairs} pairs")
    s, d, ratio = compare(fast, reference, pairs)
    print(f"refiner_vit_s / deit_small_patch16_224: {s:.3f} s / {d:.3f} s, ratio {ratio:.2f}")
    p, f, ratio = compare(plain, fast, pairs)
    print(f"plain path / fast path:                 {p:.3f} s / {f:.3f} s, ratio {ratio:.2f}")
    memory_plain, memory_fast = (peak_bytes(run) / 2**20 for run in (plain, fast))
    print(
        f"peak activations, plain / fast:         {memory_plain:.0f} MiB / {memory_fast:.0f} MiB, "
        f"ratio {memory_plain / memory_fast:.2f}"
    )


if __name__ == "__main__":
    main()
