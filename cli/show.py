"""`refiner-cka show`: what a result file holds."""

from __future__ import annotations

import refiner_cka as rc

from . import console, options, output


def show(file: options.ResultFile, json: options.Json = False) -> None:
    """Print what a result file holds: findings, warnings, and how it was made."""
    result = rc.load(file)
    output.print_summary(result, as_json=json, files=[])
    if json:
        return
    for line in result.warnings:
        console.say(f"warning: {line}")
    console.say("")
    for key, text in output.flatten(dict(result.provenance)):
        console.say(f"{key}: {text if len(text) <= 160 else text[:157] + '...'}")
    console.say(f"fingerprint: {result.fingerprint}")
