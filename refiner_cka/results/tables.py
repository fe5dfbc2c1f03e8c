"""Results as tables for other programs: CSV, JSON, NumPy archives and LaTeX; one writer per suffix."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResultFileError, printable
from ..sums import Array
from . import latex, tidy
from .atomic import write_whole
from .estimate import as_json
from .result import Result

_COLUMNS_OF_AXES = ("model", "path", "tokens", "index", "depth")


def export(result: Result, path: str | Path) -> None:
    """Write a result as the table that the suffix of the path names, whole or not at all.

    `.csv`: one row per number along depth. `.pairs.csv`: one row per similarity of an ordered pair of layers.
    `.json`: everything but the sums. `.npz`: the same as arrays. `.tex`: one line per model, for booktabs and
    siunitx. What stands in them: docs/tables.md.

    Raises:
        ResultFileError: an unknown suffix; the file cannot be written.
    """
    fitting = [suffix for suffix in WRITERS if Path(path).name.lower().endswith(suffix)]
    if not fitting:
        raise ResultFileError(
            f"cannot export to {printable(str(path))}: give it one of the suffixes {', '.join(WRITERS)}"
            f"{_near(Path(path))}"
        )
    write_whole(path, WRITERS[max(fitting, key=len)](result))


def _near(path: Path) -> str:
    """Return which name was probably meant, as the end of a refusal."""
    near = difflib.get_close_matches(path.suffix.lower(), WRITERS, 1)
    return f"; did you mean {printable(path.stem)}{near[0]}?" if near else ""


def rows_csv(result: Result) -> bytes:
    """Return one row per number along depth, see `tidy.rows`."""
    return _csv(tidy.COLUMNS, tidy.rows(result))


def pairs_csv(result: Result) -> bytes:
    """Return one row per similarity of an ordered pair of layers, see `tidy.pair_rows`."""
    return _csv(tidy.PAIR_COLUMNS, tidy.pair_rows(result))


def document_json(result: Result) -> bytes:
    """Return everything but the sums as strict JSON; what is not finite is null."""
    document = {
        "images": result.images,
        "batches": result.batches.tolist(),
        "total_batches": result.total_batches,
        "complete": result.complete,
        "folds": result.folds,
        "top1": {model: result.top1(model) for model in result.models},
        "groups": {
            group: {"trainings": models, "top1": [result.top1(model) for model in models]}
            for group, models in result.groups.items()
        },
        "table": list(tidy.rows(result)),
        "axes": {axis: [asdict(at) for at in entries] for axis, entries in result.axes.items()},
        "quantities": [asdict(quantity) for quantity in result.quantities],
        **_matrices(result),
        "measures": {name: result.smoothing(name) for name in result.measures},
        "unreadable": [asdict(entry) for entry in result.unreadable],
        "image_names": list(result.image_names),
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
        "fingerprint": result.fingerprint,
    }
    return json.dumps(as_json(document), indent=1, allow_nan=False).encode()


def npz(result: Result) -> bytes:
    """Return a NumPy archive: the entries of axes, and what follows from the sums, by their paths in the file.

    `cka`, `layers/model`, `smoothing/patch_cosine/values`, ...; beside these the curves of models along `layers`,
    with errors: `cka_last`, `cka_last_se`, `s`, ...
    """
    arrays: dict[str, Any] = {
        f"{axis}/{column}": np.array([getattr(entry, column) for entry in entries])
        for axis, entries in result.axes.items()
        for column in _COLUMNS_OF_AXES
    }
    arrays |= {**_curves(result), "batches": result.batches, **result.derived()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def table_tex(result: Result) -> bytes:
    """Return a LaTeX table with one line per model and readout, see `latex.table`."""
    return latex.table(result).encode()


WRITERS: dict[str, Callable[[Result], bytes]] = {
    ".csv": rows_csv,
    ".pairs.csv": pairs_csv,
    ".json": document_json,
    ".npz": npz,
    ".tex": table_tex,
}
"""Suffix -> writer; the longest suffix that fits counts."""


def _matrices(result: Result) -> dict[str, Array]:
    """Return each similarity index by its name, with its standard errors: `cka`, `cka_se`."""
    found: dict[str, Array] = {}
    for index in result.indices:
        estimate = result.similarity(index)
        found |= {index: estimate.values, f"{index}_se": estimate.se}
    return found


def _curves(result: Result) -> dict[str, Array]:
    """Return what there is along the layers of each model, joined along all of them."""
    found: dict[str, Array] = {}
    for model, tokens in dict.fromkeys((layer.model, layer.tokens) for layer in result.layers):
        own = result.rows(model, tokens=tokens)
        for what, estimate in tidy.curves(result, model, tokens):
            for part, ending in {
                "values": "",
                "se": "_se",
                "lower": "_lower",
                "upper": "_upper",
            }.items():
                whole = found.setdefault(what + ending, np.full(len(result.layers), np.nan))
                whole[own] = getattr(estimate, part)
    return found


def _csv(columns: Sequence[str], rows: Iterable[tidy.Row]) -> bytes:
    """Return rows as CSV; floats with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Return a value in the one spelling that pandas and R both take for what it is."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return "NaN" if value != value else value
