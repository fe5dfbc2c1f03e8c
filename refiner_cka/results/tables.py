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
    """Return one row per layer: where it is, CKA with its model's last layer, and s(l), with errors.

    Where there are groups of trainings their layers follow, with the mean over trainings: `error_over` says so,
    and `..._sd_trainings` is its spread. The ceiling of a group has errors over images.
    """
    return _csv(_layer_rows(result, [*result.models, *result.groups]))


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
        "layers": list(_layer_rows(result, result.models)),
        "groups": {group: _group(result, group) for group in result.groups},
        **_matrices(result),
        "measures": {name: result.smoothing(name) for name in result.measures},
        "unreadable": [asdict(entry) for entry in result.unreadable],
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
        "fingerprint": result.fingerprint,
    }
    return json.dumps(as_json(document), indent=1, allow_nan=False).encode()


def npz(result: Result) -> bytes:
    """Return a NumPy archive: the columns of the `.csv` table by name, `cka`, `cka_se`, ... and `batches`.

    Of groups of trainings it has the arrays that the file has, by their paths there.
    """
    rows = list(_layer_rows(result, result.models))
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    buffer = io.BytesIO()
    columns |= {**_matrices(result), "batches": result.batches, **result.of_groups()}
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


def latex(result: Result) -> bytes:
    """Return a booktabs table with one line per model and readout, each value with its standard error.

    Lines of groups of trainings follow, where there are any, with errors over trainings, and a column says so.
    """
    several = len(result.tokens) > 1
    known = any(result.top1(model) is not None for model in result.models)
    told = {name: _latex_line(result, *name, several, known) for name in _curves(result)}
    lines = [
        *_latex_head(result, several, known),
        *(line for (name, _), line in told.items() if name not in result.groups),
        *(["\\midrule"] if result.groups else []),
        *(line for (name, _), line in told.items() if name in result.groups),
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
    """Yield model and readout of every curve, in the order of the layers; then group and readout."""
    models = dict.fromkeys((layer.model, layer.tokens) for layer in result.layers)
    yield from models
    for group, (first, *_) in result.groups.items():
        yield from ((group, tokens) for model, tokens in models if model == first)


def _matrices(result: Result) -> dict[str, Array]:
    """Return each similarity index by its name, with its standard errors: `cka`, `cka_se`."""
    found: dict[str, Array] = {}
    for index in result.indices:
        estimate = result.similarity(index)
        found |= {index: estimate.values, f"{index}_se": estimate.se}
    return found


def _layer_rows(result: Result, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer of the models and groups of these names."""
    wanted = set(names)
    for name, tokens in _curves(result):
        if name not in wanted:
            continue
        raw = result.curve(name, normalize="none", tokens=tokens)
        ratio = result.curve(name, tokens=tokens)
        ceiling = result.ceiling(name, tokens=tokens) if name in result.groups else None
        training = result.trainings(name)[0]
        for position, row in enumerate(result.rows(training, tokens=tokens)):
            yield {
                **asdict(result.layers[row]),
                "model": name,
                **_point("cka_last", raw, position),
                **_point("s", ratio, position),
                "s_resolved": ratio.resolved,
                "error_over": raw.over,
                **(_of_trainings(raw, ratio, ceiling, position) if result.groups else {}),
            }


def _of_trainings(
    raw: Estimate, ratio: Estimate, ceiling: Estimate | None, position: int
) -> dict[str, Any]:
    """Return what groups have beside a model's columns; NaN for a model."""
    columns = {"cka_last_sd_trainings": raw.spread, "s_sd_trainings": ratio.spread}
    for name, part in _CEILING.items():
        columns[name] = None if ceiling is None else getattr(ceiling, part)
    numbers = {
        name: math.nan if values is None else float(values[position])
        for name, values in columns.items()
    }
    return {"trainings": raw.trainings, **numbers}


_CEILING = {
    "ceiling": "values",
    "ceiling_se_images": "se",
    "ceiling_lower": "lower",
    "ceiling_upper": "upper",
    "ceiling_sd_pairs": "spread",
}


def _group(result: Result, group: str) -> dict[str, Any]:
    """Return what the JSON document says of a group."""
    readouts = [tokens for name, tokens in _curves(result) if name == group]
    return {
        "trainings": list(result.groups[group]),
        "layers": list(_layer_rows(result, [group])),
        "ceiling": {tokens: result.ceiling(group, tokens=tokens) for tokens in readouts},
        "top1": [result.top1(model) for model in result.groups[group]],
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
    after += ["Errors over"] if result.groups else []
    depths, first = list(LATEX_DEPTHS.values()), len(before) + 1
    columns = "l" * (len(before) - 1) + "r" + "c" * len(depths) + "c" + "r" * known
    columns += "l" if result.groups else ""
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
    accuracy = result.top1(model)
    over = f"{raw.trainings} trainings" if raw.over == "trainings" else "images"
    cells = [
        model.translate(_ESCAPES),
        *([tokens] if several else []),
        str(len(raw.values)),
        *(_with_error(raw.values[layer], raw.se[layer]) for layer in nearest),
        _last(result.curve(model, tokens=tokens)),
        *(["--" if accuracy is None else f"{100 * accuracy:.1f}\\,\\%"] if known else []),
        *([over] if result.groups else []),
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
