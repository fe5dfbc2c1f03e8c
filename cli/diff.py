"""`refiner-cka diff`: whether two results are the same within error."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, options, output

DIFFERENT = 3
"""Exit code where the results differ."""

_SHOWN = 20


def diff(
    first: options.ResultFile,
    second: Annotated[
        Path, typer.Argument(metavar="OTHER", help="Another result, such as a rerun of it.")
    ],
    json: Annotated[
        bool, typer.Option("--json", help="Print all of it as JSON on stdout.")
    ] = False,
) -> None:
    """Say whether two results are the same within error, and what differs: exit code 0 or 3, 1 if refused."""
    found = rc.diff(output.load(first), output.load(second))
    if json:
        typer.echo(jsonlib.dumps(found.as_dict(), indent=2))
    else:
        _print(found)
    if not found.same:
        raise typer.Exit(DIFFERENT)


def _print(found: rc.results.Diff) -> None:
    heads = [
        "Quantity",
        "Numbers",
        "Largest difference",
        "in its errors",
        "Beyond 0.1",
        "Different",
    ]
    console.table(
        heads,
        [
            [
                each.label,
                str(each.count),
                _number(each.largest),
                _number(each.in_errors),
                str(each.beyond),
                str(each.different),
            ]
            for each in found.compared
        ],
    )
    if found.differences:
        _print_differences(found)
    console.say(found.verdict)
    for line in found.sentences:
        console.say(line)


def _print_differences(found: rc.results.Diff) -> None:
    labels = {each.quantity: each.label for each in found.compared}
    heads = ["What differs", "First", "Second", "In SE of the difference", "p"]
    rows = [
        [
            f"{_named(labels[each.quantity], each)}",
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.errors:+.1f}" if math.isfinite(each.errors) else "-",
            "-" if math.isnan(each.p) else "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
        ]
        for each in found.differences[:_SHOWN]
    ]
    console.table(heads, rows)
    if len(found.differences) > _SHOWN:
        console.say(f"... and {len(found.differences) - _SHOWN} more, which --json prints.")


def _named(label: str, each: rc.results.Difference) -> str:
    place = f"{each.model} {each.path} ({each.tokens})" if each.path else each.model
    if each.beside is None:
        return f"{label}, {place}"
    model, path, tokens = each.beside
    return f"{label}, {place} with {model} {path} ({tokens})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3f}"
