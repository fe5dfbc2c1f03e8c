"""What each package that computes CKA prints of the same float32 features, against its own formula in float64.

    python tests/bench/bench_accuracy.py
    python tests/bench/bench_accuracy.py --tiny    # small features: whether it runs

The packages of docs/comparison.md that are installed; of the others it says so. Each gets the same layers: those
that take networks get one that hands its input out as layers, those that take arrays get the arrays. *Batches* are
summed over, *at once* are all images. The error is the largest of the matrix against the estimator that the
package states, in float64. The last column is the mean over pairs of unrelated layers, for which 0 is right.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import float64  # by this name: thingsvision installs a package that is called `tests`

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.subjects import resolve

Layers = Sequence[torch.Tensor]
"""Features of the same images, `(n, p)` each, float32."""


class Overwritten(list[torch.Tensor]):
    """Layers whose outputs a network overwrites, once they are out."""


class Tuples(list[torch.Tensor]):
    """Layers that put out tuples, as blocks of transformers do that return their attention maps, too."""


class Layer(nn.Module):
    """Puts out what it is given, alone or as the first of a tuple."""

    def __init__(self, as_tuple: bool):
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, features: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return (features.clone(), features[:, :1]) if self.as_tuple else features.clone()


class Package(NamedTuple):
    """A package, and how it is asked.

    Attributes:
        name: of the distribution.
        call: what was called, for the table.
        estimator: what it estimates, a key of `ESTIMATORS`.
        matrix: from layers and images to a batch to the matrix of CKA.
    """

    name: str
    call: str
    estimator: str
    matrix: Callable[[Layers, int], np.ndarray]


class Apart(nn.Module):
    """A network whose layers are given to it side by side as an image, `(n, 1, 1, sum of widths)`.

    After each may come a ReLU in place, as after the norms of torchvision's networks.
    """

    def __init__(self, layers: Layers):
        super().__init__()
        self.widths = [layer.shape[1] for layer in layers]
        self.overwrites = isinstance(layers, Overwritten)
        self.layers = nn.ModuleList(Layer(isinstance(layers, Tuples)) for _ in layers)
        self.unused = nn.Parameter(torch.zeros(1))  # some packages ask where the parameters are

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parts = images.flatten(1).split(self.widths, dim=1)
        outputs = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        outputs = [output[0] if isinstance(output, tuple) else output for output in outputs]
        if self.overwrites:
            outputs = [output.relu_() for output in outputs]
        return torch.stack([output.sum(1) for output in outputs], 1)


def network(layers: Layers) -> tuple[nn.Module, list[str], torch.Tensor]:
    """Return a network with these layers, their names, and the images that make it put them out."""
    paths = [f"layers.{place}" for place in range(len(layers))]
    return Apart(layers).eval(), paths, torch.cat([*layers], 1)


def loader(images: torch.Tensor, size: int) -> DataLoader:
    return DataLoader([(row, 0) for row in images], batch_size=size)


def analyzed(layers: Layers, size: int) -> rc.Result:
    """What `analyze` makes of layers, in batches of the same images as those of the other packages."""
    module, paths, images = network(layers)
    subject = rc.Subject.from_module(module, paths, name="all")
    options = {"batch_size": size, "workers": 0, "device": "cpu", "smoothing": "none"}
    planned = rc.prepare(subject, images[:, None, None], **options).plan.batches
    back = np.argsort(np.concatenate(planned))  # its batches take the images in an order of its own
    return rc.analyze(subject, images[back, None, None], **options)


def refiner_cka(layers: Layers, size: int) -> np.ndarray:
    return analyzed(layers, size).cka()


def refiner_cka_arrays(layers: Layers, size: int) -> np.ndarray:
    return np.array([[rc.cka(one, other) for other in layers] for one in layers])


def pytorch_cka(layers: Layers, size: int) -> np.ndarray:
    from cka import compute_cka

    module, paths, images = network(layers)
    models, batches = (module, copy.deepcopy(module)), loader(images, size)
    [matrix] = compute_cka(*models, batches, layers=paths, device="cpu", progress=False)
    return matrix.numpy()


def pytorch_cka_arrays(layers: Layers, size: int) -> np.ndarray:
    from cka import cka_from_features

    return cka_from_features([*layers], [*layers]).numpy()


def torch_cka(layers: Layers, size: int) -> np.ndarray:
    from torch_cka import CKA

    module, paths, images = network(layers)
    compared = CKA(module, copy.deepcopy(module), model1_layers=paths, model2_layers=paths)
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        compared.compare(loader(images, size))
    return compared.hsic_matrix.numpy()


def cka_pytorch(layers: Layers, size: int) -> np.ndarray:
    from cka_pytorch import CKACalculator

    module, paths, images = network(layers)
    compared = CKACalculator(module, copy.deepcopy(module), paths, verbose=False)
    return compared.calculate_cka_matrix(loader(images, size), num_epochs=1).numpy()


def thingsvision(layers: Layers, size: int, unbiased: bool = False) -> np.ndarray:
    # Its module of CKA alone: the package as a whole imports TensorFlow.
    place = Path(importlib.util.find_spec("thingsvision").origin).parent / "core" / "cka"
    package = sys.modules["thingsvision_cka"] = ModuleType("thingsvision_cka")
    package.__path__ = [str(place)]
    module = importlib.import_module("thingsvision_cka.cka_numpy")
    compared = module.CKANumPy(m=len(layers[0]), kernel="linear", unbiased=unbiased)
    arrays = [layer.numpy() for layer in layers]
    return np.array([[compared.compare(one, other) for other in arrays] for one in arrays])


def thingsvision_unbiased(layers: Layers, size: int) -> np.ndarray:
    return thingsvision(layers, size, unbiased=True)


def rsatoolbox(layers: Layers, size: int) -> np.ndarray:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    distances = calc_rdm([Dataset(layer.numpy()) for layer in layers], method="euclidean")
    return compare(distances, distances, method="cosine_cov")


BATCHES, AT_ONCE, BIASED = "unbiased, batches", "unbiased, at once", "biased, at once"

PACKAGES = (
    Package("refiner-cka", "analyze", BATCHES, refiner_cka),
    Package("refiner-cka", "cka", AT_ONCE, refiner_cka_arrays),
    Package("pytorch-cka", "compute_cka", BATCHES, pytorch_cka),
    Package("pytorch-cka", "cka_from_features", AT_ONCE, pytorch_cka_arrays),
    Package("torch-cka", "CKA.compare", BATCHES, torch_cka),
    Package("cka-pytorch", "CKACalculator", BATCHES, cka_pytorch),
    Package("thingsvision", "get_cka", BIASED, thingsvision),
    Package("thingsvision", "get_cka, unbiased=True", AT_ONCE, thingsvision_unbiased),
    Package("rsatoolbox", "compare, cosine_cov", BIASED, rsatoolbox),
)


def grams(layers: Layers, size: int) -> list[list[np.ndarray]]:
    """Gram matrices in float64 of each layer, one a batch."""
    return [[float64.gram(part.numpy()) for part in layer.split(size)] for layer in layers]


def biased(layers: Layers) -> np.ndarray:
    """CKA by the definition of Kornblith et al. (2019), in float64: centred Gram matrices, diagonal and all."""
    flat = np.array(
        [gram.ravel() / np.linalg.norm(gram) for [gram] in grams(layers, len(layers[0]))]
    )
    return flat @ flat.T


ESTIMATORS = {
    BATCHES: lambda layers, size: float64.minibatch_cka_matrix(grams(layers, size)),
    AT_ONCE: lambda layers, size: float64.minibatch_cka_matrix(grams(layers, len(layers[0]))),
    BIASED: lambda layers, size: biased(layers),
}


def hooked(module: nn.Module, paths: Sequence[str], images: torch.Tensor) -> list[torch.Tensor]:
    """Features of a network's layers, `(n, p)` each."""
    found = {}
    for path in paths:
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, path=path: found.update({path: output.flatten(1)})
        )
    with torch.inference_mode():
        module(images)
    return [found[path].clone() for path in paths]


