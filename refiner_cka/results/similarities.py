"""Every question about the similarity of layers that one asks of a result's sums."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ..errors import ResultError, known_names
from ..sums import IMAGES, LAYERS, MODELS, ROWS, Array, Layer, Quantity, cosine
from . import chance, statistics
from .chance import Correction, Match, Null
from .contents import Contents
from .estimate import Estimate
from .jackknife import Products

SAME = 1e-6
"""CKA so near 1 is 1: a float32 Gram matrix is right to a few roundings of 1.2e-7."""


class Similarities(Contents):
    """The part of a result that is about pairs of layers."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Readouts of the run; questions that name none mean the first."""
        return tuple(dict.fromkeys(layer.tokens for layer in self.layers))

    @property
    def images(self) -> int:
        """Number of images the sums hold."""
        return int(self.sums[IMAGES.path].sum())

    @property
    def folds(self) -> int:
        """Number of non-empty folds of images, on which the errors rest."""
        return int(np.count_nonzero(self.sums[IMAGES.path]))

    @property
    def indices(self) -> tuple[str, ...]:
        """Names of the similarity indices of layers that the result holds, CKA first."""
        cosines = (each for each in self.quantities if each.estimator == "cosine")
        return tuple(each.name for each in cosines if each.axes[0] in (LAYERS, ROWS))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures of single images, means over them or fractions, the headline first."""
        return tuple(each.name for each in self.quantities if each.is_of_images)

    def quantity(self, name: str) -> Quantity:
        """Return what a measure or a similarity index is.

        Raises:
            ResultError: it was not measured.
        """
        found = next((each for each in self.quantities if each.name == name), None)
        if found is None:
            known = known_names(name, [*self.indices, *self.measures])
            raise ResultError(
                f"{name!r} was not measured: {known}; for others analyse again with --index, --smoothing or "
                "--attention"
            )
        return found

    def rows(self, model: str | None = None, *, tokens: str | None = None) -> npt.NDArray[np.intp]:
        """Return the positions in `stack` of one model's layers under one readout; of all rows by default.

        A reference has one row, whatever the readout.

        Raises:
            ResultError: no such model or readout in this result.
        """
        if model is None and tokens is None:
            return np.arange(len(self.stack))
        if model in self.references:
            return np.array([self._row_of(model)])
        if model is not None:
            self._position_of(model)
        wanted = self.tokens[0] if tokens is None else tokens
        found = [
            row
            for row, layer in enumerate(self.layers)
            if layer.tokens == wanted and model in (None, layer.model)
        ]
        if not found:
            known = ", ".join(self.tokens)
            raise ResultError(f"no readout {wanted!r} in this result; it holds {known}")
        return np.array(found)

    def similarity(
        self,
        index: str,
        model: str | None = None,
        other: str | None = None,
        *,
        tokens: str | None = None,
    ) -> Estimate:
        """Return a similarity index between layers, with its errors.

        Args:
            index: one of `indices`.
            model: whose layers are the rows, or a reference; every row of the result if none is named.
            other: whose layers are the columns; those of the rows if none is named.
            tokens: readout; the first of the run if none is named.

        Returns:
            `(L, L')`; NaN in the row and column of a degenerate layer. Errors are NaN with fewer than 12 images.
        """
        rows, columns, depth = self._sides(index, model, other, tokens)
        return self._estimate(index).block(np.ix_(rows, columns), depth)

    def cka(
        self, model: str | None = None, other: str | None = None, *, tokens: str | None = None
    ) -> Array:
        """Return unbiased linear CKA between layers, float64 `(L, L')`; see `similarity`."""
        rows = self.rows(model, tokens=tokens)
        columns = rows if other is None else self.rows(other, tokens=tokens)
        return self._values("cka")[np.ix_(rows, columns)]

    def cka_se(
        self, model: str | None = None, other: str | None = None, *, tokens: str | None = None
    ) -> Array:
        """Return standard errors of `cka(...)`, the same shape; NaN with fewer than 12 images."""
        return self.similarity("cka", model, other, tokens=tokens).se

    def chance(
        self,
        model: str | None = None,
        other: str | None = None,
        *,
        tokens: str | None = None,
        index: str = "cka",
    ) -> Array:
        """Return the standard deviation of the similarity of unrelated images, `(L, L')`, whose mean is 0.

        For the arguments see `similarity`.
        """
        return self.null(model, other, tokens=tokens, index=index).sd

    def p_values(
        self,
        model: str | None = None,
        other: str | None = None,
        *,
        tokens: str | None = None,
        index: str = "cka",
        correct: Correction = "holm",
    ) -> Array:
        """Return the probability that layers which see unrelated images are as similar as these, `(L, L')`.

        Args:
            model: see `similarity`.
            other: see `similarity`.
            tokens: see `similarity`.
            index: see `similarity`.
            correct: `holm` corrects for the number of pairs, of which those of the same layers count once, and a
                layer with itself, which is NaN, not at all; `none` leaves each on its own.
        """
        return self.null(model, other, tokens=tokens, index=index).p_values(correct)

    def best_match(
        self, model: str, other: str, *, tokens: str | None = None, index: str = "cka"
    ) -> tuple[Match, ...]:
        """Return for each layer of `model` the layer of `other` that it resembles most.

        Layers that are undefined, or have no defined layer to resemble, are left out.
        """
        found = self.similarity(index, model, other, tokens=tokens)
        null = self.null(model, other, tokens=tokens, index=index)
        p_values = null.p_values()
        paths, others = (
            [self.stack[row].path for row in self._places(index, name, tokens)[0]]
            for name in (model, other)
        )
        matches = []
        for row in np.flatnonzero(np.isfinite(found.values).any(1)):
            column = int(np.nanargmax(found.values[row]))
            at = row, column
            matches.append(
                Match(
                    layer=paths[row],
                    match=others[column],
                    similarity=float(found.values[at]),
                    lower=float(found.lower[at]),
                    upper=float(found.upper[at]),
                    p=float(chance.corrected(p_values[row], "holm")[column]),
                    rough=bool(null.rough[at]),
                )
            )
        return tuple(matches)

    def partial(
        self,
        model: str,
        other: str | None = None,
        *,
        given: str,
        tokens: str | None = None,
        index: str = "cka",
    ) -> Estimate:
        """Return what two models' layers have in common beyond what both share with a reference, `(L, L')`.

        Args:
            model: see `similarity`.
            other: see `similarity`.
            given: one of `references`.
            tokens: see `similarity`.
            index: see `similarity`.
        """
        reference = self._row_of(given)
        rows, columns, depth = self._sides(index, model, other, tokens)
        wanted = np.concatenate([rows, columns, [reference]])
        of = statistics.similarity(self._all_products(index).of(wanted), statistics.partial_values)
        return of.block((slice(len(rows)), slice(len(rows), None)), depth)

    def null(
        self,
        model: str | None = None,
        other: str | None = None,
        *,
        tokens: str | None = None,
        index: str = "cka",
    ) -> Null:
        """Return the distribution of the similarity of unrelated images; for the arguments see `similarity`."""
        rows, columns, _ = self._sides(index, model, other, tokens)
        block, own = np.ix_(rows, columns), np.diagonal(self._sum(index, "products"))
        moments = [self._sum(index, part)[block] for part in ("variance", "third", "fourth")]
        same = np.array_equal(rows, columns)
        return Null.of(self._values(index)[block], (own[rows], own[columns]), moments, same=same)

    def degenerate(self) -> tuple[Layer, ...]:
        """Return the rows whose CKA is undefined: constant or non-finite features."""
        undefined = np.isnan(np.diagonal(self._values("cka")))
        return tuple(layer for layer, bad in zip(self.stack, undefined, strict=True) if bad)

    def same(self, model: str, *, tokens: str | None = None) -> list[tuple[Layer, Layer]]:
        """Return runs of layers that CKA cannot tell apart, first and last of each.

        Args:
            model: name of the model.
            tokens: readout; the first of the run if none is named.

        Returns:
            Pairs of layers; CKA of any two neighbours between them is within `SAME` of 1.
        """
        rows = self.rows(model, tokens=tokens)
        alike = np.abs(1.0 - self._values("cka")[rows[:-1], rows[1:]]) < SAME
        edges = np.flatnonzero(np.diff(np.concatenate([[False], alike, [False]]).astype(int)))
        return [
            (self.layers[rows[start]], self.layers[rows[stop]])
            for start, stop in zip(edges[::2], edges[1::2], strict=True)
        ]

    def _position_of(self, model: str) -> int:
        if model not in self.models:
            raise ResultError(
                f"no model {model!r} in this result; it holds {', '.join([*self.groups, *self.models])}"
            )
        return self.models.index(model)

    def _row_of(self, reference: str) -> int:
        """Return the position of a reference in `stack`."""
        if reference not in self.references:
            known = ", ".join(self.references) or "none"
            raise ResultError(
                f"no reference {reference!r} in this result, which has {known}: analyse again with --against "
                f"{reference}"
            )
        return len(self.layers) + self.references.index(reference)

    def _sum(self, name: str, part: str) -> Array:
        """Return one sum of a quantity.

        Raises:
            ResultError: it was not measured, or no such sum is kept of it.
        """
        path = self.quantity(name).sum(part)
        if path not in self.sums:
            raise ResultError(f"{name!r} is no similarity index: {known_names(name, self.indices)}")
        return self.sums[path]

    @functools.cached_property
    def _filled(self) -> npt.NDArray[np.bool_]:
        """Which folds hold images."""
        filled: npt.NDArray[np.bool_] = self.sums[IMAGES.path] > 0
        return filled

    @functools.cached_property
    def _computed(self) -> dict[str, Array]:
        return {}

    @functools.cached_property
    def _estimated(self) -> dict[str, Estimate]:
        return {}

    def _values(self, index: str) -> Array:
        """Return an index of all pairs of layers; computed once."""
        if index not in self._computed:
            self._computed[index] = cosine(self._sum(index, "products"))
        return self._computed[index]

    def _estimate(self, index: str) -> Estimate:
        """Return an index of all pairs of layers with its errors; computed once."""
        if index not in self._estimated:
            self._estimated[index] = statistics.similarity(self._all_products(index))
        return self._estimated[index]

    def _all_products(self, index: str) -> Products:
        total, removed = (self._sum(index, part) for part in ("products", "removed"))
        return Products(total, removed if self._filled.all() else removed[self._filled])

    def _products(self, model: str, tokens: str | None, index: str = "cka") -> Products:
        return self._all_products(index).of(self.rows(model, tokens=tokens))

    def _sides(
        self, index: str, model: str | None, other: str | None, tokens: str | None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
        """Return rows and columns that a question about pairs is of, and the depth of the rows."""
        rows, depth = self._places(index, model, tokens)
        return rows, rows if other is None else self._places(index, other, tokens)[0], depth

    def _places(
        self, name: str, model: str | None, tokens: str | None, maps: str | None = None
    ) -> tuple[npt.NDArray[np.intp], Array]:
        """Return where on the axis of a quantity one model is, and the relative depth there."""
        axis = self.quantity(name).axes[0]
        if axis == MODELS:
            models = range(len(self.models)) if model is None else [self._position_of(model)]
            return np.array(models), np.ones(len(models))
        entries = self.axes[axis]
        readout = maps if axis == "attention" else tokens
        found = [
            position
            for position, entry in enumerate(entries)
            if model is None or (entry.model == model and readout in (None, entry.tokens))
        ]
        if axis == LAYERS and model in self.references:
            raise ResultError(f"{name} is of the layers of models, and {model!r} is a reference")
        if axis in (LAYERS, ROWS):
            positions = self.rows(model, tokens=tokens)
            positions = positions[positions < len(entries)]
        elif found or model is None:
            positions = np.array(found, np.intp)
        else:
            known = ", ".join(dict.fromkeys(f"{at.model} ({at.tokens})" for at in entries))
            what = f"{readout} attention maps" if axis == "attention" else axis
            raise ResultError(f"no {what} of {model!r} in this result; it holds {known}")
        return positions, np.array([entries[position].depth for position in positions])
