"""What an analysis costs on a GPU, in one table to paste into an issue.

    python tests/bench/bench_gpu.py [--quick]    # `make bench-gpu`
    python tests/bench/bench_gpu.py --tiny       # a small network, also on a CPU: whether it runs

The images lie in memory, page-locked: what loading costs is measured by `bench_loading.py`. Bare passes and
analyses without and with the default token measures take the same batches in turn, copies to the device included,
at the same precision (fp32 is IEEE's, without TF32), the device idle before and after each. Ratios are to the
fastest bare pass there is, of whole batches or of chunks: the median of the rounds, with their range. The other
columns:

- kernels started, by the profiler: in a bare batch, and beyond those for each layer;
- copies from the device, and calls that wait for it, in the loop of one batch;
- the most memory beyond that of the bare pass;
- the largest error of the matrix against float64 from the same features;
- effective rank, which is in no other column, for its share of a long run's images, over the bare pass;
- the time of two processes that each measure all on the same device, over that of one: 1 if they do not disturb
  each other, 2 if they take turns;
- Refiner's plain evaluation over its fast one.

The last line names the device and the versions; everything goes to `results/bench/gpu.json`, too.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from recording import record
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.insert(0, str(Path(__file__).parents[2]))

import refiner_cka as rc
import refiner_cka.subjects.nano  # registers the small networks
from refiner_cka.analysis.preparation import Analysis
from refiner_cka.analysis.run import Measurement
from refiner_cka.images import Batch
from refiner_cka.measures import smoothing
from refiner_cka.refiner import Refiner
from refiner_cka.subjects.readout import tensor_at
from tests import float64

MODELS = {
    "DeiT-S, 12 blocks": ("deit_small_patch16_224", "block"),
    "ViT-B, 12 blocks": ("vit_base_patch16_224", "block"),
    "ResNet-50, 16 blocks": ("resnet50", "block"),
    "Refiner-S, 16 blocks": ("refiner_vit_s", "block"),
    "DeiT-Ti, 86 leaf layers": ("deit_tiny_patch16_224", "leaves"),
    "refiner_nano, 12 blocks": ("refiner_nano", "block"),
}
TINY = [("refiner_nano, 12 blocks", "bf16", 8)]
CASES = list(itertools.product(list(MODELS)[:5], ("fp32", "bf16"), (64, 256)))
"""Model, precision and images of a batch."""

BATCHES = 2
RANK = "effective_rank"
COLUMNS = (
    "model",
    "precision",
    "batch",
    "bare batch",
    "CKA / bare",
    "with token measures / bare",
    "kernels: bare, CKA and all a layer",
    "copies, waits",
    "memory",
    "error",
    "effective rank",
    "two processes / one",
    "plain / fast",
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True)
class Case:
    """A model, and analyses of it that see the same batches in memory."""

    module: nn.Module
    analyses: dict[str, Analysis]
    batches: list[Batch]
    paths: list[str]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.analyses["CKA"].runtime.device

    def bare(self, chunk: int) -> None:
        """Pass the batches through the model, so many images at a time."""
        with torch.inference_mode():
            for inputs in map(self.inputs, self.batches):
                for part in inputs.split(chunk):
                    self.module(part)

    def inputs(self, batch: Batch) -> torch.Tensor:
        """Return a batch's images as the model takes them, on the device."""
        ((way, pixels),) = batch.inputs.items()
        return way.normalize(pixels.to(self.device, non_blocking=True))

    def measure(self, what: str) -> Measurement:
        """Measure the batches."""
        measurement = Measurement(self.analyses[what])
        for batch in self.batches:
            measurement.add(batch)
        return measurement


