"""What an analysis costs: time over the best bare forward passes, extra peak memory, error against float64.

    python tests/bench/bench_analysis.py [--quick] [--case TEXT]    # --quick: one batch, not two
    python tests/bench/bench_analysis.py --tiny    # a small model and three rounds: whether it runs

*Best bare* are the model's own passes over the same images, in whole batches or in chunks, whichever is fastest
on this machine, and with the memory of a layer kept for the next, as this tool keeps it. A first look picks the
fastest; then it alternates with the tool over the same images in memory, and a row is the median of the rounds'
ratios. In brackets is between what the median of another run lies with 95 %. The tools:

- `whole batches`: bare passes as most scripts do them, in whole batches, memory left to the C library.
- `CKA alone`: this tool without measures of tokens, over prepared models.
- `default`: this tool as it comes, in a run of 1,000 images: the default measures, their effective rank at its
  share of such a run, and for each image a thousandth of what preparing costs. How many bare images that is stands
  beside.
- `pytorch-cka`, `cka-pytorch`, `torch_cka`: each compares two models, here a model and its copy, over the time of
  two best bare passes, as it comes: memory is left to the C library. One that is not installed, or takes longer
  than `--patience`, is left out and said to be.

Each tool has a forked process of its own, and all tools take turns, so that a machine that is faster in one minute
than in the next is so for all. Memory is the growth of the process's peak resident size over that of bare passes
in whole batches. The error is the largest of the matrix against float64 from the same features.
All rows are written to results/bench/analysis.json too.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_smoothing import rank_share
from recording import another, installed, record

import refiner_cka as rc
import refiner_cka.subjects.nano
from refiner_cka.analysis import process
from refiner_cka.analysis.process import keeping_memory
from refiner_cka.measures import smoothing
from tests import float64


class Effort(NamedTuple):
    """Over how many batches each time is taken, and how often."""

    batches: int
    rounds: int


class Case(NamedTuple):
    """A model, which of its layers are compared, and how many images form a batch."""

    label: str
    model: str
    layers: str
    size: int


CASES = (
    Case("DeiT-S, 12 blocks, batches of 32", "deit_small_patch16_224", "block", 32),
    Case("ResNet-50, 16 blocks, batches of 32", "resnet50", "block", 32),
    Case("DeiT-Ti, 86 leaf layers, batches of 64", "deit_tiny_patch16_224", "leaves", 64),
    Case("Refiner-S, 16 blocks, batches of 32", "refiner_vit_s", "block", 32),
)
TINY = (Case("test_vit, 6 blocks, batches of 8", "test_vit", "block", 8),)
OURS = ("CKA alone", "default")
OTHERS = {"pytorch-cka": "pytorch-cka", "cka-pytorch": "cka-pytorch", "torch_cka": "torch-cka"}
"""Tool -> its distribution."""

CHUNKS = (16, 8)
RUN = 1000
"""Images of the run over which the fixed costs of `default` are spread."""

Answers = Iterator[dict[str, Any]]
"""What a tool says of a case, round by round."""


def build(name: str) -> nn.Module:
    """An untrained network."""
    torch.manual_seed(0)
    options = {"zero_init_last": False} if "resnet" in name else {}
    return timm.create_model(name, **options).eval()


def layer_paths(module: nn.Module, layers: str) -> list[str]:
    """The layers of a case: blocks, or all that have parameters of their own and the activations."""
    if layers == "block":
        return list(rc.subjects.find_layers(module, "block"))
    kinds = (nn.Linear, nn.LayerNorm, nn.GELU)
    return [path for path, part in module.named_modules() if isinstance(part, kinds)]


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def loader(data: torch.Tensor, size: int) -> DataLoader:
    return DataLoader(list(data), batch_size=size, collate_fn=_with_classes)


def _with_classes(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as those packages want it, with classes that none of them looks at."""
    return torch.stack(list(rows)), torch.zeros(len(rows))


def prepare(module: nn.Module, paths: list[str], data: torch.Tensor, size: int, tool: str) -> Any:
    """Prepare an analysis by this tool."""
    names = [name for name in smoothing.choose(None) if name != "effective_rank"]
    return rc.prepare(
        rc.Subject.from_module(module, paths),
        data,
        batch_size=size,
        workers=0,
        device="cpu",
        smoothing=",".join(names) if tool == "default" else "none",
    )


