"""The text of one `--model`: `NAME[=WEIGHTS][,key=value...]`, taken apart.

NAME ends at the first `=`. A comma starts an option only where `key=` follows it, so values and file names may
hold commas. A FILE may hold `=` and even `,key=`: the longest text that names an existing file, or as a glob
matches one, is the FILE.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import grammar
from ..errors import CheckpointError, ModelError

Size = tuple[int, int]
"""(height, width) of images in pixels."""

# Keys of the tool, not of the model: how its tokens lie.
_TOKENS = ("layout", "prefix_tokens")
# Keys of the tool that name something: whatever is written is text.
_NAMES = ("label", "group")
# Longest first: `.pth.tar` is one suffix.
_SUFFIXES = (".pth.tar", ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class Spec:
    """One model to build.

    Attributes:
        name: alias, timm name or `package.module:factory`.
        weights: `None` for pretrained, `random`, or a file.
        arguments: for the factory.
        label: how results call the model.
        group: the recipe of which it is one of several trainings; none if empty.
        layout: how tokens lie in its outputs (`nlc`, `nchw`, `nhwc`), if stated.
        prefix_tokens: how many there are, if stated.
    """

    name: str
    weights: Path | str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    layout: Any = None
    prefix_tokens: Any = None
    group: str = ""


def parse(text: str) -> list[Spec]:
    """Take a `--model` text apart; a glob of weights gives one `Spec` per file, in natural order.

    The labels of a glob's files say what tells them apart (see `told_apart`): `vit_s=run1/epoch04`.

    Raises:
        ModelError: no name, or an option given twice.
        CheckpointError: a glob that matches no file.
    """
    head, *options = grammar.split(text)
    name, has_weights, weights = head.partition("=")
    name = name.strip()
    if not name:
        raise ModelError(f"--model {text!r} has no name: write NAME[=WEIGHTS][,key=value...]")
    files: list[Path] = []
    if has_weights:
        files, options = _files(weights, options, text)
    arguments = _options(options, text)
    label = str(arguments.pop("label", ""))
    own = {key: arguments.pop(key, None) for key in _TOKENS}
    own["group"] = str(arguments.pop("group", ""))
    shown = [each for each in options if each.partition("=")[0] not in (*_NAMES, *_TOKENS)]
    if not files:
        label = label or ",".join([f"{name}=random" if has_weights else name, *shown])
        return [Spec(name, "random" if has_weights else None, arguments, label, **own)]
    if label and len(files) == 1:
        return [Spec(name, files[0], arguments, label, **own)]
    head, shown = (label, []) if label else (name, shown)
    return [
        Spec(name, file, dict(arguments), ",".join([f"{head}={told}", *shown]), **own)
        for file, told in zip(files, told_apart(files), strict=True)
    ]


def stem(file: Path) -> str:
    """Return a checkpoint's file name without its suffix (`epoch05.pth.tar` -> `epoch05`)."""
    suffix = next((known for known in _SUFFIXES if file.name.lower().endswith(known)), "")
    return file.name[: -len(suffix)] if suffix else file.name


def told_apart(files: Sequence[Path]) -> list[str]:
    """Return for each of different files the parts of its path that tell it from the others, joined by `/`.

    Of `run1/last.pth` and `run2/last.pth` these are `run1` and `run2`. Files at different depths keep all of
    their paths below the folder that they share; a suffix stays only where nothing else differs. One file
    alone is its stem.
    """
    if len(files) == 1:
        return [stem(files[0])]
    short = grammar.told_apart([(*file.parent.parts, stem(file)) for file in files])
    return (
        short
        if len(set(short)) == len(files)
        else grammar.told_apart([file.parts for file in files])
    )


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts `epoch2` before `epoch10`."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]


def _files(weights: str, options: list[str], text: str) -> tuple[list[Path], list[str]]:
    """Return the files that the longest possible text names, none for `random`; and the options left."""
    if not weights:
        raise ModelError(
            "no weights after '=': write NAME=FILE, NAME=random, or NAME alone for pretrained weights"
        )
    for taken in range(len(options), -1, -1):
        written = ",".join([weights, *options[:taken]])
        if written == "random":
            return [], options
        path = os.path.expanduser(written)
        if os.path.exists(path):
            return [Path(path)], options[taken:]
        if glob.has_magic(path) and (found := set(glob.glob(path, recursive=True))):
            return [Path(each) for each in sorted(found, key=natural)], options[taken:]
    if glob.has_magic(weights):
        raise CheckpointError(f"no file matches {weights!r} in --model {text!r}")
    return [Path(os.path.expanduser(weights))], options


def _options(options: list[str], text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, _, value in (option.partition("=") for option in options):
        if key in values:
            raise ModelError(f"{key!r} is given twice in --model {text!r}")
        values[key] = value if key in _NAMES else grammar.literal(value)
    return values
