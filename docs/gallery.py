"""Draw the pictures of docs/gallery.md by the commands that stand there: `make gallery`.

Each picture holds the numbers behind it, with which tests/test_gallery.py compares those that are drawn today.
What the figures are of is measured by the commands of the page, or stands in docs/data, where it is made if it is
missing: short trainings, whose weights are not kept.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

import refiner_cka as rc
from cli.app import app

DOCS = Path(__file__).resolve().parent
PAGE = (DOCS / "gallery.md").read_text()

PAPER = {"vit_s": "vit_nano", "deit_s": "deit_nano", "resnet50": "resnet_nano"}
"""Names of networks in the figures for a paper, and the embedded networks that stand in for them."""

RECIPES = {"plain": rc.Recipe(epochs=6, augmentation=None), "augmented": rc.Recipe(epochs=6)}
"""How the ResNets of docs/data are trained, three seeds by each recipe."""

STORED = {
    "seeds": [f"resnet_nano={name}/seed*/epoch06.safetensors,group={name}" for name in RECIPES],
    "training": ["resnet_nano=plain/seed0/epoch0[01236].safetensors"],
}
"""File in docs/data -> what it is of."""

LAYERS = "layer[234].[02]"
"""What docs/data has of them: files grow with the square of the number of layers."""

PNG = "figure.png"
"""What a command writes a figure to."""

DIGITS = 6
"""Decimals of the numbers in a picture."""


class Card(NamedTuple):
    """A figure of the page.

    Attributes:
        picture: where its picture is.
        command: for the shell, without the name of the program.
        code: Python that draws the same as `figure`; empty where there is none.
    """

    picture: Path
    command: str
    code: str


def cards() -> list[Card]:
    """Return the figures of the page."""
    found = []
    for section in re.split(r"^##", PAGE, flags=re.MULTILINE):
        for picture, command in zip(pictures(section), commands("plot", section), strict=True):
            found.append(Card(DOCS / picture, command, "".join(blocks(section))))
    return found


def pictures(text: str = PAGE) -> list[str]:
    """Return where the pictures of the page, or of a part of it, are."""
    return re.findall(r"\]\((img/gallery-.*\.png)\)", text)


def commands(name: str, text: str = PAGE) -> list[str]:
    """Return the lines of the page, or a part of it, that run a command."""
    found = re.findall(rf"^    refiner-cka ({name} (?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [each.replace("\\\n", " ") for each in found]


def blocks(text: str) -> list[str]:
    """Return the Python of a part of the page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(command: str) -> None:
    """Run a command line in this process."""
    app(shlex.split(command), standalone_mode=False)


def measure() -> None:
    """Write what the figures are of into the folder that is the current one."""
    (DOCS / "data").mkdir(exist_ok=True)
    if not all((DOCS / "data" / f"{name}.h5").exists() for name in STORED):
        train()
    Path("docs").mkdir()
    Path("docs/data").symlink_to(DOCS / "data")
    with mock.patch.object(rc.plots, "save_figures", return_value=[]):
        for command in commands("analyze"):
            run(f"{command} --quiet --device cpu")
    for name, data in (("a", "digits-test"), ("b", "digits-train")):
        models = [f"{network},label={label}" for label, network in PAPER.items()]
        rc.analyze(models, data, images=360, device="cpu").save(f"{name}.h5")


def train() -> None:
    """Train what docs/data is of, and write the results: of half of the blocks, to keep them small."""
    with tempfile.TemporaryDirectory() as where, contextlib.chdir(where):
        for name, seed in itertools.product(RECIPES, range(3)):
            rc.train(
                "resnet_nano=random",
                "digits-train",
                recipe=RECIPES[name],
                seed=seed,
                device="cpu",
                checkpoints=f"{name}/seed{seed}",
                every=1,
                progress=print,
            )
        for name, models in STORED.items():
            result = rc.analyze(
                models,
                "digits-test",
                layers=LAYERS,
                batch_size=60,
                smoothing="none",
                device="cpu",
            )
            result.save(DOCS / "data" / f"{name}.h5")


def by_command(card: Card, save: Callable[[Figure, Path], Path] = rc.plots.save) -> Figure:
    """Run the command of a card, have its figure written as `figure.png`, and return it."""
    words = shlex.split(card.command)
    words[words.index("-o") + 1] = PNG
    with mock.patch.object(rc.plots, "save", side_effect=save) as saving:
        run(shlex.join([*words, "--quiet"]))
    return saving.call_args.args[0]


def by_python(card: Card) -> Figure:
    """Run the Python of a card, after that which loads the results, and return its figure."""
    names: dict[str, Any] = {}
    exec(blocks(PAGE)[0] + card.code, names)
    return names["figure"]


def numbers(figure: Figure) -> list[dict[str, Any]]:
    """Return what the panels of a figure show: lines, bands and matrices."""
    return [
        {
            "lines": [_rounded(line.get_xydata()) for line in ax.lines],
            "bands": [
                _rounded(path.vertices)
                for band in ax.collections
                if isinstance(band, PolyCollection)
                for path in band.get_paths()
            ],
            "matrices": [_rounded(image.get_array()) for image in ax.images],
        }
        for ax in figure.axes
    ]


def _rounded(values: Any) -> Any:
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).round(DIGITS).tolist()


def keep(figure: Figure, path: Path) -> None:
    """Store `figure.png` at twice its printed size on a screen, with the numbers of its figure."""
    held = PngImagePlugin.PngInfo()
    held.add_text("numbers", json.dumps(numbers(figure)), zip=True)
    with Image.open(PNG) as picture:
        small = picture.convert("RGB").reduce(2).quantize(256)
        small.save(path, optimize=True, pnginfo=held)


def main() -> None:
    """Draw all pictures of the page."""
    with tempfile.TemporaryDirectory() as where, contextlib.chdir(where):
        measure()
        for card in cards():
            keep(by_command(card), card.picture)


if __name__ == "__main__":
    main()
