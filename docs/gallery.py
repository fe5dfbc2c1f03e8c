"""Draw the pictures of docs/gallery.md by the commands that stand there: `make gallery`.

Two short runs of the embedded networks stand in for those of a paper: `a.h5` on the digits they were not trained
on, `b.h5` on as many of the others.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
NETWORKS = {"vit_s": "vit_nano", "deit_s": "deit_nano", "resnet50": "resnet_nano"}


def run(folder, *arguments):
    """Run the command line in a folder."""
    command = [sys.executable, "-m", "refiner_cka.cli.app", *arguments]
    subprocess.run(command, cwd=folder, check=True)


def measure(folder):
    """Write the two results of the gallery."""
    for name, data in (("a", "digits-test"), ("b", "digits-train")):
        models = [
            part
            for label, network in NETWORKS.items()
            for part in ("--model", f"{network},label={label}")
        ]
        run(folder, "analyze", *models, "--data", data, "--images", "360", "--out", name, "--quiet")
        (folder / name / "analysis.h5").rename(folder / f"{name}.h5")


def draw(folder, number, command):
    """Draw one picture of the page, at twice its printed size on a screen."""
    arguments = shlex.split(command)
    arguments[arguments.index("-o") + 1] = "figure.png"
    run(folder, *arguments)
    with Image.open(folder / "figure.png") as picture:
        small = picture.convert("RGB").reduce(2).quantize(256)
        small.save(DOCS / "img" / f"gallery-{number}.png", optimize=True)


if __name__ == "__main__":
    page = (DOCS / "gallery.md").read_text()
    with tempfile.TemporaryDirectory() as where:
        measure(Path(where))
        found = re.findall(r"^    refiner-cka (plot .*)$", page, re.MULTILINE)
        for number, command in enumerate(found, 1):
            draw(Path(where), number, command)
