"""How often each similarity index finds the matching layer of another training, and where indices disagree.

python docs/matching.py results/matching

prints the tables of docs/which-index.md. It trains four seeds each of a plain convolutional network of 8
layers and of a ViT of 8 blocks on the embedded digits, where that was not done already, and takes the embedded
networks as they are.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.measures.indices import INDICES
from refiner_cka.results.jackknife import Products, errors
from refiner_cka.subjects import resolve
from refiner_cka.subjects.readout import tensor_of
from refiner_cka.sums import Array, cosine

TRAINED = {"plain": "matching:plain={weights}", "vit_nano": "vit_nano={weights},depth=8"}
"""Networks of which several seeds are trained."""

EMBEDDED = ("vit_nano", "deit_nano", "resnet_nano", "refiner_nano")
"""Networks in which disagreements are looked for."""

ERRORS = 3.0
"""Of a difference, from which on a disagreement is chosen. It is then shown by other images: the most striking of
many by chance would not last."""

HELD_OUT = "digits-test"

BATCH = 60
"""Images of a batch; the held-out ones make six."""

NEAR = 0.1
"""Share of all pairs of images that are called near: as many as there are within ten equal classes."""


def plain() -> rc.Subject:
    """Return an untrained convolutional network of 8 layers without shortcuts, for 32 x 32 images."""
    widths, strides = (3, 16, 16, 24, 24, 32, 32, 40, 40), (1, 1, 2, 1, 2, 1, 2, 1)
    layers = [
        nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        for before, width, stride in zip(widths, widths[1:], strides, strict=False)
    ]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)
    return rc.Subject.from_module(
        nn.Sequential(*layers, *head),
        [str(place) for place in range(len(layers))],
        preprocessing=rc.Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0),
    )


def train(
    folder: Path, name: str, network: str, seed: int, epochs: int, data: str = "digits-train"
) -> str:
    """Train a network with one seed if it has no file yet, and return its text for `--model`.

    Args:
        folder: for files, one of its own for each network.
        name: of that folder.
        network: as for `--model`, with `{weights}` in their place.
        seed: of the training.
        epochs: how long.
        data: images to learn from.
    """
    # Layers this small gain nothing from more threads, and with one the sums keep their order.
    torch.set_num_threads(1)
    file = folder / name / f"seed{seed}.safetensors"
    if not file.exists():
        untrained = network.format(weights="random")
        recipe = rc.Recipe(epochs=epochs)
        trained = rc.train(untrained, data, recipe=recipe, seed=seed, device="cpu")
        rc.save_weights(trained.subject, file)
    text = f"{network.format(weights=file)},label={name} {seed}"
    accuracy = rc.accuracy(text, HELD_OUT, device="cpu")
    print(f"{file}: {accuracy:.1%} of {HELD_OUT} right", flush=True)
    return text


def analyse(models: Sequence[str], data: str = HELD_OUT, batch_size: int = BATCH) -> rc.Result:
    """Return every index between all layers of some networks."""
    return rc.analyze(
        models,
        data,
        index=",".join(INDICES),
        batch_size=batch_size,
        smoothing="none",
        device="cpu",
        workers=0,
    )


def found(similarities: Iterable[Array]) -> tuple[int, int, int]:
    """Return how many layers are most similar to the same layer of the other training.

    Args:
        similarities: `(L, L)` for each pair of trainings, layers of the one by those of the other.

    Returns:
        How many; how many are most similar to it or to a neighbour of it; how many layers there are.
    """
    apart = np.concatenate([np.abs(each.argmax(1) - np.arange(len(each))) for each in similarities])
    return int((apart == 0).sum()), int((apart <= 1).sum()), len(apart)


def matches(result: rc.Result, index: str) -> tuple[int, int, int]:
    """Return what `found` does, over all ordered pairs of the models of a result."""
    pairs = itertools.permutations(result.models, 2)
    return found(result.similarity(index, *pair).values for pair in pairs)


def grams(
    model: str, data: str = HELD_OUT, layers: Sequence[str] | None = None
) -> dict[str, Array]:
    """Return the centred Gram matrices `(n, n)` of layers of a network, or of all, over all images."""
    (subject,), images = resolve(model), open_source(data)
    own, matrices = subject.preprocessing, dict[str, Array]()
    transform = own.transform()
    pixels = torch.stack([transform(images.read(place)) for place in range(len(images.ids))])

    def keep(path: str, output: Any) -> None:
        tensor = tensor_of(output, images=len(pixels))
        assert tensor is not None
        features = tensor.flatten(1).double()
        features = features - features.mean(0)
        matrices[path] = (features @ features.T).numpy()

    with torch.inference_mode():
        for path in layers or subject.layers:
            subject.module.get_submodule(path).register_forward_hook(
                lambda _module, _inputs, output, path=path: keep(path, output)
            )
        subject.module.eval()(own.normalize(pixels))
    return matrices


def coordinates(gram: Array) -> Array:
    """Return features with this Gram matrix, along their principal directions, `(n, n)`."""
    variances, directions = np.linalg.eigh(gram)
    result: Array = (directions * np.sqrt(np.maximum(variances, 0.0)))[:, ::-1]
    return result


def procrustes(one: Sequence[Array], other: Sequence[Array]) -> Array:
    """Return 1 - d^2 / 2 of the orthogonal Procrustes distance d between layers of unit norm, `(L, L')`.

    Args:
        one: coordinates of each layer of one network.
        other: of another.
    """
    return np.array(
        [
            [np.linalg.norm(x.T @ y, "nuc") / np.linalg.norm(x) / np.linalg.norm(y) for y in other]
            for x in one
        ]
    )


class Disagreement(NamedTuple):
    """A layer, and two others of which CKA takes the first to be more like it, another index the second."""

    layer: int
    by_cka: int
    by_index: int


def separations(result: rc.Result, index: str) -> tuple[Array, Array]:
    """Return how much more similar layer k is to l than to m, and the paired error of that, `(L, L, L)`."""
    of = result.quantity(index)
    products = Products(*(result.sums[of.sum(part)] for part in ("products", "removed")))
    values = products.replicates(cosine)
    apart = values[:, :, :, None] - values[:, :, None, :]
    return apart[0], errors(apart[1:])


def disagreement(result: rc.Result, index: str) -> Disagreement:
    """Return where CKA and another index disagree by most, both by at least so many `ERRORS`."""
    cka, error = separations(result, "cka")
    other, other_error = separations(result, index)
    clear = (cka > ERRORS * error) & (-other > ERRORS * other_error)
    score = np.where(clear, np.minimum(cka, -other), 0.0)
    return Disagreement(*map(int, np.unravel_index(score.argmax(), score.shape)))


def reasons(layer: Array, other: Array) -> list[float]:
    """Return what makes indices disagree about two layers, from their coordinates.

    Returns:
        Of the pairs of images that are near in the one the share that are in the other; the correlation of the
        squared distances of pairs that are near in neither; CKA where all images are as far from the mean as
        one another; the correlation of the squared distances from the mean.
    """
    pairs, own = [], []
    for features in (layer, other):
        squares = np.square(features).sum(1)
        apart = squares[:, None] + squares - 2 * features @ features.T
        pairs.append(apart[np.triu_indices(len(apart), 1)])
        own.append(squares)
    near = [each <= np.quantile(each, NEAR) for each in pairs]
    far = ~near[0] & ~near[1]
    units = [
        each / np.sqrt(squares)[:, None] for each, squares in zip((layer, other), own, strict=True)
    ]
    return [
        float(near[1][near[0]].mean()),
        float(np.corrcoef(*(each[far] for each in pairs))[0, 1]),
        rc.cka(*units),
        float(np.corrcoef(*own)[0, 1]),
    ]


def print_matching(trained: Sequence[str], data: str = HELD_OUT) -> None:
    """Print how often each index finds the matching layer of another training.

    Args:
        trained: the trainings of one network, see `train`.
        data: by which images.
    """
    images = len(open_source(data).ids)
    sizes = (min(BATCH, images), images)
    results = [analyse(trained, data, size) for size in sizes]
    print(f"\n{', '.join(results[0].models)}\n")
    print(f"| index | batches of {sizes[0]} | same or next | one batch | same or next | of |")
    print("|---|---|---|---|---|---|")
    for index in INDICES:
        print_row(index, *(matches(result, index) for result in results))
    layers = [[*map(coordinates, grams(text, data).values())] for text in trained]
    pairs = itertools.permutations(layers, 2)
    print_row("Procrustes", None, found(procrustes(*pair) for pair in pairs))


def print_row(index: str, batches: tuple[int, int, int] | None, one: tuple[int, int, int]) -> None:
    """Print how often one index found the layer, in batches and in one batch."""
    cells = ["", ""] if batches is None else [str(each) for each in batches[:2]]
    print(f"| {index} | {' | '.join(cells)} | {one[0]} | {one[1]} | {one[2]} |", flush=True)


def print_disagreements(chosen: rc.Result, shown: rc.Result, data: str) -> None:
    """Print where each index disagrees with CKA most clearly, and why.

    Args:
        chosen: of the images by which it is looked for.
        shown: of those by which it is shown, the same networks.
        data: what these are.
    """
    print("\n| index | layer | other | CKA | index | near | far | one length | lengths |")
    print("|---|---|---|---|---|---|---|---|---|")
    for index in shown.indices[1:]:
        place = disagreement(chosen, index)
        layer, *others = (shown.layers[row] for row in place)
        features = [
            coordinates(grams(each.model, data, [each.path])[each.path])
            for each in (layer, *others)
        ]
        for row, other, own in zip(place[1:], others, features[1:], strict=True):
            values = [shown.similarity(name).values[place.layer, row] for name in ("cka", index)]
            told = " | ".join(f"{each:.3f}" for each in (*values, *reasons(features[0], own)))
            names = f"{layer.model} {layer.path} | {other.model} {other.path}"
            print(f"| {index} | {names} | {told} |")
        differences = [separations(shown, name) for name in ("cka", index)]
        told = " | ".join(f"{apart[place]:+.3f} +- {se[place]:.3f}" for apart, se in differences)
        print(f"| {index} | | difference | {told} | | | | |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    jobs = [
        (given.folder, *network, seed, given.epochs)
        for network in TRAINED.items()
        for seed in given.seeds
    ]
    # A forked process would inherit the threads of torch.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        trained = pool.starmap(train, jobs, chunksize=1)
    for first in range(0, len(trained), len(given.seeds)):
        print_matching(trained[first : first + len(given.seeds)])
    shown = "digits-train"
    print_disagreements(analyse(EMBEDDED), analyse(EMBEDDED, shown), shown)


if __name__ == "__main__":
    main()