def random_deit(images: int) -> list[torch.Tensor]:
    """Every second block of a DeiT-Ti with random weights, on noise."""
    torch.manual_seed(0)
    module = timm.create_model("deit_tiny_patch16_224").eval()
    paths = [f"blocks.{place}" for place in range(1, 12, 2)]
    return hooked(module, paths, torch.randn(images, 3, 224, 224))


def trained(name: str, images: int) -> list[torch.Tensor]:
    """Every second block of an embedded network, on digits that it has not seen."""
    [subject], digits = resolve(name), open_source("digits-test")
    transform = subject.preprocessing.transform()
    pixels = torch.stack([transform(digits.read(place)) for place in range(images)])
    paths = list(subject.layers)[1::2]
    return hooked(subject.module.eval(), paths, subject.preprocessing.normalize(pixels))


def unrelated(images: int, width: int = 768) -> list[torch.Tensor]:
    """Layers of independent Gaussian features."""
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(images, width, generator=draws) for _ in range(UNRELATED)]


def small(images: int) -> list[torch.Tensor]:
    """Layers that are one another, and noise."""
    one, *others = unrelated(images, 8)
    return [one, *(one + other for other in others[:2])]


CASES = {
    "DeiT-Ti": lambda: random_deit(128),
    "resnet_nano": lambda: trained("resnet_nano", 128),
    "vit_nano": lambda: trained("vit_nano", 128),
}
SIZE = 64
SMALLER = 2**-7
"""By a power of two, which rounds nothing."""

