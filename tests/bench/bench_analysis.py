"""What an analysis costs: time over bare forward passes, extra peak memory, error against float64.

    python tests/bench/bench_analysis.py [--quick]

CKA alone: `bench_smoothing.py` measures what over-smoothing adds. Each case runs in a process of its own.
Times are ratios of passes that alternate over the same images in memory: the median of the pairs, with their
range. Beside this tool run `pytorch-cka` and `torch_cka`, which compare two models, here a model and its
copy, and are timed over two bare passes accordingly. Memory is the growth of the peak resident size over that
of the bare pass. The error is the largest of the matrix against float64 from the same float32 features.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = {
    "DeiT-S, 12 blocks, batches of 32": ("deit_small_patch16_224", "block", 32),
    "ResNet-50, 16 blocks, batches of 32": ("resnet50", "block", 32),
    "DeiT-Ti, 86 leaf layers, batches of 64": ("deit_tiny_patch16_224", "leaves", 64),
}
TOOLS = ("refiner-cka", "pytorch-cka", "torch_cka")
BATCHES = 2


def build(name):
    import timm
    import torch

    torch.manual_seed(0)
    options = {"zero_init_last": False} if "resnet" in name else {}
    return timm.create_model(name, **options).eval()


def layer_paths(module, layers):
    from torch import nn

    from refiner_cka.subjects import find_layers

    if layers == "block":
        return list(find_layers(module, "block"))
    kinds = (nn.Linear, nn.LayerNorm, nn.GELU)
    return [path for path, part in module.named_modules() if isinstance(part, kinds)]


def peak():
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loader(data, size):
    from torch.utils.data import DataLoader

    return DataLoader(list(data), batch_size=size, collate_fn=_stack)


def _stack(rows):
    import torch

    return [torch.stack(rows)]


def analysis(tool, module, paths, data, size):
    """Return a function that runs one analysis over the data and returns its matrix."""
    import numpy as np
    import torch

    import refiner_cka as rc

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
    import torch

    with torch.inference_mode():
        for batch in data.split(size):
            for module in modules:
                module(batch)


def truth(module, paths, batches):
    """CKA in float64 from the same float32 features."""
    import torch

    sys.path.insert(0, str(ROOT))
    from tests import float64

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


def measure(case, tool, repeats):
    """Measure one case with one tool in this process and print JSON."""
    import numpy as np
    import torch

    import refiner_cka as rc

    warnings.simplefilter("ignore")
    name, layers, size = CASES[case]
    module = build(name)
    paths = layer_paths(module, layers)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(BATCHES * size, 3, 224, 224, generator=generator)
    passes = [module] if tool == "refiner-cka" else [module, copy.deepcopy(module)]
    run = analysis(tool, module, paths, data, size)
    bare(passes, data, size)
    before = peak()
    try:
        matrix = run()
    except AssertionError as error:  # torch_cka's own check
        print(json.dumps({"layers": len(paths), "failed": str(error)}))
        return
    memory = peak() - before
    ratios = []
    for _ in range(repeats):
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
    print(
        json.dumps(
            {"layers": len(paths), "ratios": ratios, "memory": memory, "error": float(error)}
        )
    )


def main():
    """Run every case with every tool and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three pairs instead of seven")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "TOOL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repeats = 3 if arguments.quick else 7
    if arguments.only:
        measure(*arguments.only, repeats)
        return
    print("| case | tool | time / bare passes (range) | extra peak memory | largest error |")
    print("|---|---|---|---|---|")
    for case in CASES:
        for tool in TOOLS:
            command = [sys.executable, __file__, "--only", case, tool]
            command += ["--quick"] if arguments.quick else []
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, check=False
            )
            if done.returncode:
                print(f"| {case} | {tool} | failed: {done.stderr.strip().splitlines()[-1]} | | |")
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if "failed" in found:
                print(f"| {case} | {tool} | failed: {found['failed']} | | |", flush=True)
                continue
            ratios = sorted(found["ratios"])
            print(
                f"| {case} | {tool} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) "
                f"| {found['memory']:.0f} MB | {found['error']:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
