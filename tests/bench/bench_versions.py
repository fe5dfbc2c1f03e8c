"""What a change costs: the default run of this checkout over that of another, alternating in one go.

    git worktree add ../before COMMIT
    python tests/bench/bench_versions.py ../before [--rounds 7]
    python tests/bench/bench_versions.py --tiny    # a small model against itself: whether it runs

Each version runs in a process of its own that stays; both measure the same images in memory in turn, so a busy
machine slows both. Printed are the medians of the ratios of one round, with their range, of elapsed time and of
processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = {"DeiT-S": ("deit_small_patch16_224=random", 224), "ResNet-50": ("resnet50=random", 224)}
TINY = {"test_vit": ("test_vit=random", 160)}
"""Name -> the model, and the height and width of its images."""

WORKER = """
import sys, time, warnings
import torch
import refiner_cka as rc
warnings.simplefilter("ignore")
side = int(sys.argv[2])
data = torch.randn(64, 3, side, side, generator=torch.Generator().manual_seed(0))
prepared = rc.prepare(sys.argv[1], data, batch_size=32, workers=0, device="cpu")
rc.measure(prepared)
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter(), time.process_time()
    rc.measure(prepared)
    print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
"""


def worker(checkout: Path, model: str, side: int) -> subprocess.Popen[str]:
    """Start the process that measures a model with the code of a checkout."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, model, str(side)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline() != "ready\n":
        sys.exit(f"the version in {checkout} does not run")
    return process


def timed(process: subprocess.Popen[str]) -> list[float]:
    """Return elapsed and processor seconds of one more run."""
    process.stdin.write("\n")
    process.stdin.flush()
    return [float(word) for word in process.stdout.readline().split()]


def main() -> None:
    """Compare both versions on each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "other",
        type=Path,
        nargs="?",
        default=ROOT,
        help="another checkout; this one shows the noise",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a small model, once")
    given = parser.parse_args()
    for name, (model, side) in (TINY if given.tiny else MODELS).items():
        pair = [worker(each, model, side) for each in (ROOT, given.other)]
        rounds = []
        for number in range(1 if given.tiny else given.rounds):
            order = (0, 1) if number % 2 else (1, 0)
            times = {each: timed(pair[each]) for each in order}
            rounds.append([here / there for here, there in zip(times[0], times[1], strict=True)])
        for each in pair:
            each.stdin.close()
            each.wait()
        for what, ratios in zip(("elapsed", "processor"), zip(*rounds, strict=True), strict=True):
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{name}: {what} {statistics.median(ratios):.3f} ({spread})", flush=True)


if __name__ == "__main__":
    main()