def opened(name: str, precision: str, size: int, device: str, stack: ExitStack) -> Case:
    """Build a case and enter the session of its analyses."""
    model, layers = MODELS[name]
    torch.manual_seed(0)
    options = {"zero_init_last": False} if "resnet" in model else {}
    module = timm.create_model(model, **options).eval()
    kinds = (nn.Linear, nn.LayerNorm, nn.GELU)
    leaves = [path for path, part in module.named_modules() if isinstance(part, kinds)]
    subject = rc.Subject.from_module(module, leaves if layers == "leaves" else layers)
    _, height, width = subject.preprocessing.input_size
    shape = (BATCHES * size, height, width, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    default = ",".join(each for each in smoothing.choose(None) if each != RANK)
    analyses = {
        what: rc.prepare(
            subject,
            torch.from_numpy(pictures),
            batch_size=size,
            workers=0,
            device=device,
            precision=precision,
            smoothing=measures,
        )
        for what, measures in (("CKA", "none"), ("tokens", default), (RANK, RANK))
    }
    here = analyses["CKA"].runtime
    stack.enter_context(here.hosting(module))
    stack.enter_context(here.session())
    loader = Measurement(analyses["CKA"])
    batches = list(loader._load(range(BATCHES), workers=0))
    if here.pin_memory:
        batches = [batch.pin_memory() for batch in batches]
    paths = [row.path for row in analyses["CKA"].models[0].rows]
    return Case(module, analyses, batches, paths)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time of one call, from an idle device to an idle device."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until a GPU has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(case: Case, size: int, rounds: int) -> dict[str, Any]:
    """Return what the analyses take, in bare passes that alternate with them."""
    chunks = sorted({size, max(size // 4, 1), min(8, size)})
    runs: dict[str, Callable[[], object]] = {
        **{f"bare {chunk}": partial(case.bare, chunk) for chunk in chunks},
        **{what: partial(case.measure, what) for what in case.analyses},
    }
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(rounds):
        for what, run in runs.items():
            taken[what].append(seconds(run, case.device))
    best = min(chunks, key=lambda chunk: statistics.median(taken[f"bare {chunk}"]))
    bare = taken[f"bare {best}"]
    plan = case.analyses[RANK].plan
    measured = smoothing.expensive_images(BATCHES * size)
    assert len(plan.batches) == BATCHES  # all of the images for effective rank are in these batches
    extra = statistics.median(taken[RANK]) - statistics.median(taken["CKA"])
    share = extra / measured * BATCHES * size / smoothing.EFFECTIVE_RANK_SHARE
    return {
        "bare chunk": best,
        "bare seconds": statistics.median(bare) / BATCHES,
        "CKA": [a / b for a, b in zip(taken["CKA"], bare, strict=True)],
        "tokens": [a / b for a, b in zip(taken["tokens"], bare, strict=True)],
        RANK: share / statistics.median(bare),
        "seconds": taken,
    }


def profiled(run: Callable[[], object], device: torch.device) -> tuple[int, int, int]:
    """Return the kernels that a call starts, copies from the device and calls that wait for it.

    On a CPU the operations that no other one is made of stand for kernels.
    """
    run()
    on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as profiler:
        with record_function("the loop"):
            run()
        wait(device)
    events = profiler.events()
    loop = next(e for e in events if e.name == "the loop" and e.device_type == DeviceType.CPU)
    inside = [e for e in events if e.time_range.start < loop.time_range.end]
    waits = sum(e.name in WAITS for e in inside)
    if device.type != "cuda":
        leaves = [e for e in inside if e.name.startswith("aten::") and not e.cpu_children]
        return len(leaves), 0, waits
    there = [e.name for e in events if e.device_type == DeviceType.CUDA and e.name != "the loop"]
    kernels = [name for name in there if not name.startswith(("Memcpy", "Memset"))]
    return len(kernels), sum("DtoH" in name for name in there), waits


def peak(run: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that torch has handed out during a call beyond that before it; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def error(case: Case) -> float:
    """Return the largest error of CKA against float64 from the same features."""
    grams: dict[str, list[Any]] = {path: [] for path in case.paths}
    places = case.analyses["CKA"].models[0].places

    def see(path: str, _module: nn.Module, _inputs: object, output: object) -> None:
        grams[path].append(gram(tensor_at(output, places[path])))

    with ExitStack() as stack:
        for path in grams:
            part = case.module.get_submodule(path)
            stack.callback(part.register_forward_hook(partial(see, path)).remove)
        for batch in case.batches:
            case.module(case.inputs(batch))
    truth = float64.minibatch_cka_matrix(list(grams.values()))
    return float(np.abs(case.measure("CKA").result().cka() - truth).max())


def gram(output: torch.Tensor) -> Any:
    """Return the Gram matrix of features less those of one image, in float64, made on the device."""
    found = torch.zeros(len(output), len(output), dtype=torch.float64, device=output.device)
    for columns in output.detach().flatten(1).split(1 << 16, dim=1):
        columns = columns.double()
        columns = columns - columns[:1]
        columns -= columns.mean(0)
        found += columns @ columns.T
    return found.cpu().numpy()


def plain_over_fast(case: Case, size: int, rounds: int) -> float | None:
    """Return the time of a Refiner's plain evaluation over that of its fast one."""
    if not isinstance(case.module, Refiner):
        return None
    taken: dict[bool, list[float]] = {False: [], True: []}
    for fast in [False, True] * (rounds + 1):
        case.module.fast_evaluation = fast
        taken[fast].append(seconds(lambda: case.bare(size), case.device))
    # The first of each warms up.
    return statistics.median(a / b for a, b in zip(taken[False][1:], taken[True][1:], strict=True))


def at_once(case: tuple[str, str, int], device: str, rounds: int, count: int) -> float:
    """Return the time in which each of so many processes makes the same analyses, all at once."""
    context = multiprocessing.get_context("spawn")
    start, spent = context.Barrier(count), context.SimpleQueue()
    arguments = (case, device, rounds, start, spent)
    workers = [context.Process(target=_worker, args=arguments) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        return float("nan")
    return max(spent.get() for _ in workers)


def _worker(case: tuple[str, str, int], device: str, rounds: int, start: Any, spent: Any) -> None:
    """Be one of the processes of `at_once`."""
    warnings.simplefilter("ignore")
    with ExitStack() as stack:
        try:
            opened_case = opened(*case, device, stack)
            opened_case.measure("tokens")
            wait(opened_case.device)
        except BaseException:
            start.abort()  # lest the others wait for this one
            raise
        start.wait()
        begun = time.perf_counter()
        for _ in range(rounds):
            opened_case.measure("tokens")
        wait(opened_case.device)
        spent.put(time.perf_counter() - begun)


def alone(name: str, precision: str, size: int, device: str, rounds: int) -> dict[str, Any]:
    """Return what is measured of a case in this process."""
    with ExitStack() as stack:
        case = opened(name, precision, size, device, stack)
        one = replace(case, batches=case.batches[:1])
        found = {"model": name, "precision": precision, "batch": size, "layers": len(case.paths)}
        found |= timed(case, size, rounds)
        runs = {"bare": partial(case.bare, found["bare chunk"])}
        launches = {"bare": partial(one.bare, size)}
        for what in ("CKA", "tokens"):
            runs[what], launches[what] = partial(case.measure, what), partial(one.measure, what)
        memory = {what: peak(run, case.device) for what, run in runs.items()}
        return found | {
            "launches": {what: profiled(run, case.device) for what, run in launches.items()},
            "memory": {what: memory[what] - memory["bare"] for what in ("CKA", "tokens")},
            "error": error(case),
            "plain / fast": plain_over_fast(case, size, rounds),
        }


def measured(name: str, precision: str, size: int, device: str, rounds: int) -> dict[str, Any]:
    """Return all that is measured of a case."""
    found = alone(name, precision, size, device, rounds)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()  # the processes need the memory
    one, two = (at_once((name, precision, size), device, rounds, count) for count in (1, 2))
    return found | {"two / one": two / one}


def row(found: dict[str, Any]) -> str:
    """Return the row of the table."""
    layers, launches = found["layers"], found["launches"]
    bare, cka, tokens = (launches[what][0] for what in ("bare", "CKA", "tokens"))
    _, copies, waits = launches["tokens"]
    fast = found["plain / fast"]
    cells = (
        found["model"],
        found["precision"],
        found["batch"],
        f"{1000 * found['bare seconds']:.1f} ms in chunks of {found['bare chunk']}",
        spread(found["CKA"]),
        spread(found["tokens"]),
        f"{bare}, {(cka - bare) / layers:.0f}, {(tokens - bare) / layers:.0f}",
        f"{copies or 'no'}, {waits or 'no'}",
        f"{found['memory']['tokens'] / 1e6:.0f} MB"
        if found["memory"]["tokens"]
        else "not measured",
        f"{found['error']:.1e}",
        f"{100 * found[RANK]:.1f} %",
        f"{found['two / one']:.2f}",
        "" if fast is None else f"{fast:.2f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def spread(values: Sequence[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--tiny", action="store_true", help="a small network and one round")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        sys.exit("this machine has no GPU that torch can use: nothing was measured")
    warnings.simplefilter("ignore")
    rounds = 1 if arguments.tiny else 3 if arguments.quick else 9
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    rows = []
    for case in TINY if arguments.tiny else CASES:
        try:
            rows.append(measured(*case, device, rounds))
        except torch.OutOfMemoryError:
            print(f"| {' | '.join(map(str, case))} | out of memory |", flush=True)
            continue
        print(row(rows[-1]), flush=True)
    record("gpu", rows)


if __name__ == "__main__":
    main()
