"""What many layers cost at the end of a batch: time and memory for 24, 150 and 600 rows.

    python tests/bench/bench_rows.py [--rounds 5]
    python tests/bench/bench_rows.py --tiny    # few rows and one round: whether it runs

With L rows and batches of n images the products of all pairs take a time that grows with L^2 n^2, all else with
L n^2; the state is folds x L^2 float64 numbers, and four times L^2. Printed are the CPU time of one thread for a
batch, the most memory that torch hands out meanwhile, and beside it what `Analysis.memory` says, as
`analyze --dry-run` prints it; the state, which a run holds from its first batch to its last, is part of both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_refiner import peak_bytes
from bench_saving import Deep
from recording import record

import refiner_cka as rc
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.sums import FOLDS

ROWS, TINY_ROWS = (24, 150, 600), (6,)
BATCH = 64
PARTS = ("Gram matrices", "what a batch adds", "sums")
"""Of what `Analysis.memory` lists, what grows with the rows."""


def end_of_batch(rows: int, rounds: int) -> list[float]:
    """CPU seconds of what follows the last layer of a batch."""
    grams = torch.randn(rows, BATCH, BATCH, generator=torch.Generator().manual_seed(0))
    grams, scales = grams + grams.mT, torch.ones(rows, BATCH)
    folded = Folded(np.arange(BATCH) % FOLDS, torch.device("cpu"))
    spent = []
    for _ in range(rounds + 1):
        start = time.process_time()
        batch_sums(INDICES["cka"], grams, scales, folded)
        spent.append(time.process_time() - start)
    return spent[1:]


def memory(rows: int) -> tuple[int, int]:
    """Bytes that a run of two batches takes at most, and what it says that it takes."""
    torch.manual_seed(0)
    subject = rc.Subject.from_module(Deep(rows), "blocks.*", name="deep")
    data = torch.randn(2 * BATCH, 3, 8, 8)
    options = {"batch_size": BATCH, "workers": 0, "device": "cpu", "smoothing": "none"}
    analysis = rc.prepare(subject, data, **options)
    said = sum(size for part, size in analysis.memory.items() if part in PARTS)
    return peak_bytes(lambda: rc.measure(analysis)), said


def main() -> None:
    """Measure every number of rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="few rows and one round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rc.AnalysisWarning)
    found = []
    print("| rows | end of a batch of 64, CPU time (range) | ns for L^2 n^2 | peak memory | said |")
    print("|---|---|---|---|---|")
    for rows in TINY_ROWS if given.tiny else ROWS:
        spent = end_of_batch(rows, 1 if given.tiny else given.rounds)
        peak, said = memory(rows)
        middle = statistics.median(spent)
        print(
            f"| {rows} | {1e3 * middle:.1f} ms ({1e3 * min(spent):.1f} to {1e3 * max(spent):.1f}) "
            f"| {1e9 * middle / (rows * BATCH) ** 2:.3f} | {peak / 2**20:.1f} MiB | {said / 2**20:.1f} MiB |",
            flush=True,
        )
        found.append({"rows": rows, "seconds": spent, "peak bytes": peak, "said bytes": said})
    record("rows", found)


if __name__ == "__main__":
    main()
