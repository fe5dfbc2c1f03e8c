"""Where an analysis spends its time, and the least that each part could take on this machine.

    python tests/bench/bench_profile.py [--rounds 3]
    python tests/bench/bench_profile.py --tiny    # a small model and one round: whether it runs

CPU time of one thread for the cases of bench_analysis.py, one batch each, with the default measures but effective
rank. All times are shares of the best bare passes over the same images. Rounds alternate; a share is the median.

*Bound* is what a part takes at the best rate that the machine itself shows in the same run:

- the products, at the rate of one large product of square matrices: 1.5 n^2 operations for each number an image
  puts out, as a quarter of the square is left out;
- what else is done to features, at the rate of a copy within the cache (`CACHED` bytes) for all that torch's calls
  read and write, counted in the run, and at the rate of a copy from memory for the first reading.

What is left of a run without passes, Gram matrices, measures and the end of the batch is the tool's own: images,
hooks, and chunks of a batch that take turns and so find their data in no cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_analysis import CASES, TINY, Case, bare, build, fastest, layer_paths, prepare
from bench_smoothing import seconds
from recording import record

import refiner_cka as rc
from refiner_cka.analysis import process
from refiner_cka.analysis.passes import Passes
from refiner_cka.analysis.process import keeping_memory
from refiner_cka.measures import hsic
from refiner_cka.measures.gram import Similarity
from refiner_cka.measures.token_meter import TokenMeter

CACHED = 1 << 21
"""Bytes of a copy that stays in a core's cache, source and target together."""

PARTS = {
    "products of Gram matrices": [(hsic, "_product")],
    "copies and centring for them": [(hsic, "gram")],
    "default token measures": [(Passes, "_see_batch")],
    "end of the batch": [(Similarity, "added"), (TokenMeter, "added")],
}
"""Part -> the functions that it is spent in. What is inside another counts there alone."""

REST = "images, hooks, taking turns"


class Clock:
    """CPU time of functions, without that of those inside them, in seconds by part."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what happens inside."""
        start = time.process_time()
        self._inside.append(0.0)
        yield
        taken = time.process_time() - start
        self.spent[part] += taken - self._inside.pop()
        if self._inside:
            self._inside[-1] += taken

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count every part, wherever it is called from."""
        with ExitStack() as stack:
            for part, places in PARTS.items():
                for owner, name in places:
                    timed = self._timed(part, getattr(owner, name))
                    stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.of(part):
                return function(*args, **kwargs)

        return call


class Traffic(TorchDispatchMode):
    """Counts the bytes that torch's calls read and write inside parts that only touch features."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)
        self._parts: list[str] = []

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what happens inside."""
        self._parts.append(part)
        yield
        self._parts.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._parts and not func.is_view and "empty" not in func.name():
            touched = [*tree_leaves((args, kwargs)), *tree_leaves(result)]
            sizes = [each.nbytes for each in touched if isinstance(each, torch.Tensor)]
            self.bytes[self._parts[-1]] += sum(sizes)
        return result


def best(run: Callable[[], object], times: int) -> float:
    """The least CPU time of several calls, after one to warm up."""
    run()
    return min(seconds(run) for _ in range(times))


def machine(size: int) -> dict[str, float]:
    """The best that one thread shows: operations a second, bytes a second from memory and within the cache.

    Args:
        size: rows of the square matrices; 16 times the bytes of one are copied from memory.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    large = torch.ones(16 * size**2), torch.empty(16 * size**2)
    small = torch.ones(CACHED // 8), torch.empty(CACHED // 8)
    copies = 100

    def copy_small() -> None:
        for _ in range(copies):
            small[1].copy_(small[0])

    return {
        "operations": 2 * size**3 / best(lambda: a @ b, 5),
        "memory": 2 * large[0].nbytes / best(lambda: large[1].copy_(large[0]), 5),
        "cache": copies * CACHED / best(copy_small, 5),
    }


def features(module: nn.Module, paths: list[str], image: torch.Tensor) -> int:
    """How many numbers the layers put out for an image."""
    found = []

    def add(_module: nn.Module, _inputs: object, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).numel())

    handles = [module.get_submodule(path).register_forward_hook(add) for path in paths]
    with torch.inference_mode():
        module(image)
    for handle in handles:
        handle.remove()
    return sum(found)


def measure(case: Case, rounds: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Return what each part of an analysis of one batch costs, and its bound, over the best bare pass."""
    module = build(case.model)
    paths = layer_paths(module, case.layers)
    shape = rc.Subject.from_module(module, paths).preprocessing.input_size
    data = torch.randn(case.size, *shape, generator=torch.Generator().manual_seed(0))
    prepared = prepare(module, paths, data, case.size, "default")
    run = partial(rc.measure, prepared)
    with keeping_memory(), mock.patch.object(process, "keeping_memory", nullcontext):
        way = fastest(module, data, case.size)
        passes = partial(bare, module, data, way)
        run()
        shares, base = defaultdict(list), []
        for _ in range(rounds):
            base.append(seconds(passes))
            clock = Clock()
            with clock.running():
                whole = seconds(run)
            clock.spent[REST] = whole - sum(clock.spent.values()) - base[-1]
            for part, spent in clock.spent.items():
                shares[part].append(spent / base[-1])
    numbers = features(module, paths, data[:1])
    bounds = bounds_of(run, case.size, numbers, rates)
    return [
        {
            "case": case.label,
            "part": part,
            "shares": shares[part],
            "bound": bounds[part] / statistics.median(base) if part in bounds else None,
        }
        for part in (*PARTS, REST)
    ]


def bounds_of(
    run: Callable[[], object], images: int, numbers: int, rates: dict[str, float]
) -> dict[str, float]:
    """Return the seconds that parts could take at least."""
    product, copies, measures, _ = PARTS
    traffic, counted = Traffic(), Clock()
    counted.of = traffic.of  # type: ignore[method-assign]
    with traffic, counted.running():
        run()
    first = 4 * images * numbers / rates["memory"]
    return {
        product: 1.5 * images**2 * numbers / rates["operations"],
        copies: first + traffic.bytes[copies] / rates["cache"],
        measures: first + traffic.bytes[measures] / rates["cache"],
    }


def main() -> None:
    """Profile every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--tiny", action="store_true", help="a small model and one round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rc.AnalysisWarning)
    rates = machine(256 if given.tiny else 2048)
    print(
        f"one thread: {rates['operations'] / 1e9:.0f} GFLOP/s, {rates['memory'] / 1e9:.1f} GB/s from memory, "
        f"{rates['cache'] / 1e9:.0f} GB/s within the cache\n"
    )
    print("| case | part | share of the best bare pass (range) | bound |")
    print("|---|---|---|---|", flush=True)
    rows = []
    for case in TINY if given.tiny else CASES:
        if given.case in case.label:
            for row in measure(case, 1 if given.tiny else given.rounds, rates):
                rows.append(row)
                found, bound = row["shares"], row["bound"]
                print(
                    f"| {row['case']} | {row['part']} | {statistics.median(found):.3f} ({min(found):.3f} to "
                    f"{max(found):.3f}) | {'' if bound is None else f'{bound:.3f}'} |",
                    flush=True,
                )
    record("profile", [{"rates": rates}, *rows])


if __name__ == "__main__":
    main()
