"""Simulate what docs/statistics.md claims, and print its tables.

python -m tests.simulation                 # as `make simulate` does; about a quarter of an hour
python -m tests.simulation --quick         # a few repetitions of everything, to see that it runs
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from . import coverage, indices, null, orders, ratios, smoothing

SIZES = (64, 146, 200, 640, 2000)
"""Images of a run."""

QUICK_SIZES = (64, 146)

TABLES = {
    "How often intervals hold what is true, in per cent": coverage.table,
    "Normalised curves whose denominator is small": ratios.table,
    "Measures of tokens: how often intervals hold what is true, in per cent": smoothing.table,
    "Classes that take turns": orders.table,
    "Similarity indices of 512 images in batches of several sizes": indices.table,
    "P-values of unrelated images against their permutations": null.table,
}


def main() -> None:
    """Print every table, each as soon as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=600, help="of each cell")
    parser.add_argument("--quick", action="store_true", help="few repetitions, few images")
    parser.add_argument("--images", type=int, nargs="+", default=SIZES, help="of a run")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    chosen = parser.parse_args()
    sizes = QUICK_SIZES if chosen.quick else chosen.images
    repetitions = 10 if chosen.quick else chosen.repetitions
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(chosen.jobs, spawn, torch.set_num_threads, (1,)) as executor:
        for title, table in TABLES.items():
            print(f"{title}\n\n{table(executor, repetitions, sizes)}\n", flush=True)


if __name__ == "__main__":
    main()
