"""What an analysis costs: time over bare forward passes, extra peak memory, error against float64.

    python tests/bench/bench_analysis.py [--quick]
    python tests/bench/bench_analysis.py --tiny    # a small model and one pair: whether it runs

CKA alone: `bench_smoothing.py` measures what over-smoothing adds. Each case runs in a forked process of its own.
Times are ratios of passes that alternate over the same images in memory: the median of the pairs, with their
range. Beside this tool run `pytorch-cka` and `torch_cka`, which compare two models, here a model and its
copy, and are timed over two bare passes accordingly. Memory is the growth of the peak resident size over that
of the bare pass. The error is the largest of the matrix against float64 from the same float32 features.
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

import refiner_cka as rc
from tests import float64

CASES = {
    "DeiT-S, 12 blocks, batches of 32": ("deit_small_patch16_224", "block", 32),
    "ResNet-50, 16 blocks, batches of 32": ("resnet50", "block", 32),
    "DeiT-Ti, 86 leaf layers, batches of 64": ("deit_tiny_patch16_224", "leaves", 64),
}
TINY = {"test_vit, 6 blocks, batches of 8": ("test_vit", "block", 8)}
TOOLS = ("refiner-cka", "pytorch-cka", "torch_cka")
BATCHES = 2


def build(name):
    torch.manual_seed(0)
    options = {"zero_init_last": False} if "resnet" in name else {}
    return timm.create_model(name, **options).eval()


def layer_paths(module, layers):
    if layers == "block":
        return list(rc.subjects.find_layers(module, "block"))
    kinds = (nn.Linear, nn.LayerNorm, nn.GELU)
    return [path for path, part in module.named_modules() if isinstance(part, kinds)]


def peak():
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loader(data, size):
    return DataLoader(list(data), batch_size=size, collate_fn=_stack)


def _stack(rows):
    return [torch.stack(rows)]


def analysis(tool, module, paths, data, size):
    """Return a function that runs one analysis over the data and returns its matrix."""
    if tool == "refiner-cka":
        subject = rc.Subject.from_module(module, paths)
        prepared = rc.prepare(
            subject, data, batch_size=size, workers=0, device="cpu", smoothing="none"
        )
        return lambda: rc.measure(prepared).cka()
    other = copy.deepcopy(module)
    if tool == "pytorch-cka":
        from cka import compute_cka

        return lambda: np.asarray(
            compute_cka(
                module, other, loader(data, size), layers=paths, device="cpu", progress=False
            )
        )[0]
    from torch_cka import CKA

    compared = CKA(module, other, model1_layers=paths, model2_layers=paths)

    def run():
        with torch.inference_mode():
            compared.compare(loader(data, size))
        return compared.hsic_matrix.numpy()

    return run


def bare(modules, data, size):
    """Run bare forward passes."""
    with torch.inference_mode():
        for batch in data.split(size):
            for module in modules:
                module(batch)


def truth(module, paths, batches):
    """CKA in float64 from the same float32 features."""
    grams = {path: [] for path in paths}
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, path=path: grams[path].append(float64.gram(output.numpy()))
        )
        for path in paths
    ]
    with torch.inference_mode():
        for batch in batches:
            module(batch)
    for handle in handles:
        handle.remove()
    return float64.minibatch_cka_matrix(list(grams.values()))


def measure(case, tool, pairs):
    """Return what one case costs with one tool, in this process."""
    warnings.simplefilter("ignore")
    name, layers, size = (CASES | TINY)[case]
    module = build(name)
    paths = layer_paths(module, layers)
    generator = torch.Generator().manual_seed(0)
    shape = rc.Subject.from_module(module, paths).preprocessing.input_size
    data = torch.randn(BATCHES * size, *shape, generator=generator)
    passes = [module] if tool == "refiner-cka" else [module, copy.deepcopy(module)]
    run = analysis(tool, module, paths, data, size)
    bare(passes, data, size)
    before = peak()
    matrix = run()
    memory = peak() - before
    ratios = []
    for _ in range(pairs):
        start = time.perf_counter()
        bare(passes, data, size)
        middle = time.perf_counter()
        run()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    batches = list(data.split(size))
    if tool == "refiner-cka":
        plan = rc.prepare(
            rc.Subject.from_module(module, paths), data, batch_size=size, workers=0, device="cpu"
        ).plan
        batches = [data[list(batch)] for batch in plan.batches]
    error = np.abs(matrix - truth(module, paths, batches)).max()
    return {"ratios": ratios, "memory": memory, "error": error}


def alone(case, tool, pairs):
    """Measure in a process of its own, without the progress bars of the tools."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, initializer=_silence) as pool:
        return pool.submit(measure, case, tool, pairs).result()


def _silence():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def row(case, tool, pairs):
    """Return the cells of a case and a tool."""
    try:
        found = alone(case, tool, pairs)
    except Exception as error:  # such as torch_cka's own check of its numbers
        return f"failed: {type(error).__name__}: {error} | | "
    ratios = found["ratios"]
    return (
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {found['memory']:.0f} MB | {found['error']:.1e}"
    )


def main():
    """Run every case with every tool and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three pairs instead of seven")
    parser.add_argument("--tiny", action="store_true", help="a small model and one pair")
    arguments = parser.parse_args()
    pairs = 1 if arguments.tiny else 3 if arguments.quick else 7
    print("| case | tool | time / bare passes (range) | extra peak memory | largest error |")
    print("|---|---|---|---|---|", flush=True)
    for case in TINY if arguments.tiny else CASES:
        for tool in TOOLS:
            print(f"| {case} | {tool} | {row(case, tool, pairs)} |", flush=True)


if __name__ == "__main__":
    main()