SHUFFLES = 2000

UNRELATED = 24
"""Layers, of which all pairs are looked at: their mean is then known to 0.001."""


def row(package: Package, cases: dict[str, Layers], apart: Layers, size: int) -> str:
    """The cells of a package: errors, of the last case also in three other forms, and CKA of unrelated layers."""
    *_, last = cases.values()
    others = [SMALLER * layer for layer in last], Overwritten(last), Tuples(last)
    cells = [error(package, layers, size) for layers in (*cases.values(), *others)]
    chance = package.matrix(apart, size)[np.triu_indices(len(apart), 1)]
    return " | ".join([*cells, f"{chance.mean():.3f}"])


def error(package: Package, layers: Layers, size: int) -> str:
    """The largest error of a package's matrix, or what kept it from making one."""
    truth = ESTIMATORS[package.estimator](layers, size)
    try:
        return f"{np.abs(package.matrix(layers, size) - truth).max():.1e}"
    except Exception as failure:  # such as torch_cka's own check of its numbers
        return type(failure).__name__


def thresholds(layers: Layers) -> str:
    """What CKA of the first and the last layer stays below with 95 %: by shuffling images, and in closed form."""
    from calibrated_similarity import calibrate

    one, *_, last = layers
    draws = (torch.Generator().manual_seed(seed) for seed in range(3))
    found = [float(calibrate(one, last, rc.cka, K=SHUFFLES, generator=each)[2]) for each in draws]
    closed = analyzed(layers, len(one)).null("all").quantile(0.95)[0, -1]
    return (
        f"unrelated images stay below, 95 %: calibrated-similarity {version('calibrated-similarity')},"
        f" {SHUFFLES} shuffles, three times: {', '.join(f'{value:.4f}' for value in found)};"
        f" refiner-cka, in closed form: {closed:.4f}"
    )


def main() -> None:
    """Print a line for each package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small features: whether it runs")
    tiny = parser.parse_args().tiny
    warnings.simplefilter("ignore")
    size = 8 if tiny else SIZE
    apart = unrelated(2 * size, 16 if tiny else 768)
    cases = {"small": small(2 * size)} if tiny else {name: make() for name, make in CASES.items()}
    print(f"{2 * size} images in batches of {size}, torch {torch.__version__}")
    heads = [*cases, "that / 128", "overwritten", "as tuples", "unrelated"]
    print(f"| package | called | estimator | {' | '.join(heads)} |")
    print("|---" * (3 + len(heads)) + "|", flush=True)
    for package in PACKAGES:
        try:
            name = f"{package.name} {version(package.name)}"
            cells = row(package, cases, apart, size)
        except PackageNotFoundError:
            name, cells = package.name, "not installed"
        print(f"| {name} | `{package.call}` | {package.estimator} | {cells} |", flush=True)
    try:
        print(thresholds(list(cases.values())[-1]))
    except ModuleNotFoundError:
        print("calibrated-similarity: not installed")


if __name__ == "__main__":
    main()
