"""What saving costs: the share of a run that goes into saving what was measured, at the default --save-every.

    python tests/bench/bench_saving.py [--saves 5]
    python tests/bench/bench_saving.py --tiny    # few rows and one save: whether it runs

A run saves its state after every so many seconds, and is not measuring meanwhile: the share is the CPU time of one
save over that interval, so that other programs on the machine matter little. The state is that of a run over
50,000 images in batches of 64, all of them held, with so many layers; besides CKA it holds the default measures.
Each save is made and written to the disk as `analyze` does. By the clock it waits for the disk as well: beside it
stands the time of writing as many bytes alone, in the same process.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from recording import record

import refiner_cka as rc
from refiner_cka.analysis.run import Measurement
from refiner_cka.analysis.state import Seen
from refiner_cka.results.atomic import write_whole
from refiner_cka.sums import FOLDS, IMAGES, fold_of

ROWS = (24, 150, 600)
RUN, BATCH = 50_000, 64
TINY_ROWS, TINY_RUN = (6,), 256
EVERY = inspect.signature(rc.measure).parameters["save_every"].default


class Deep(nn.Module):
    """So many layers, each of which returns tokens."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the last layer."""
        x = self.embed(x).flatten(2).mT
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


def measured(rows: int, images: int) -> Measurement:
    """A run that holds all its batches: the sums of one that was measured, and what is noted of each."""
    torch.manual_seed(0)
    subject = rc.Subject.from_module(Deep(rows), "blocks.*", name="deep")
    data = torch.randn(images, 3, 8, 8)
    analysis = rc.prepare(subject, data, batch_size=BATCH, workers=0, device="cpu")
    first = Measurement(analysis)
    with analysis.runtime.session():
        first.measure([0], lambda *_: None)
    sums, digests = first.state.sums(), first.state.seen[0].digests
    sizes = [len(batch) for batch in analysis.plan.batches]
    folds = fold_of(np.arange(sum(sizes)))
    sums[IMAGES.path] = np.bincount(folds, minlength=FOLDS).astype(np.float64)
    seen: dict[int, Seen] = {}
    for batch, size in enumerate(sizes):
        held = np.arange(1, BATCH + 1, dtype=np.uint64) + np.uint64(batch * BATCH)
        held[size:] = 0
        seen[batch] = Seen(size, size, digests, held.tobytes())
    found = Measurement(analysis)
    found.state.load(sums, seen)
    return found


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Time of one call: of the CPU, and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - clock


def timed(
    measurement: Measurement, saves: int, folder: Path
) -> tuple[list[float], list[float], list[float], int]:
    """Return the CPU times of saves, those by the clock, those of plain writes in between, and the bytes."""
    saved, plain = folder / "run.h5", folder / "plain"

    def save() -> None:
        part = measurement.part()
        assert part is not None
        part.save(saved)

    save()
    content = os.urandom(saved.stat().st_size)
    times = [
        (*seconds(save), seconds(lambda: write_whole(plain, content))[1]) for _ in range(saves)
    ]
    cpu, clock, alone = map(list, zip(*times, strict=True))
    return cpu, clock, alone, len(content)


def main() -> None:
    """Measure every number of rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="few rows and one save")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    saves, images = (1, TINY_RUN) if arguments.tiny else (arguments.saves, RUN)
    print(
        "| rows | file | CPU time of a save (range) | by the clock | a plain write | share of a run |"
    )
    print("|---|---|---|---|---|---|")
    measured_rows = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in TINY_ROWS if arguments.tiny else ROWS:
            cpu, clock, alone, size = timed(measured(rows, images), saves, Path(folder))
            middle = statistics.median(cpu)
            seconds_of = {"CPU": cpu, "clock": clock, "plain write": alone}
            measured_rows.append({"rows": rows, "bytes": size, "seconds": seconds_of})
            print(
                f"| {rows} | {size / 2**20:.1f} MiB | {middle:.3f} s ({min(cpu):.3f} to {max(cpu):.3f}) "
                f"| {statistics.median(clock):.3f} s | {statistics.median(alone):.3f} s "
                f"| {100 * middle / EVERY:.2f} % |",
                flush=True,
            )
    record("saving", measured_rows)


if __name__ == "__main__":
    main()
