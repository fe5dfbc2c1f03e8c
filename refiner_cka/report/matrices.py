"""The page's maps: similarity of every two layers, and of every two blocks' attention maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..plots.captions import measured_on, named
from ..plots.heatmaps import common_path
from ..plots.style import shortened
from ..results.chance import ALPHA
from ..results.result import Result
from ..sums import Array, Layer
from . import captions
from .captions import sentences
from .curves import Figure, kinds
from .looks import scale
from .panels import Panel
from .texts import broken, plain, rounded

DETAILED = 150_000
"""With more pairs of layers on a page its maps hold the values alone, to two decimals: a page has to stay small
enough to be sent."""

MOST = 1_500_000
"""With more there are no maps."""

COLOUR_MAP = "magma"
"""Perceptually uniform, and monotone in lightness: it survives grey print."""

LEAST = 0.001
"""Below it a p-value is only said to be so."""


DOTS = (
    f"dots: no more similar than unrelated images may be (p of at least {ALPHA}, corrected by Holm for the pairs "
    "of the two models)"
)


class View(NamedTuple):
    """A part of a map: rows and columns from one position up to another."""

    label: str
    rows: tuple[int, int]
    columns: tuple[int, int]


def similarity(result: Result) -> Iterator[Figure]:
    """Yield the maps of each readout and index."""
    counts = [len(result.rows(tokens=tokens)) for tokens, _, _ in kinds(result)]
    pairs = sum(count * (count + 1) // 2 for count in counts)
    for tokens, index, title in kinds(result):
        label = named(result, index)
        if pairs > MOST:
            yield Figure(title, [], f"{pairs:,} pairs of layers are too many for a page: use plot.")
            continue
        layers = [result.layers[row] for row in result.rows(tokens=tokens)]
        found = result.similarity(index, tokens=tokens)
        beside = {} if pairs > DETAILED else _beside(result, layers, tokens, index)
        caption = sentences(
            f"{label} of every two layers, the first layers at the lower left",
            measured_on(result, index),
            DOTS if beside else "errors and chance of so many pairs are in the file",
            *captions.scale(found.values),
        )
        yield Figure(title, [panel(label, layers, found.values, beside)], caption)


def attention(result: Result) -> Iterator[Figure]:
    """Yield how alike the attention maps of each model's blocks are."""
    pairs = [
        quantity
        for quantity in map(result.quantity, result.measures)
        if quantity.axes == ("attention", "attention")
    ]
    for quantity, maps in itertools.product(
        pairs, dict.fromkeys(block.tokens for block in result.attention)
    ):
        blocks = [block for block in result.attention if block.tokens == maps]
        models = dict.fromkeys(block.model for block in blocks)
        own = [result.smoothing(quantity.name, model, maps=maps) for model in models]
        values, errors = (
            _blocks([getattr(each, part) for each in own]) for part in ("values", "se")
        )
        label = quantity.label or quantity.name
        drawn = panel(label, blocks, values, {"error": errors}, across=False)
        about = f"{label}: {quantity.about}" if quantity.about else label
        least = captions.scale(np.concatenate([each.values.ravel() for each in own]))
        caption = sentences(about, *least)
        yield Figure(f"Blocks, {maps} maps", [drawn], caption)


def panel(
    label: str,
    entries: Sequence[Layer],
    values: Array,
    beside: dict[str, Array],
    *,
    across: bool = True,
) -> Panel:
    """Return a map of which a reader chooses the part.

    Args:
        label: what its numbers are.
        entries: its rows, which are its columns too.
        values: `(L, L)`, symmetric.
        beside: other numbers of the same pairs, by their names in the page's script.
        across: whether there are numbers of entries of two models.
    """
    views = [*_views(entries, across=across)]
    digits = 3 if beside else 2
    numbers = {name: _lower(matrix, digits) for name, matrix in {"value": values, **beside}.items()}
    spec: dict[str, Any] = {
        "map": {
            "label": plain(label),
            "colours": scale(COLOUR_MAP),
            "alpha": ALPHA,
            "least": LEAST,
            "models": [broken(entry.model) for entry in entries],
            "paths": [broken(entry.path) for entry in entries],
            "views": [
                {
                    "rows": view.rows,
                    "columns": view.columns,
                    "ticks": [_ticks(entries[slice(*side)]) for side in (view.rows, view.columns)],
                }
                for view in views
            ],
            **numbers,
        }
    }
    return Panel(label, spec, "square", views=tuple(view.label for view in views))


def _views(entries: Sequence[Layer], *, across: bool) -> Iterator[View]:
    """Yield the whole where there are several models, each model, and each two."""
    models = [
        (name, len([*of])) for name, of in itertools.groupby(entry.model for entry in entries)
    ]
    ends = [0, *itertools.accumulate(count for _, count in models)]
    sides = [(name, span) for (name, _), span in zip(models, itertools.pairwise(ends), strict=True)]
    if across and len(models) > 1:
        yield View("all models", (0, len(entries)), (0, len(entries)))
    for name, span in sides:
        yield View(name, span, span)
    for (name, rows), (other, columns) in itertools.combinations(sides, 2) if across else ():
        yield View(f"{name} and {other}", rows, columns)


def _ticks(entries: Sequence[Layer]) -> dict[str, Any]:
    """Return what stands along one side of a view, and its title: layers of one model, or models."""
    models = [entry.model for entry in entries]
    names = list(dict.fromkeys(models))
    if len(names) > 1:
        counts = [models.count(name) for name in names]
        ends = [*itertools.accumulate(counts)]
        places = [end - (count + 1) / 2 for end, count in zip(ends, counts, strict=True)]
        texts, where, borders = shortened(names, 18), "", ends[:-1]
    else:
        where, texts = common_path([entry.path for entry in entries])
        where, borders = f"{shortened(names, 28)[0]}{where and ': '}{where}", []
        places = [float(place) for place in range(len(texts))]
    return {
        "title": plain(where),
        "places": places,
        "texts": [plain(text) for text in texts],
        "borders": borders,
    }


def _beside(result: Result, layers: Sequence[Layer], tokens: str, index: str) -> dict[str, Array]:
    """Return errors, chance and p-values of all pairs of layers."""
    errors = result.similarity(index, tokens=tokens).se
    chance = result.null(tokens=tokens, index=index).sd
    models, p_values = np.array([layer.model for layer in layers]), np.full_like(errors, np.nan)
    for one, two in itertools.combinations_with_replacement(dict.fromkeys(models.tolist()), 2):
        block = result.null(one, two, tokens=tokens, index=index).p_values("holm")
        rows, columns = (np.flatnonzero(models == name) for name in (one, two))
        p_values[np.ix_(rows, columns)] = block
        p_values[np.ix_(columns, rows)] = block.T
    # Small ones are not told apart.
    return {"error": errors, "chance": chance, "p": np.where(p_values < LEAST, 0.0, p_values)}


def _blocks(matrices: Sequence[Array]) -> Array:
    """Return matrices along the diagonal of one that is undefined elsewhere."""
    ends = np.cumsum([0, *map(len, matrices)])
    whole = np.full((ends[-1], ends[-1]), np.nan)
    for start, matrix in zip(ends, matrices, strict=False):
        whole[start : start + len(matrix), start : start + len(matrix)] = matrix
    return whole


def _lower(matrix: Array, digits: int) -> list[list[float | None]]:
    """Return the lower triangle of a symmetric matrix, row by row."""
    return [rounded(row[: number + 1], digits) for number, row in enumerate(matrix)]
