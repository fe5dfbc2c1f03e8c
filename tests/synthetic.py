"""Results made up from random features with the structure of a real network, without torch or a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refiner_cka.results.contents import Unreadable
from refiner_cka.results.result import Result
from refiner_cka.sums import FOLDS, Layer, Quantity, along_depth, fold_of

Array = npt.NDArray[np.float64]

WIDTH = 24
"""Features per layer, and latent factors per image."""

CKA = Quantity("cka", "similarity/cka", "cosine", ("layers", "layers"), "CKA")
TOP1 = Quantity("top1", "top1", "share", ("models",), "Top-1 accuracy")


def mean(name, label, axes, least, most, smoother=None, few=False):
    """A measure that is a mean over images."""
    about, path = f"what {label} is", f"smoothing/{name}"
    return Quantity(name, path, "mean", axes, label, about, (least, most), smoother, "a paper", few)


TOKENS = (
    mean("patch_cosine_centred", "Centred patch cosine", ("layers",), -1.0, 1.0, "higher"),
    mean("patch_cosine", "Patch cosine", ("layers",), -1.0, 1.0, "higher"),
    mean("rank_collapse", "Rank-collapse residual", ("layers",), 0.0, 1.0, "lower"),
    mean("effective_rank", "Effective rank", ("layers",), 1.0, None, "lower", few=True),
    mean("token_norm", "Token norm", ("layers",), 0.0, None),
)
ATTENTION = (
    mean("attention_entropy", "Attention entropy (nats)", ("attention",), 0.0, None, "higher"),
    mean("attention_distance", "Attention distance (pixels)", ("attention",), 0.0, None, "higher"),
    mean("attention_head_similarity", "Similarity of heads", ("attention",), -1.0, 1.0, "higher"),
    mean("attention_row_sum", "Row sum of the map", ("attention",), None, None),
    mean("attention_negative", "Negative share of the map", ("attention",), 0.0, 1.0),
)
BLOCK_SIMILARITY = mean(
    "attention_block_similarity",
    "Similarity of maps between blocks",
    ("attention", "attention"),
    -1.0,
    1.0,
    "higher",
    few=True,
)


def u_centred_gram(features: Array) -> Array:
    """Return the U-centred Gram matrix of `(n, p)` features, straight from the definition."""
    n = len(features)
    gram = features @ features.T
    np.fill_diagonal(gram, 0.0)
    rows, total = gram.sum(1), gram.sum()
    centred: Array = gram - (rows[:, None] + rows) / (n - 2) + total / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def added_by(stack: Array, places: npt.NDArray[np.int64]) -> dict[str, Array]:
    """Return what a batch adds to the sums of CKA, straight from the definitions; no third moment.

    Args:
        stack: `(L, n, n)`, U-centred Gram matrices.
        places: `(n,)`, of the images in the run.
    """
    layers, n, _ = stack.shape
    flat = stack.reshape(layers, -1)
    products = flat @ flat.T
    removed = np.zeros((FOLDS, layers, layers))
    for fold in set(fold_of(places).tolist()):
        without = stack[:, fold_of(places) != fold][:, :, fold_of(places) != fold]
        removed[fold] = products - without.reshape(layers, -1) @ without.reshape(layers, -1).T
    own, fourth = np.diagonal(products), (flat**4).sum(1)
    added = {
        "products": products,
        "removed": removed,
        "variance": 2 * np.outer(own, own) / (n * (n - 3)),
        "third": np.zeros_like(products),
        "fourth": 8 * np.outer(fourth, fourth) / (n * (n - 1)),
    }
    return {name: (values + values.swapaxes(-1, -2)) / 2 for name, values in added.items()}


def synthetic_result(
    models: Mapping[str, int | Sequence[str]] | None = None,
    *,
    tokens: Sequence[str] = ("all",),
    batches: int = 40,
    total_batches: int | None = None,
    batch_size: int = 16,
    references: Sequence[str] = (),
    constant: Collection[tuple[str, int]] = (),
    unresolved: Collection[str] = (),
    unreadable: Sequence[Unreadable] = (),
    warnings: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
    image_seed: int | None = None,
) -> Result:
    """Return a result whose layers turn gradually from one random map of the images into another.

    All models see the same images, and model k of the mapping turns further than model k - 1, so that every
    curve rises to 1 at the last layer and the curves differ.

    Args:
        models: name -> number of layers (paths `blocks.0`, ...) or the layers' paths.
        tokens: readouts; each gives every model one more set of layers.
        batches: batches held, numbered from 0.
        total_batches: batches of the run; as many as are held by default.
        batch_size: images per batch.
        references: rows that are no model: `labels` says which of ten factors of an image is greatest, any other
            name all of its factors.
        constant: `(model, index)` of layers whose features are constant: NaN in the matrix.
        unresolved: models whose first layer has nothing to do with the images.
        unreadable: images left out.
        warnings: what the run warned of.
        provenance: what the run recorded; batch size and seed by default.
        seed: of everything random.
        image_seed: of everything but the networks, if it is another.
    """
    paths = {
        name: [f"blocks.{i}" for i in range(value)] if isinstance(value, int) else list(value)
        for name, value in ({"vit_s": 12} if models is None else models).items()
    }
    layers = along_depth(
        [(name, path, readout) for name, own in paths.items() for readout in tokens for path in own]
    )
    rows = tuple(Layer(name, name, "reference", 0, 1.0) for name in references)
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(WIDTH, WIDTH))
    ends = {
        (name, readout): rng.normal(size=(2, WIDTH, WIDTH)) for name in paths for readout in tokens
    }
    names = list(paths)
    rng = rng if image_seed is None else np.random.default_rng([seed, image_seed])

    def features(layer: Layer, latent: Array) -> Array:
        if layer in rows:
            return np.eye(10)[latent[:, :10].argmax(1)] if layer.model == "labels" else latent
        if (layer.model, layer.index) in constant:
            return np.zeros((len(latent), WIDTH))
        first, last = ends[layer.model, layer.tokens]
        angle = layer.depth * np.pi / 2
        if layer.model in unresolved:
            start = rng.normal(size=latent.shape)
        else:
            share = 1.0 / (1.0 + 0.4 * names.index(layer.model))
            start = latent @ (common * share + first * (1 - share) * 0.5 + last * 0.5)
        mixed = np.cos(angle) * start + np.sin(angle) * latent @ last
        result: Array = np.maximum(mixed, 0.0) + 0.3 * rng.normal(size=mixed.shape)
        return result

    sums: dict[str, Array] = {}
    for batch in range(max(batches, 1)):  # of none the sums are those of one, times 0
        latent = rng.normal(size=(batch_size, WIDTH))
        stack = np.stack([u_centred_gram(features(layer, latent)) for layer in (*layers, *rows)])
        places = np.arange(batch_size) + batch * batch_size
        added = {CKA.sum(part): values for part, values in added_by(stack, places).items()}
        added["images"] = np.bincount(fold_of(places), minlength=FOLDS).astype(float)
        added["top1/hits"] = rng.binomial(batch_size, 0.8, size=len(paths)).astype(float)
        added["top1/trials"] = np.full(len(paths), float(batch_size))
        held = float(batch < batches)
        sums = {name: sums.get(name, 0.0) + held * values for name, values in added.items()}
    return Result(
        axes={"layers": layers} | ({"rows": (*layers, *rows)} if rows else {}),
        quantities=(replace(CKA, axes=("rows", "rows")) if rows else CKA, TOP1),
        sums=sums,
        batches=np.arange(batches, dtype=np.int64),
        batch_planned=np.full(batches, batch_size, np.int64),
        batch_images=np.full(batches, batch_size, np.int64),
        batch_digests=rng.integers(0, 256, (batches, len(paths), 32), np.uint8),
        image_digests=rng.integers(1, 2**64, (batches, batch_size), np.uint64),
        total_batches=batches if total_batches is None else total_batches,
        unreadable=tuple(unreadable),
        warnings=tuple(warnings),
        provenance={"batch_size": batch_size, "seed": seed} if provenance is None else provenance,
        fingerprint="5" * 64,
    )


def with_index(result: Result, name: str, label: str, other: Result) -> Result:
    """Return the result with one more similarity index, whose sums are those of CKA of another result."""
    (cka,) = (each for each in result.quantities if each.name == "cka")
    index = replace(cka, name=name, path=f"similarity/{name}", label=label)
    parts = [each.path.rpartition("/")[2] for each in cka.sums]
    sums = {index.sum(part): other.sums[cka.sum(part)] for part in parts}
    quantities = (*result.quantities, index)
    return replace(result, quantities=quantities, sums={**result.sums, **sums})


def with_smoothing(result: Result, *, refined: Collection[str] = ()) -> Result:
    """Return the result with random over-smoothing sums: every measure, and attention of every model.

    Args:
        result: from `synthetic_result`.
        refined: models whose refined maps are measured too.
    """
    rng = np.random.default_rng(0)
    rows = result.rows(tokens=result.tokens[0])
    blocks = along_depth(
        [
            (layer.model, f"{layer.path}.attn", maps)
            for maps in ("softmax", "refined")
            for layer in (result.layers[row] for row in rows)
            if maps == "softmax" or layer.model in refined
        ]
    )
    axes = {**result.axes, "attention": blocks}
    images, sums = result.sums["images"], dict(result.sums)
    measured = (*TOKENS, *ATTENTION, BLOCK_SIMILARITY)
    for quantity in measured:
        means = np.array([0.2 + 0.5 * entry.depth for entry in axes[quantity.axes[0]]])
        if quantity is BLOCK_SIMILARITY:
            means = 1 - np.abs(means[:, None] - means)
        shape = (len(images), *means.shape)
        count = np.broadcast_to(images.reshape(-1, *[1] * means.ndim), shape)
        total = count * means + np.sqrt(count) * 0.1 * rng.normal(size=shape)
        sums[quantity.sum("total")] = total
        sums[quantity.sum("images")] = np.array(count)
    quantities = (*result.quantities, *measured)
    return replace(result, axes=axes, quantities=quantities, sums=sums)


WITHIN = replace(
    mean("within_image_variance", "Variance within images", ("layers",), 0.0, 1.0, "lower"),
    estimator="fraction",
)


def with_fraction(result: Result, seed: int = 0) -> Result:
    """Return the result with the random sums of a fraction, of which one fold of images decides a lot."""
    rng = np.random.default_rng(seed)
    images = np.tile(result.sums["images"][:, None], len(result.layers))
    whole = images * rng.uniform(0.5, 1.5, images.shape)
    whole[3] *= 8
    part = whole * rng.uniform(0.2, 0.8, images.shape)
    sums = dict(zip((*WITHIN.quotient, WITHIN.sum("images")), (part, whole, images), strict=True))
    return replace(result, quantities=(*result.quantities, WITHIN), sums={**result.sums, **sums})
