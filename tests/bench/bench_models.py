"""What six models cost in one run, over the sum of a run of each over loaded images and one loading of them.

    python tests/bench/bench_models.py [--rounds 7]
    python tests/bench/bench_models.py --tiny    # small models and few pictures, once: whether it runs

Three untrained models, each twice, with one preprocessing see the same JPEG files: all in one run, and each in a
run of its own that is handed the loaded batches, so that it pays for no loading. Everything is prepared beforehand
and takes turns in one process and one thread. Printed are medians of the rounds' ratios of CPU time, with their
range. *CKA alone* measures no tokens; *default* is as it comes, but for the effective rank, which a long run
measures of few of its images.

Memory is by how much the peak of the run of six is above the highest of the runs of one, each in a forked process,
beside what `analyze --dry-run` says of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_analysis import build
from bench_loading import folder_of
from bench_smoothing import seconds
from recording import record

import refiner_cka as rc
from refiner_cka.analysis import process, run
from refiner_cka.analysis.process import keeping_memory
from refiner_cka.images import Batch, load_batches
from refiner_cka.measures import smoothing

NAMES = ("deit_tiny_patch16_224", "resnet18", "vit_tiny_patch16_224") * 2
TINY = ("test_vit",) * 6
PICTURE = (500, 375)
IMAGES, BATCH = 32, 16
TINY_IMAGES, TINY_BATCH = 8, 8
TOOLS = ("CKA alone", "default")


def prepare(models: Sequence[rc.Subject], folder: Path, batch: int, tool: str) -> rc.Analysis:
    """Prepare a run of these models over a folder."""
    names = [name for name in smoothing.choose(None) if name != "effective_rank"]
    measures = ",".join(names) if tool == "default" else "none"
    return rc.prepare(models, folder, batch_size=batch, workers=0, device="cpu", smoothing=measures)


def load(analysis: rc.Analysis) -> list[Batch]:
    """Load the batches of a run."""
    ways = tuple(dict.fromkeys(model.subject.preprocessing for model in analysis.models))
    wanted = range(len(analysis.plan.batches))
    return list(load_batches(analysis.source, analysis.plan, wanted, ways, workers=0))


@contextmanager
def loaded(batches: Sequence[Batch]) -> Iterator[None]:
    """Have runs measured inside take loaded batches."""
    with mock.patch.object(run, "load_batches", side_effect=lambda *_, **__: iter(batches)):
        yield


def measure_each(runs: Sequence[rc.Analysis], batches: Sequence[Batch]) -> None:
    """Measure runs of one model over loaded batches."""
    with loaded(batches):
        for each in runs:
            rc.measure(each)


def ratios(together: rc.Analysis, apart: Sequence[rc.Analysis], rounds: int) -> list[float]:
    """Return CPU time of one run over that of the runs of one and of loading, round by round."""
    batches = load(together)
    calls: tuple[Callable[[], object], ...] = (
        lambda: rc.measure(together),
        lambda: measure_each(apart, batches),
        lambda: load(together),
    )
    found = []
    # One after the other, as the batches of a long run are: its memory is given back once, in the end.
    with keeping_memory(), mock.patch.object(process, "keeping_memory", nullcontext):
        rc.measure(together)  # makes the memory that the others find
        for number in range(rounds):
            times = {call: seconds(call) for call in (calls, calls[::-1])[number % 2]}
            one, each, loading = (times[call] for call in calls)
            found.append(one / (each + loading))
    return found


def peak(analysis: rc.Analysis) -> float:
    """Return the growth of the peak resident size while a run is measured, in MiB, in a forked process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def measured() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rc.measure(analysis)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sender.send((after - before) / 1024)

    child = multiprocessing.get_context("fork").Process(target=measured)
    child.start()
    grown: float = receiver.recv()
    child.join()
    return grown


def memory(together: rc.Analysis, apart: Sequence[rc.Analysis]) -> tuple[float, float]:
    """Return by how many MiB the run of six peaks above the highest of one, and how many are said."""
    highest, other = max(
        ((peak(each), each) for each in apart[: len(set(NAMES))]), key=lambda found: found[0]
    )
    said = sum(together.memory.values()) - sum(other.memory.values())
    return peak(together) - highest, said / 2**20


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="small models, few pictures, once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names, images, batch = (TINY, TINY_IMAGES, TINY_BATCH) if given.tiny else (NAMES, IMAGES, BATCH)
    rows = []
    print("| six models | CPU time / runs of one and loading (range) |")
    print("|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = folder_of(Path(place) / "pictures", PICTURE, images, images)
        models = [rc.Subject.from_module(build(name)) for name in names]
        models = [replace(each, preprocessing=models[0].preprocessing) for each in models]
        for tool in TOOLS:
            together = prepare(models, folder, batch, tool)
            apart = [prepare([model], folder, batch, tool) for model in models]
            found = ratios(together, apart, 1 if given.tiny else given.rounds)
            rows.append({"tool": tool, "ratios": found})
            spread = f"{min(found):.3f} to {max(found):.3f}"
            print(f"| {tool} | {statistics.median(found):.3f} ({spread}) |", flush=True)
        above, said = memory(together, apart)
        print(f"peak memory above a run of one: {above:.1f} MiB, said {said:.1f} MiB")
    record("models", [*rows, {"MiB": above, "MiB said": said}])


if __name__ == "__main__":
    main()
