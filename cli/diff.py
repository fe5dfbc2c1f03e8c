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

_SHOWN = 6
"""So many places of each quantity are printed."""

_HEADS = [
    "Quantity",
    "Numbers",
    "Largest difference",
    "In SE over images",
    "Beyond 0.1",
    "Different",
]


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
    identical = [each.label for each in found.compared if each.largest == 0 and not each.different]
    if rows := [_row(each) for each in found.compared if each.label not in identical]:
        console.table(_HEADS, rows)
    if rows and identical:
        console.say(f"Identical to the last bit: {', '.join(identical)}.")
    if found.differences:
        _print_differences(found)
    for line in (found.verdict, *found.sentences):
        console.say(line)


def _row(each: rc.results.Compared) -> list[str]:
    numbers = [_number(each.largest), _number(each.in_errors)]
    return [each.label, str(each.count), *numbers, str(each.beyond), str(each.different)]


def _print_differences(found: rc.results.Diff) -> None:
    """Print where each quantity differs most clearly; what is of two layers once."""
    rows, left_out = list[list[str]](), 0
    for of in found.compared:
        places = {
            frozenset([(each.model, each.path, each.tokens), each.beside]): each
            for each in reversed(found.differences)
            if each.quantity == of.quantity
        }
        clearest = [*places.values()][::-1]
        rows += [_place(of.label, each) for each in clearest[:_SHOWN]]
        left_out += len(clearest[_SHOWN:])
    console.table(["What differs", "First", "Second", "In SE of the difference", "p"], rows)
    if left_out:
        console.say(f"Not shown: {left_out} more; --json prints all.")


def _place(label: str, each: rc.results.Difference) -> list[str]:
    p = "-" if math.isnan(each.p) else "< 0.001" if each.p < 0.001 else f"{each.p:.3f}"
    first, second = (
        "undefined" if math.isnan(value) else f"{value:.4f}" for value in (each.first, each.second)
    )
    errors = f"{each.errors:+.1f}" if math.isfinite(each.errors) else "-"
    return [_named(label, each), first, second, errors, p]


def _named(label: str, each: rc.results.Difference) -> str:
    place = f"{each.model} {each.path} ({each.tokens})" if each.path else each.model
    if each.beside is None:
        return f"{label}, {place}"
    model, path, tokens = each.beside
    return f"{label}, {place} with {model} {path} ({tokens})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3f}"
