"""A result as a LaTeX table for booktabs and siunitx, with as many digits as its errors leave meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import printable
from . import findings
from .estimate import Estimate, nearest
from .findings import Smoothing
from .measured import Measured

DEPTHS = {0.0: "0", 0.25: "1/4", 0.5: "1/2", 0.75: "3/4"}
"""Relative depths at which the table shows the raw curve, each at the nearest layer."""

MOST_DECIMALS = 4
"""More are never shown: smaller errors are rounded up to one in the last of these digits."""

_ESCAPES = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        '"': "{''}",  # \\textquotedbl asks for another encoding of fonts
        **{character: f"\\{character}" for character in "&%$#_{}"},
        # Options of the end of the line before, where a label begins with them.
        "[": "{[}",
        "*": "{*}",
    }
)


class _Column(NamedTuple):
    """A column of the table: its kind, `S` for numbers of siunitx; its head; its cells."""

    kind: str
    head: str
    cells: Sequence[str]

    def specified(self) -> str:
        """Return it as `tabular` wants it."""
        return f"S[table-format={_format(self.cells)}]" if self.kind == "S" else self.kind

    def headed(self) -> str:
        """Return its head, which is no number."""
        return f"{{{self.head}}}" if self.kind == "S" else self.head


def table(result: Measured) -> str:
    """Return a table with one line per model and readout, each value with its standard error.

    Lines of groups of trainings follow, where there are any, with errors over trainings, and a column says so.
    """
    models = dict.fromkeys((layer.model, layer.tokens) for layer in result.layers)
    grouped = [
        (group, tokens)
        for group, (first, *_) in result.groups.items()
        for model, tokens in models
        if model == first
    ]
    names = [*models, *grouped]
    before, curves = _names(result, names), _curves(result, names)
    smoothed = _smoothing(result, names)
    columns = [*before, *curves, _ends(result, names), *smoothed, *_rest(result, names)]
    lines = [
        f"{' & '.join(column.cells[place] for column in columns)} \\\\"
        for place in range(len(names))
    ]
    return "\n".join(
        [
            *_head(result, columns, len(before), smoothed),
            *lines[: len(models)],
            *(["\\midrule"] if grouped else []),
            *lines[len(models) :],
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is; what is not printable is spelt out."""
    return printable(text).translate(_ESCAPES)


def number(value: float, error: float) -> str:
    """Return a value with its standard error as siunitx reads it: `0.512(13)` for 0.512 +- 0.013.

    The error has one or two significant digits by the rule of the Particle Data Group, of at most `MOST_DECIMALS`
    decimals. It is never shown as 0: without an error, or with one of exactly 0, the value stands alone.
    """
    if not math.isfinite(value):
        return "{--}"
    if math.isnan(error):
        return f"{value:.3f}"
    if error == 0:
        return f"{value:.{MOST_DECIMALS}g}"
    decimals = _decimals(error)
    return f"{value:.{decimals}f}({max(1, round(error * 10**decimals))})"


def _decimals(error: float) -> int:
    """Return how many decimals show an error.

    Its first three digits decide: up to 354 it has two, up to 949 one, and from there on it is rounded to 1000
    and has two (Particle Data Group, Review of Particle Physics, introduction, on rounding).
    """
    digits, _, exponent = f"{error:.2e}".partition("e")
    return min(max((float(digits) <= 3.54) - int(exponent), 0), MOST_DECIMALS)


def _format(cells: Sequence[str]) -> str:
    """Return the `table-format` of siunitx that fits all numbers of a column."""
    found = [re.fullmatch(r"(-?)(\d+)\.?(\d*)(?:\((\d+)\))?", cell) for cell in cells]
    parts = [match.groups("") for match in found if match] or [("", "1", "000", "")]
    sign = "-" if any(part[0] for part in parts) else ""
    whole, decimals, error = (max(len(part[place]) for part in parts) for place in (1, 2, 3))
    return f"{sign}{whole}" + (f".{decimals}" if decimals else "") + (f"({error})" if error else "")


def _names(result: Measured, names: Sequence[tuple[str, str]]) -> list[_Column]:
    """Return the columns that say what a line is of."""
    layers = [len(result.rows(result.trainings(name)[0], tokens=tokens)) for name, tokens in names]
    readouts = [_Column("l", "Tokens", [escaped(tokens) for _, tokens in names])]
    return [
        _Column("l", "Model", [escaped(name) for name, _ in names]),
        *(readouts if len(result.tokens) > 1 else []),
        _Column("r", "Layers", [str(count) for count in layers]),
    ]