def analysis(
    tool: str, module: nn.Module, paths: list[str], data: torch.Tensor, size: int
) -> Callable[[], np.ndarray]:
    """Return a function that runs one analysis over the data and returns its matrix."""
    if tool in OURS:
        prepared = prepare(module, paths, data, size, tool)
        return lambda: rc.measure(prepared).cka()
    other = copy.deepcopy(module)
    if tool == "pytorch-cka":
        from cka import compute_cka

        options = {"layers": paths, "device": "cpu", "progress": False}
        return lambda: np.asarray(compute_cka(module, other, loader(data, size), **options))[0]
    if tool == "cka-pytorch":
        from cka_pytorch import CKACalculator

        compared = CKACalculator(module, other, paths, verbose=False)
        # It also takes layers whose last name is one of these paths.
        names = list(compared.hook_manager1.module_names)
        asked = np.ix_(*[[names.index(path) for path in paths]] * 2)

        def calculate() -> np.ndarray:
            matrix = compared.calculate_cka_matrix(loader(data, size), num_epochs=1)
            return matrix.numpy()[asked]

        return calculate
    from torch_cka import CKA

    compared = CKA(module, other, model1_layers=paths, model2_layers=paths)

    def run() -> np.ndarray:
        with torch.inference_mode():
            compared.compare(loader(data, size))
        return compared.hsic_matrix.numpy()

    return run


def bare(module: nn.Module, data: torch.Tensor, size: int) -> None:
    """Run a bare forward pass over all images."""
    with torch.inference_mode():
        for batch in data.split(size):
            module(batch)


def truth(module: nn.Module, paths: list[str], batches: Sequence[torch.Tensor]) -> np.ndarray:
    """CKA in float64 from the same float32 features."""
    grams: dict[str, list[np.ndarray]] = {path: [] for path in paths}

    def add(path: str, output: Any) -> None:
        # A block of Refiner returns its attention, too.
        tokens = output[0] if isinstance(output, tuple) else output
        grams[path].append(float64.gram(tokens.numpy()))

    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, path=path: add(path, output)
        )
        for path in paths
    ]
    with torch.inference_mode():
        for batch in batches:
            module(batch)
    for handle in handles:
        handle.remove()
    return float64.minibatch_cka_matrix(list(grams.values()))


def fastest(module: nn.Module, data: torch.Tensor, size: int) -> int:
    """Return in chunks of how many images a bare pass is fastest, once memory is there: the best of three each."""
    bare(module, data, size)
    ways = [way for way in (size, *CHUNKS) if way <= size]
    times = [[seconds(lambda way=way: bare(module, data, way)) for way in ways] for _ in range(3)]
    return min(zip(np.min(times, axis=0).tolist(), ways, strict=True))[1]


def measure(case: Case, tool: str, rounds: int, batches: int, best: int | None) -> Answers:
    """Yield what each round finds of one tool over one case, and once more what it costs beside.

    Args:
        case: what is measured.
        tool: with which tool.
        rounds: how often.
        batches: over how many batches each time.
        best: chunks of how many images make the best bare passes; found and told by the first tool.
    """
    warnings.simplefilter("ignore")
    module = build(case.model)
    paths = layer_paths(module, case.layers)
    shape = rc.Subject.from_module(module, paths).preprocessing.input_size
    data = torch.randn(batches * case.size, *shape, generator=torch.Generator().manual_seed(0))
    if best is None:
        with keeping_memory():
            best = fastest(module, data, case.size)
        yield {"best chunk": best}
    if tool == "whole batches":
        whole = partial(bare, module, data, case.size)
        for found in paired(whole, module, data, case.size, best, rounds):
            yield {"ratio": found.ratio}
        return
    run = analysis(tool, module, paths, data, case.size)
    if tool in OURS:
        yield from own(tool, run, module, paths, data, case.size, best, rounds)
        return
    matrices = []
    for found in paired(run, module, data, case.size, best, rounds, passes=2):
        yield {"ratio": found.ratio, "memory": found.memory}
        matrices.append(found.result)
    # The first: some of them add what follows to it.
    yield {"error": error(matrices[0], module, paths, data.split(case.size))}


class Round(NamedTuple):
    """Ratio of a call to the best bare passes; what it returned, and by how many MB the first one's peak grew."""

    ratio: float
    result: Any
    memory: float


def paired(
    run: Callable[[], object],
    module: nn.Module,
    data: torch.Tensor,
    size: int,
    best: int,
    rounds: int,
    passes: int = 1,
) -> Iterator[Round]:
    """Alternate a call, which leaves memory to the C library, with the best bare pass, which keeps it.

    The ratio is to so many of these passes.
    """
    memory = 0.0
    for number in range(rounds):
        with keeping_memory():
            bare(module, data, best if number else size)
            base = passes * seconds(lambda: bare(module, data, best))
        before, start = peak(), time.perf_counter()
        result = run()
        taken = time.perf_counter() - start
        memory = memory if number else peak() - before
        yield Round(taken / base, result, memory)


