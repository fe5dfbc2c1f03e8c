"""The result of an analysis: sums, what they are sums of, and every question one asks of them.

A result holds sums, and everything else is computed from them when asked. Results of disjoint batches of the
same analysis therefore merge by addition, and half a result is a result. No torch here: a saved result opens
in a second anywhere.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ResultError
from ..sums import Array, Quantity, cosine, is_count
from . import statistics as estimate
from .statistics import Contrast, Curve, Means, Normalize

SAME = 1e-6
"""CKA so near 1 is 1: a float32 Gram matrix is right to a few roundings of 1.2e-7."""


@dataclass(frozen=True)
class Layer:
    """One row of the matrix: a layer of a model under one readout.

    Attributes:
        model: name of the model.
        path: dotted module path, as in `model.named_modules()`.
        tokens: readout: `all`, `patch`, `cls` or `mean`.
        index: position among the model's layers under this readout, from 0.
        depth: relative depth, 0 the first layer and 1 the last.
    """

    model: str
    path: str
    tokens: str
    index: int
    depth: float


@dataclass(frozen=True)
class AttentionLayer:
    """One block whose attention maps were measured.

    Attributes:
        model: name of the model.
        path: dotted path of the attention module.
        maps: `softmax`, or `refined` (Refiner's refined maps).
        index: position among the model's blocks with such maps, from 0.
        depth: relative depth among them, 0 the first and 1 the last.
    """

    model: str
    path: str
    maps: str
    index: int
    depth: float


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """How alike the patches of one image are to a chosen patch, at a few layers of a model.

    Attributes:
        model: name of the model.
        layers: dotted paths.
        image: `(height, width, 3)`, from 0 to 1, as the model sees it.
        patch: place of the chosen patch in the image, from the top and from the left, 0 to 1.
        cosines: of each layer, `(rows, columns)`: cosine of each patch with the chosen one; NaN for a token
            of zeros.
    """

    model: str
    layers: tuple[str, ...]
    image: Array
    patch: tuple[float, float]
    cosines: tuple[Array, ...]


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out: its name in the source and why."""

    image: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Everything measured in one analysis, or in part of one.

    Attributes:
        layers: the rows of the matrix in order; models one after the other.
        sums: named float64 sums with the group first: `hsic` `(groups, L, L)` HSIC products; `images`
            `(groups,)` images; `correct` and `labelled` `(groups, models)` images whose class the model
            predicted, and images whose class it could have; `smoothing/<measure>/total`, `.../squares` and
            `.../images` `(groups, L)`, or `(groups, A)` for attention: values of a measure, their squares and
            how many; `.../kept` `(groups, L, places)` and `smoothing/kept_images` `(groups,)`: the values of
            the first images one by one.
        batches: `(B,)` int64, sorted: which batches of the run the sums hold.
        batch_planned: `(B,)` int64: of each of these batches the images that the run plans for it.
        batch_images: `(B,)` int64: how many of them the sums hold; 0 if fewer than 4 were readable.
        batch_digests: `(B, models, 32)` uint8: SHA-256 of what each model was given; see `images.digest_of`.
        total_batches: how many batches the whole run has.
        unreadable: images left out.
        warnings: what is undefined or was left out, one line each.
        provenance: JSON types only: models, preprocessing, images, batch size, seed, precision, versions,
            command.
        fingerprint: SHA-256 of what determines the numbers; results merge if it is equal. The keys of
            `provenance` that it is of are listed there under `identity`.
        attention: the blocks whose attention maps were measured.
        quantities: what was measured beside CKA, and what a reader has to know of it.

    Raises:
        ResultError: the sums hold more images than their batches, or a batch more than was planned, or twice.
    """

    layers: tuple[Layer, ...]
    sums: Mapping[str, Array]
    batches: npt.NDArray[np.int64]
    batch_planned: npt.NDArray[np.int64]
    batch_images: npt.NDArray[np.int64]
    batch_digests: npt.NDArray[np.uint8]
    total_batches: int
    unreadable: tuple[Unreadable, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    attention: tuple[AttentionLayer, ...] = ()
    quantities: tuple[Quantity, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sums that no run can have made, however they came together."""
        _check_batches(self)
        _check_images(self)
        _check_sums(self)

    def __repr__(self) -> str:
        """Name what it holds; the sums themselves would fill pages."""
        return (
            f"<Result: {', '.join(self.models)}; {len(self.layers)} layers, {self.images} images, "
            f"{len(self.batches)} of {self.total_batches} batches>"
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order they were given."""
        return tuple(dict.fromkeys(layer.model for layer in self.layers))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Readouts of the run; questions that name none mean the first."""
        return tuple(dict.fromkeys(layer.tokens for layer in self.layers))

    @property
    def images(self) -> int:
        """Number of images the sums hold."""
        return int(self.sums["images"].sum())

    @property
    def complete(self) -> bool:
        """Whether every batch of the run is held."""
        return len(self.batches) == self.total_batches

    @property
    def groups(self) -> int:
        """Number of non-empty groups, on which the jackknife errors rest."""
        return int(np.count_nonzero(self.sums["images"]))

    def rows(self, model: str | None = None, *, tokens: str | None = None) -> npt.NDArray[np.intp]:
        """Return the positions in `layers` of one model's layers under one readout; of all by default.

        Raises:
            ResultError: no such model or readout in this result.
        """
        if model is None and tokens is None:
            return np.arange(len(self.layers))
        if model is not None:
            self._known(model)
        wanted = self.tokens[0] if tokens is None else tokens
        found = [
            row
            for row, layer in enumerate(self.layers)
            if layer.tokens == wanted and model in (None, layer.model)
        ]
        if not found:
            held = ", ".join(self.tokens)
            raise ResultError(f"no readout {wanted!r} in this result; it holds {held}")
        return np.array(found)

    def cka(
        self, model: str | None = None, other: str | None = None, *, tokens: str | None = None
    ) -> Array:
        """Return unbiased linear CKA between layers.

        Args:
            model: whose layers are the rows; every layer of the result if none is named.
            other: whose layers are the columns; those of the rows if none is named.
            tokens: readout; the first of the run if none is named.

        Returns:
            float64 `(L, L')`; NaN in the row and column of a degenerate layer.
        """
        return self._block(self._matrix, model, other, tokens)

    def cka_se(
        self, model: str | None = None, other: str | None = None, *, tokens: str | None = None
    ) -> Array:
        """Return jackknife standard errors of `cka(...)`, the same shape; NaN with fewer than 5 groups."""
        return self._block(self._matrix_se, model, other, tokens)

    def curve(
        self, model: str, *, normalize: Normalize = "first-last", tokens: str | None = None
    ) -> Curve:
        """Return CKA of each layer with the last along one model's depth, with errors.

        Args:
            model: name of the model.
            normalize: `first-last` s(l) = CKA(l, last) / CKA(first, last); `min-max`; `none`.
            tokens: readout; the first of the run if none is named.
        """
        return estimate.curve(self._own_sums(model, tokens), _checked(normalize))

    def contrast(
        self, model: str, other: str, *, normalize: Normalize = "none", tokens: str | None = None
    ) -> Contrast:
        """Return the curve of `model` minus that of `other` over relative depth, with its paired error."""
        return estimate.contrast(
            self._own_sums(model, tokens), self._own_sums(other, tokens), _checked(normalize)
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that the result holds, the headline first."""
        return tuple(quantity.name for quantity in self.quantities)

    def quantity(self, measure: str) -> Quantity:
        """Return what a measure is.

        Raises:
            ResultError: it was not measured.
        """
        found = next((each for each in self.quantities if each.name == measure), None)
        if found is None:
            held = ", ".join(self.measures) or "no over-smoothing measures"
            raise ResultError(
                f"{measure!r} was not measured; the result holds {held}: analyse again with --smoothing or "
                "--attention"
            )
        return found

    def smoothing(
        self,
        measure: str,
        model: str | None = None,
        *,
        tokens: str | None = None,
        maps: str = "softmax",
    ) -> Means:
        """Return an over-smoothing measure along one model's depth, with errors over images.

        Args:
            measure: one of `measures`; what it means says `quantity(measure)`.
            model: name of the model; every layer (or block with maps) of the result if none is named.
            tokens: of a token measure: readout whose layers are meant. The measure does not depend on it.
            maps: of an attention measure: `softmax` or `refined`.

        Raises:
            ResultError: not measured; no such model, readout or maps.
        """
        rows, depth = self._places(measure, model, tokens, maps)
        total, squares, images = (
            self._sum(measure, part).sum(0) for part in ("total", "squares", "images")
        )
        if total.ndim == 2:
            pairs = np.ix_(rows, rows)
            kept = np.empty((0, len(rows)))
            return estimate.means(total[pairs], squares[pairs], images[pairs], depth, kept)
        kept = self._kept(measure)[:, rows]
        return estimate.means(total[rows], squares[rows], images[rows], depth, kept)

    def smoothing_contrast(
        self,
        measure: str,
        model: str,
        other: str,
        *,
        tokens: str | None = None,
        maps: str = "softmax",
    ) -> Contrast:
        """Return a measure of `model` minus that of `other` over relative depth, with its paired error."""
        first = self._groups(measure, *self._places(measure, model, tokens, maps))
        second = self._groups(measure, *self._places(measure, other, tokens, maps))
        return estimate.mean_contrast(first, second)

    def smoothing_change(
        self, measure: str, model: str, *, tokens: str | None = None, maps: str = "softmax"
    ) -> Contrast:
        """Return a measure at a model's last layer minus that at its first, with its paired error."""
        total, images, _ = self._groups(measure, *self._places(measure, model, tokens, maps))
        end = np.ones(1)
        return estimate.mean_contrast(
            (total[:, -1:], images[:, -1:], end), (total[:, :1], images[:, :1], end)
        )

    def top1(self, model: str) -> float | None:
        """Return the fraction of images whose class the model predicted, or `None` if classes are unknown."""
        column = self.models.index(self._known(model))
        labelled = self.sums["labelled"][:, column].sum()
        return float(self.sums["correct"][:, column].sum() / labelled) if labelled else None

    def degenerate(self) -> tuple[Layer, ...]:
        """Return the layers whose CKA is undefined: constant or non-finite features."""
        undefined = np.isnan(np.diagonal(self._matrix))
        return tuple(layer for layer, bad in zip(self.layers, undefined, strict=True) if bad)

    def same(self, model: str, *, tokens: str | None = None) -> list[tuple[Layer, Layer]]:
        """Return runs of layers that CKA cannot tell apart, first and last of each.

        Args:
            model: name of the model.
            tokens: readout; the first of the run if none is named.

        Returns:
            Pairs of layers; CKA of any two neighbours between them is within `SAME` of 1.
        """
        rows = self.rows(model, tokens=tokens)
        alike = np.abs(1.0 - self._matrix[rows[:-1], rows[1:]]) < SAME
        edges = np.flatnonzero(np.diff(np.concatenate([[False], alike, [False]]).astype(int)))
        return [
            (self.layers[rows[start]], self.layers[rows[stop]])
            for start, stop in zip(edges[::2], edges[1::2], strict=True)
        ]

    def other_pixels(self, other: Result) -> str:
        """Say which batch that both hold was made of other pixels, inputs or labels; nothing if none was.

        Args:
            other: a result of the same analysis.
        """
        both, here, there = np.intersect1d(self.batches, other.batches, return_indices=True)
        differ = (self.batch_digests[here] != other.batch_digests[there]).any(2)
        if not differ.any():
            return ""
        place, model = np.argwhere(differ)[0]
        return f"batch {both[place]} of {self.models[model]} is of other pixels"

    def save(self, path: str | Path) -> None:
        """Write the result to an HDF5 file, whole or not at all.

        Raises:
            ResultFileError: the file cannot be written.
        """
        from . import save

        save(self, path)

    def _known(self, model: str) -> str:
        if model not in self.models:
            raise ResultError(
                f"no model {model!r} in this result; it holds {', '.join(self.models)}"
            )
        return model

    @functools.cached_property
    def _held(self) -> Array:
        """The sums of the non-empty groups, `(g, L, L)`."""
        filled = self.sums["images"] > 0
        return self.sums["hsic"] if filled.all() else self.sums["hsic"][filled]

    @functools.cached_property
    def _matrix(self) -> Array:
        return cosine(self._held.sum(0))

    @functools.cached_property
    def _matrix_se(self) -> Array:
        return estimate.jackknife_se(self._held, cosine)

    def _block(
        self, matrix: Array, model: str | None, other: str | None, tokens: str | None
    ) -> Array:
        rows = self.rows(model, tokens=tokens)
        columns = rows if other is None else self.rows(other, tokens=tokens)
        return matrix[np.ix_(rows, columns)]

    def _own_sums(self, model: str, tokens: str | None) -> Array:
        rows = self.rows(model, tokens=tokens)
        return self._held[:, rows[:, None], rows]

    def _sum(self, measure: str, part: str) -> Array:
        """Return one sum of a measure.

        Raises:
            ResultError: it was not measured.
        """
        return self.sums[f"smoothing/{self.quantity(measure).name}/{part}"]

    def _places(
        self, measure: str, model: str | None, tokens: str | None, maps: str
    ) -> tuple[npt.NDArray[np.intp], Array]:
        """Return where in a measure's sums one model's layers are, and their relative depth."""
        if self.quantity(measure).places == "layers":
            rows = self.rows(model, tokens=tokens)
            return rows, np.array([self.layers[row].depth for row in rows])
        found = [
            row
            for row, block in enumerate(self.attention)
            if model is None or (block.model, block.maps) == (model, maps)
        ]
        if not found:
            held = ", ".join(dict.fromkeys(f"{at.model} ({at.maps})" for at in self.attention))
            raise ResultError(
                f"no {maps} attention maps of {model!r} in this result; it holds {held}"
            )
        return np.array(found), np.array([self.attention[row].depth for row in found])

    def _groups(
        self, measure: str, rows: npt.NDArray[np.intp], depth: Array
    ) -> tuple[Array, Array, Array]:
        """Return a measure's sums and images per group at the layers where it is defined."""
        total, images = self._sum(measure, "total")[:, rows], self._sum(measure, "images")[:, rows]
        measured = np.isfinite(total.sum(0)) & (images.sum(0) > 0)
        if not measured.any():
            raise ResultError(f"{measure} is defined at no layer")
        held = self._sum(measure, "images").reshape(len(total), -1).any(1)
        return total[held][:, measured], images[held][:, measured], depth[measured]

    def _kept(self, measure: str) -> Array:
        """Return the values of the first images one by one, `(K, rows)`."""
        counts = self.sums["smoothing/kept_images"].astype(int)
        groups = self._sum(measure, "kept")
        return np.concatenate(
            [group[:, :count].T for group, count in zip(groups, counts, strict=True)]
        )


def _checked(normalize: Normalize) -> Normalize:
    if normalize not in estimate.NORMALIZATIONS:
        known = ", ".join(estimate.NORMALIZATIONS)
        raise ResultError(f"unknown normalisation {normalize!r}; choose one of {known}")
    return normalize


def _check_batches(result: Result) -> None:
    """Refuse batches that the run does not have, twice the same, or of more images than were planned."""
    batches, count = result.batches, len(result.batches)
    shapes = {"batch_planned": (count,), "batch_images": (count,)}
    for name, shape in {**shapes, "batch_digests": (count, len(result.models), 32)}.items():
        found = getattr(result, name).shape
        if found != shape:
            raise ResultError(
                f"{name} has shape {found}, not {shape} as the batches and models have"
            )
    if (np.diff(batches) <= 0).any():
        raise ResultError("batches is not ascending, or holds a batch twice")
    if count and not (batches[0] >= 0 and batches[-1] < result.total_batches):
        raise ResultError("batches holds a batch that the run does not have")
    planned, images = result.batch_planned, result.batch_images
    most = result.provenance.get("images", {}).get("count", math.inf)
    if planned.sum() > most:
        raise ResultError(f"batch_planned counts {planned.sum()} images where the run has {most}")
    if (wrong := np.flatnonzero((images < 0) | (images > planned))).size:
        at = wrong[0]
        raise ResultError(
            f"batch_images counts {images[at]} images in batch {batches[at]}, for which {planned[at]} "
            "were planned"
        )


def _check_images(result: Result) -> None:
    """Refuse sums of more or fewer images than their batches have."""
    images = result.sums["images"]
    if not is_count(images, np.inf):
        raise ResultError("images is not a count")
    held = np.zeros(len(images))
    if len(result.batches):
        np.add.at(held, result.batches % len(images), result.batch_images)
    if not np.array_equal(images, held):
        raise ResultError(
            f"images counts {images.sum():.0f} images in the sums where their batches have "
            f"{held.sum():.0f}: something was added twice, or not at all"
        )


def _check_sums(result: Result) -> None:
    """Refuse sums that are missing, of another shape than what they are of, or that no run can have made."""
    images, groups = result.sums["images"], len(result.sums["images"])
    rows, models = len(result.layers), len(result.models)
    shapes: dict[str, tuple[int, ...]] = {
        "hsic": (groups, rows, rows),
        "correct": (groups, models),
        "labelled": (groups, models),
    }
    for quantity in result.quantities:
        places = rows if quantity.places == "layers" else len(result.attention)
        own = (places, places) if quantity.places == "pairs of maps" else (places,)
        shapes |= {
            f"smoothing/{quantity.name}/{part}": (groups, *own)
            for part in ("total", "squares", "images")
        }
    for name, shape in shapes.items():
        if name not in result.sums:
            raise ResultError(f"{name} is missing")
        if result.sums[name].shape != shape:
            raise ResultError(f"{name} has shape {result.sums[name].shape}, not {shape}")
    most = {"labelled": images[:, None], "correct": result.sums["labelled"]}
    for name, bound in most.items():
        if not is_count(result.sums[name], bound):
            raise ResultError(f"{name} counts more images than there are, or no whole number")
    for quantity in result.quantities:
        _check_moments(result, f"smoothing/{quantity.name}", images)
    _check_kept(result)


def _check_moments(result: Result, of: str, images: Array) -> None:
    """Refuse three sums of values of which some cannot be the others' values, squares or number."""
    total, squares, counts = (
        result.sums[f"{of}/{part}"] for part in ("total", "squares", "images")
    )
    if not is_count(counts, images.reshape(-1, *[1] * (counts.ndim - 1))):
        raise ResultError(f"{of}/images counts more images than there are, or no whole number")
    if not np.array_equal(np.isfinite(total), np.isfinite(squares)):
        raise ResultError(f"{of}/squares is not finite where {of}/total is, or the other way about")
    # Sums of n numbers, each rounded: n eps of the sum of their sizes, at most sqrt(n x squares).
    slack = 1.0 + 8.0 * np.finfo(np.float64).eps * (counts + 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = (squares < 0) | (total**2 > counts * squares * slack)
    if wrong.any():
        raise ResultError(f"{of}/squares is less than the squares of so many values can be")


def _check_kept(result: Result) -> None:
    """Refuse values of images one by one without the number of these images, or of more than there is room for."""
    names = [f"smoothing/{each.name}/kept" for each in result.quantities]
    held = [name for name in names if name in result.sums]
    if not held:
        return
    counts = result.sums.get("smoothing/kept_images")
    if counts is None or counts.shape != result.sums["images"].shape:
        raise ResultError("smoothing/kept_images is missing, or of another shape than images")
    for name in held:
        places = result.sums[name].shape[2:]
        if len(places) != 1 or not is_count(counts, np.minimum(places[0], result.sums["images"])):
            raise ResultError(f"{name} does not hold the images that smoothing/kept_images counts")


def merge(results: Sequence[Result]) -> Result:
    """Return the sum of results of disjoint batches of one analysis.

    Raises:
        ResultError: nothing to merge; different analyses; a batch held twice, whether its pixels were the
            same or not.
    """
    if not results:
        raise ResultError("nothing to merge: give at least one result")
    first = results[0]
    for other in results[1:]:
        if other.fingerprint != first.fingerprint:
            found = differences(first.provenance, other.provenance)
            raise ResultError(
                f"the results are of different analyses: {found or 'their fingerprints differ'}; "
                "use the same command for every shard"
            )
        if _shapes(other) != _shapes(first):
            raise ResultError(
                "the results hold different sums; measure every shard with one version of refiner-cka"
            )
    for one, two in itertools.combinations(results, 2):
        _check_disjoint(one, two)
    batches = np.concatenate([result.batches for result in results])
    order = np.argsort(batches)
    merged = replace(
        first,
        sums={name: np.sum([r.sums[name] for r in results], axis=0) for name in first.sums},
        batches=batches[order],
        batch_planned=np.concatenate([r.batch_planned for r in results])[order],
        batch_images=np.concatenate([r.batch_images for r in results])[order],
        batch_digests=np.concatenate([r.batch_digests for r in results])[order],
        unreadable=unique_images(image for r in results for image in r.unreadable),
        provenance={
            **first.provenance,
            "shard": [1, 1],
            "command": "; ".join(dict.fromkeys(str(r.provenance.get("command")) for r in results)),
        },
    )
    # What is undefined in a part need not be in the whole.
    derived = {line for part in results for line in derived_lines(part)}
    lasting = [line for part in results for line in part.warnings if line not in derived]
    return replace(merged, warnings=tuple(dict.fromkeys([*lasting, *derived_lines(merged)])))


def derived_lines(result: Result) -> list[str]:
    """Return the warnings that follow from the sums: layers without a CKA, and layers that are the same."""
    return [*degenerate_lines(result), *_same_lines(result)] if result.images else []


def _same_lines(result: Result) -> list[str]:
    """Return a line for each model with layers that CKA cannot tell apart, with the likely cause."""
    faint: Mapping[str, str] = result.provenance.get("faint_parameters", {})
    lines = []
    for model, tokens in dict.fromkeys((layer.model, layer.tokens) for layer in result.layers):
        runs = [f"{first.path} to {last.path}" for first, last in result.same(model, tokens=tokens)]
        if not runs:
            continue
        shown = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
        cause = f", probably since {faint[model]}" if model in faint else ""
        lines.append(
            f"{model}: layers {shown} ({tokens}) are the same up to rounding: CKA 1 from each to the next{cause}"
        )
    return lines


def unique_images(unreadable: Iterable[Unreadable]) -> tuple[Unreadable, ...]:
    """Return each image once, by name, with the first reason given."""
    found: dict[str, Unreadable] = {}
    for entry in unreadable:
        found.setdefault(entry.image, entry)
    return tuple(found[image] for image in sorted(found))


def _shapes(result: Result) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in result.sums.items()}


def _check_disjoint(one: Result, two: Result) -> None:
    """Refuse a batch in two results, and say whether both saw the same pixels in it."""
    if other := one.other_pixels(two):
        raise ResultError(
            f"{other} in two of the results: the images, or what decodes them, changed in between; "
            "measure all parts from the same images"
        )
    both = np.intersect1d(one.batches, two.batches)
    if len(both):
        raise ResultError(
            f"batch {both[0]} is in two of the results, of the same pixels; merge each shard once"
        )


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Say what differs between what determines the numbers of two analyses, at most three things.

    Args:
        one: provenance of a result or an analysis.
        two: provenance of another.

    Returns:
        `revision of estimator differs (1 / 2)`, several with commas; nothing if nothing is found.
    """
    first, second = (
        {
            path: text
            for key in each.get("identity", ())
            if key in each
            for path, text in _leaves(each[key], (key,))
        }
        for each in (one, two)
    )
    lines = [
        f"{' of '.join(reversed(path))} differs "
        f"({_short(first.get(path, 'none'))} / {_short(second.get(path, 'none'))})"
        for path in dict.fromkeys([*first, *second])
        if first.get(path) != second.get(path)
    ]
    return ", ".join(lines[:3]) + (" and more" if len(lines) > 3 else "")


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each number and text in nested provenance with the words that lead to it."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        # Models go by their names, and need no other word.
        value = {str(item.get("name", index)): item for index, item in enumerate(value)}
        path = ()
    if isinstance(value, dict):
        for key, item in value.items():
            words = {"origin": (), "sha256": ("weights", "sha256")}.get(key, (str(key),))
            yield from _leaves(item, (*path, *words))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}..."


def degenerate_lines(result: Result) -> list[str]:
    """Return a line for each layer whose CKA is undefined, with the cause."""
    own = np.diagonal(result.sums["hsic"].sum(0))
    undefined = set(result.degenerate())
    return [
        f"{layer.model}: the features of layer {layer.path} ({layer.tokens}) "
        f"{'do not vary between images' if np.isfinite(value) else 'are not finite'}; "
        "its CKA is undefined (NaN)"
        for layer, value in zip(result.layers, own, strict=True)
        if layer in undefined
    ]