def _curves(result: Measured, names: Sequence[tuple[str, str]]) -> list[_Column]:
    """Return the columns of CKA with the last layer."""
    curves = [result.curve(name, normalize="none", tokens=tokens) for name, tokens in names]
    columns = []
    for depth, head in DEPTHS.items():
        points = [curve.at(nearest(curve.depth, depth)) for curve in curves]
        columns.append(_Column("S", f"${head}$", [_told(point) for point in points]))
    return columns


def _told(point: Estimate) -> str:
    return number(float(point.values), float(point.se))


def _ends(result: Measured, names: Sequence[tuple[str, str]]) -> _Column:
    """Return the column of s(last)."""
    cells = [_interval(result.curve(name, tokens=tokens)) for name, tokens in names]
    return _Column("c", "$s(\\mathrm{last})$", cells)


def _interval(ratio: Estimate) -> str:
    """Return s(last) with its 95 % interval, or that it is unresolved."""
    if math.isnan(ratio.values[-1]):
        return "--"
    if not ratio.resolved:
        return "\\textit{unresolved}"
    value, lower, upper = ratio.values[-1], ratio.lower[-1], ratio.upper[-1]
    digits = _decimals((upper - lower) / 2) if upper > lower else 2
    return f"${value:.{digits}f}$ $[{lower:.{digits}f}, {upper:.{digits}f}]$"


def _smoothing(result: Measured, names: Sequence[tuple[str, str]]) -> list[_Column]:
    """Return the columns of the headline of over-smoothing, at the first and the last layer, if measured."""
    found = {each.model: each for each in findings.smoothing(result)}

    def cells(end: str) -> list[str]:
        ends = (found.get(name) for name, _ in names)
        return ["{--}" if each is None else _told(getattr(each, end)) for each in ends]

    heads = {"at_first": "first", "at_last": "last"}
    return [_Column("S", head, cells(end)) for end, head in heads.items() if found]


def _rest(result: Measured, names: Sequence[tuple[str, str]]) -> list[_Column]:
    """Return the columns of accuracy, and of what errors are over, where there is a choice."""
    accuracies = [result.top1(name) for name, _ in names]
    cells = ["{--}" if each is None else f"{100 * each:.1f}" for each in accuracies]
    known = any(each is not None for each in accuracies)
    counts = [len(result.trainings(name)) for name, _ in names]
    over = [
        f"{count} trainings" if name in result.groups else "images"
        for (name, _), count in zip(names, counts, strict=True)
    ]
    return [
        *([_Column("S", "Top-1 (\\%)", cells)] if known else []),
        *([_Column("l", "Errors over", over)] if result.groups else []),
    ]


def _head(
    result: Measured, columns: Sequence[_Column], before: int, smoothed: Sequence[_Column]
) -> list[str]:
    """Return the lines above the first one of a model."""
    first = before + 1
    spans = {first: (len(DEPTHS), "CKA($l$, last) at relative depth")}
    if smoothed:
        measure: Smoothing = findings.smoothing(result)[0]
        label = escaped(result.quantity(measure.measure).label or measure.measure)
        spans[first + len(DEPTHS) + 1] = (len(smoothed), f"{label}, layer")
    cells, place = list[str](), 1
    while place <= len(columns):
        width, text = spans.get(place, (1, ""))
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{text}}}" if text else "")
        place += width
    rules = [f"\\cmidrule(lr){{{at}-{at + width - 1}}}" for at, (width, _) in spans.items()]
    return [
        "% needs \\usepackage{booktabs, siunitx}; 0.512(13) is 0.512 with a standard error of 0.013,",
        "% \\sisetup{separate-uncertainty = true} prints it with a plus-minus sign",
        f"% {result.images} images; errors: jackknife over {result.folds} folds of images",
        "% brackets: 95 % interval; unresolved: CKA(first, last) is not clearly above 0",
        f"\\begin{{tabular}}{{{' '.join(column.specified() for column in columns)}}}",
        "\\toprule",
        f"{' & '.join(cells).strip()} \\\\",
        " ".join(rules),
        f"{' & '.join(column.headed() for column in columns)} \\\\",
        "\\midrule",
    ]
