"""Analyses of small models on few images, and the numbers they have to give."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
from tests import float64

ROOT = Path(__file__).parents[2]
CKA_TOLERANCE = 1e-6
PRODUCTS = "similarity/cka/products"


def inputs(count=40, size=4, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def symmetric(seed, side=60):
    """A symmetric matrix, to the bit."""
    values = np.random.default_rng(seed).random((side, side))
    return values + values.T


def seeded(factory, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory(*args, **kwargs).eval()


def sized(size):
    """Preprocessing of square images of a side."""
    return Preprocessing(input_size=(3, size, size))


def subject(module, layers, name="model", **kwargs):
    return rc.Subject.from_module(
        module, layers, name=name, **{"preprocessing": sized(4), **kwargs}
    )


def run(subjects, data, **kwargs):
    return rc.analyze(subjects, data, **{"workers": 0, "device": "cpu", **kwargs})


def prepare(subjects, data, **kwargs):
    return rc.prepare(subjects, data, **{"workers": 0, "device": "cpu", **kwargs})


def truth(module, paths, prepared, data):
    """CKA in float64 from the same features of the same batches, through hooks of our own."""
    kept = {path: [] for path in paths}

    def keep(path):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            kept[path].append(float64.gram(output.float().numpy()))

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    with torch.inference_mode():
        for batch in prepared.plan.batches:
            module(data[list(batch)])
    for handle in handles:
        handle.remove()
    return float64.minibatch_cka_matrix([kept[path] for path in paths])


def check_against_truth(module, paths, data, batch_size=16, **kwargs):
    prepared = prepare(subject(module, paths, **kwargs), data, batch_size=batch_size)
    measured = rc.measure(prepared).cka()
    assert np.abs(measured - truth(module, paths, prepared, data)).max() < CKA_TOLERANCE
    return measured


def image_folder(folder, count, size=12):
    """Pictures that differ; files sort as they are numbered."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return folder


def in_processes(script, folder):
    """Run a script that is given a folder in three processes of one analysis."""
    (folder / "script.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [*launcher, str(folder / "script.py"), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
