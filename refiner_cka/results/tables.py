"""Results as tables for other programs: CSV, JSON, NumPy archives and LaTeX; one writer per suffix."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ResultFileError
from ..sums import Array
from .atomic import write_whole
from .estimate import Estimate, as_json
from .result import Result

LATEX_DEPTHS = {0.0: "0", 0.25: "1/4", 0.5: "1/2", 0.75: "3/4"}
"""Relative depths at which the LaTeX table shows the raw curve, each at the nearest layer."""

_ESCAPES = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def export(result: Result, path: str | Path) -> None:
    """Write a result as the table that the suffix of the path names, whole or not at all.

    `.csv`: one row per layer with both curves. `.pairs.csv`: one row per ordered pair of layers. `.json`:
    everything but the sums. `.npz`: arrays whose rows are the layers. `.tex`: one line per model, for
    booktabs.

    Raises:
        ResultFileError: an unknown suffix; the file cannot be written.
    """
    fitting = [suffix for suffix in WRITERS if str(path).lower().endswith(suffix)]
    if not fitting:
        raise ResultFileError(
            f"cannot export to {path}: give it one of the suffixes {', '.join(WRITERS)}"
        )
    write_whole(path, WRITERS[max(fitting, key=len)](result))


def curves_csv(result: Result) -> bytes:
    """Return one row per layer: where it is, CKA with its model's last layer, and s(l), with errors."""
    return _csv(_layer_rows(result))


def pairs_csv(result: Result) -> bytes:
    """Return one row per ordered pair of rows of the matrix: each index and its standard error."""
    matrices = _matrices(result)
    return _csv(
        {
            "model": layer.model,
            "tokens": layer.tokens,
            "path": layer.path,
            "other_model": other.model,
            "other_tokens": other.tokens,
            "other_path": other.path,
            **{name: float(matrix[i, j]) for name, matrix in matrices.items()},
        }
        for i, layer in enumerate(result.stack)
        for j, other in enumerate(result.stack)
    )


def document_json(result: Result) -> bytes:
    """Return everything but the sums as strict JSON; what is not finite is null."""
    document = {
        "images": result.images,
        "batches": result.batches.tolist(),
        "total_batches": result.total_batches,
        "complete": result.complete,
        "folds": result.folds,
        "top1": {model: result.top1(model) for model in result.models},
        "layers": list(_layer_rows(result)),
        **_matrices(result),
        "measures": {name: result.smoothing(name) for name in result.measures},
        "unreadable": [asdict(entry) for entry in result.unreadable],
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
        "fingerprint": result.fingerprint,
    }
    return json.dumps(as_json(document), indent=1, allow_nan=False).encode()


def npz(result: Result) -> bytes:
    """Return a NumPy archive: the columns of the `.csv` table by name, `cka`, `cka_se`, ... and `batches`."""
    rows = list(_layer_rows(result))
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    buffer = io.BytesIO()
    columns |= {**_matrices(result), "batches": result.batches}
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def latex(result: Result) -> bytes:
    """Return a booktabs table with one line per model and readout, each value with its standard error."""
    several = len(result.tokens) > 1
    known = any(result.top1(model) is not None for model in result.models)
    lines = [
        *_latex_head(result, several, known),
        *(_latex_line(result, model, tokens, several, known) for model, tokens in _curves(result)),
        "\\bottomrule",
        "\\end{tabular}",
        "",
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


WRITERS: dict[str, Callable[[Result], bytes]] = {
    ".csv": curves_csv,
    ".pairs.csv": pairs_csv,
    ".json": document_json,
    ".npz": npz,
    ".tex": latex,
}
"""Suffix -> writer; the longest suffix that fits counts."""


def _curves(result: Result) -> Iterator[tuple[str, str]]:
    """Yield model and readout of every curve, in the order of the layers."""
    yield from dict.fromkeys((layer.model, layer.tokens) for layer in result.layers)


def _matrices(result: Result) -> dict[str, Array]:
    """Return each similarity index by its name, with its standard errors: `cka`, `cka_se`."""
    found: dict[str, Array] = {}
    for index in result.indices:
        estimate = result.similarity(index)
        found |= {index: estimate.values, f"{index}_se": estimate.se}
    return found


def _layer_rows(result: Result) -> Iterator[dict[str, Any]]:
    for model, tokens in _curves(result):
        raw = result.curve(model, normalize="none", tokens=tokens)
        ratio = result.curve(model, tokens=tokens)
        for position, row in enumerate(result.rows(model, tokens=tokens)):
            yield {
                **asdict(result.layers[row]),
                **_point("cka_last", raw, position),
                **_point("s", ratio, position),
                "s_resolved": ratio.resolved,
            }


def _point(name: str, curve: Estimate, position: int) -> dict[str, float]:
    point = curve.at(position)
    errors = {f"{name}_{part}": float(getattr(point, part)) for part in ("se", "lower", "upper")}
    return {name: float(point.values), **errors}


def _csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return rows as CSV; floats with all their digits, undefined ones as `nan`."""
    text, rows = io.StringIO(), iter(rows)
    first = next(rows)
    writer = csv.DictWriter(text, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows(itertools.chain([first], rows))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _latex_head(result: Result, several: bool, known: bool) -> list[str]:
    before = ["Model", *(["Tokens"] if several else []), "Layers"]
    after = ["$s(\\mathrm{last})$", *(["Top-1"] if known else [])]
    depths, first = list(LATEX_DEPTHS.values()), len(before) + 1
    columns = "l" * (len(before) - 1) + "r" + "c" * len(depths) + "c" + "r" * known
    span = f"\\multicolumn{{{len(depths)}}}{{c}}{{CKA($l$, last) at relative depth}}"
    return [
        "% needs \\usepackage{booktabs}",
        f"% {result.images} images; errors: jackknife over {result.folds} folds of images",
        "% brackets: 95 % interval; unresolved: CKA(first, last) is not clearly above 0",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join([*[""] * len(before), span, *[""] * len(after)]).strip() + " \\\\",
        f"\\cmidrule(lr){{{first}-{first + len(depths) - 1}}}",
        " & ".join([*before, *(f"${depth}$" for depth in depths), *after]) + " \\\\",
        "\\midrule",
    ]


def _latex_line(result: Result, model: str, tokens: str, several: bool, known: bool) -> str:
    raw = result.curve(model, normalize="none", tokens=tokens)
    nearest = [int(np.abs(raw.depth - depth).argmin()) for depth in LATEX_DEPTHS]
    top1 = result.top1(model)
    cells = [
        model.translate(_ESCAPES),
        *([tokens] if several else []),
        str(len(raw.values)),
        *(_with_error(raw.values[layer], raw.se[layer]) for layer in nearest),
        _last(result.curve(model, tokens=tokens)),
        *(["--" if top1 is None else f"{100 * top1:.1f}\\,\\%"] if known else []),
    ]
    return " & ".join(cells) + " \\\\"


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "--"
    return f"${value:.3f}$" if math.isnan(error) else f"${value:.3f} \\pm {error:.3f}$"


def _last(ratio: Estimate) -> str:
    """Return s(last) with its 95 % interval, or that it is unresolved."""
    if math.isnan(ratio.values[-1]):
        return "--"
    if not ratio.resolved:
        return "\\textit{unresolved}"
    return f"${ratio.values[-1]:.2f}$ $[{ratio.lower[-1]:.2f}, {ratio.upper[-1]:.2f}]$"