def own(
    tool: str,
    run: Callable[[], np.ndarray],
    module: nn.Module,
    paths: list[str],
    data: torch.Tensor,
    size: int,
    best: int,
    rounds: int,
) -> Answers:
    """Yield what this tool's rounds find; of `default` also what effective rank and preparing take beside."""
    bare(module, data, size)
    before = peak()
    matrix = run()
    memory = peak() - before
    rank = rank_share(module, data[:size]) if tool == "default" else 0.0
    bases, ratios = [], []
    # One after the other, as the batches of a long run are: its memory is given back once, in the end.
    with keeping_memory(), mock.patch.object(process, "keeping_memory", nullcontext):
        bare(module, data, best), run()
        for _ in range(rounds):
            bases.append(seconds(lambda: bare(module, data, best)))
            ratios.append(seconds(run) / bases[-1])
            yield {"ratio": ratios[-1], "memory": memory}
    start = time.perf_counter()
    plan = prepare(module, paths, data, size, tool).plan
    once = (time.perf_counter() - start) / statistics.median(bases) * len(data)
    if tool == "default":
        beside = rank * statistics.median(ratios) + once / RUN
        yield {"preparing, in images": once, "beside": beside}
    yield {"error": error(matrix, module, paths, [data[list(batch)] for batch in plan.batches])}


def error(
    matrix: np.ndarray, module: nn.Module, paths: list[str], batches: Sequence[torch.Tensor]
) -> float:
    """Return the largest difference of a matrix from float64."""
    return float(np.abs(matrix - truth(module, paths, batches)).max())


class Contestant:
    """A tool that measures one case in a process of its own, a round when it is asked to.

    Attributes:
        row: what it found so far; its ratios, or why it failed.
    """

    def __init__(self, case: Case, tool: str, *arguments: Any) -> None:
        self.row: dict[str, Any] = {"case": case.label, "tool": tool, "ratios": []}
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        work = (other, measure(case, tool, *arguments))
        self._process = context.Process(target=_serve, args=work, daemon=True)
        self._process.start()
        other.close()

    def ask(self, patience: float | None) -> bool:
        """Have it measure once; return whether there may be more to ask for."""
        try:
            self._connection.send("go")
            if not self._connection.poll(patience):
                self.row["failed"] = f"took longer than {patience:g} s"
                return self.end()
            found = self._connection.recv()
        except (EOFError, OSError):
            found = {"failed": "its process died"}
        if found is None or "failed" in found:
            self.row |= found or {}
            return self.end()
        if "ratio" in found:
            self.row["ratios"].append(found.pop("ratio"))
        self.row |= found
        return True

    def end(self) -> bool:
        """End its process."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        return False


def _serve(connection: Connection, rounds: Answers) -> None:
    """Answer each request with what the next round found; without the progress bars of the tools."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    while connection.recv():
        try:
            connection.send(next(rounds, None))
        except Exception as failure:  # such as torch_cka's own check of its numbers
            connection.send({"failed": f"{type(failure).__name__}: {failure}"})


def contest(case: Case, effort: Effort, patience: float) -> Iterator[dict[str, Any]]:
    """Yield what each tool costs, in turns: a machine is not equally fast from one minute to the next."""
    first = Contestant(case, "whole batches", effort.rounds, effort.batches, None)
    first.ask(None)
    best = first.row["best chunk"]
    playing = [first]
    missing = [tool for tool in OTHERS if not installed(OTHERS[tool])]
    for tool in (*OURS, *OTHERS):
        if tool not in missing:
            rounds = -(-effort.rounds // 2) if tool in OTHERS else effort.rounds
            playing.append(Contestant(case, tool, rounds, effort.batches, best))
    rows = [each.row for each in playing]
    turn = 0
    while playing:
        for each in tuple(playing):
            other = each.row["tool"] in OTHERS
            # Theirs are half as many rounds, over as long a time.
            if (not other or turn % 2 == 0) and not each.ask(patience if other else None):
                playing.remove(each)
        turn += 1
    yield from rows
    yield from ({"case": case.label, "tool": tool, "failed": "not installed"} for tool in missing)


def cells(found: dict[str, Any]) -> str:
    """The cells of a row."""
    tool = found["tool"]
    name = f"refiner-cka, {tool}" if tool in OURS else tool
    if tool in OTHERS and (known := installed(OTHERS[tool])):
        name += f" {known}"
    if "failed" in found:
        return f"{found['case']} | {name} | {found['failed']} | | | "
    ratios = [ratio + found.get("beside", 0.0) for ratio in found["ratios"]]
    parts = [
        "{1:.2f} ({0:.2f} to {2:.2f})".format(*another(ratios)),
        f"{found['memory']:.0f} MB" if "memory" in found else "",
        f"{found['error']:.1e}" if "error" in found else "",
        f"{found['preparing, in images']:.0f} images" if "preparing, in images" in found else "",
    ]
    return f"{found['case']} | {name} | " + " | ".join(parts)


def main() -> None:
    """Run every case with every tool and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one batch, not two")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds for another package")
    parser.add_argument("--tiny", action="store_true", help="a small model and three rounds")
    given = parser.parse_args()
    effort = Effort(1, 3) if given.tiny else Effort(1 if given.quick else 2, 5)
    print(
        "| case | tool | time / best bare (other runs) | extra peak memory | largest error | preparing |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    rows = []
    for case in TINY if given.tiny else CASES:
        if given.case in case.label:
            for row in contest(case, effort, given.patience):
                rows.append(row)
                print(f"| {cells(row)} |", flush=True)
    record("analysis", rows)


if __name__ == "__main__":
    main()
