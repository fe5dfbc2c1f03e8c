"""`refiner-cka show`: what a result file holds."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

import refiner_cka as rc

from . import console, options, output


def show(
    file: options.ResultFile,
    methods: Annotated[
        bool,
        typer.Option("--methods", help="Print the text for a methods section and its BibTeX."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Print what a result file holds: findings, warnings, and what reviewers ask, from the file alone."""
    if methods and json:
        raise typer.BadParameter("--methods and --json exclude each other.")
    result = rc.load(file)
    if methods:
        console.say(rc.results.paragraph(result))
        console.say("")
        console.lines(rc.results.bibtex(result))
        return
    output.print_summary(result, as_json=json, files=[])
    if json:
        return
    for line in result.warnings:
        console.say(f"warning: {line}")
    for question, answer in rc.results.answers(result):
        console.say("")
        console.say(question)
        console.lines(answer, indent="  ")
    console.say("")
    console.say(f"fingerprint: {result.fingerprint}")
    again = shlex.join(["refiner-cka", "export", str(file), "record.json"])
    console.say(f"everything recorded: {again}")
