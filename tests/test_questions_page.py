"""Every command of docs/questions.md runs in its order, on embedded networks in place of large ones."""

import glob
import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.subjects import resolve
from tests.cli.running import succeed

PAGE = (Path(__file__).parents[1] / "docs" / "questions.md").read_text()
COMMANDS = re.findall(r"^    refiner-cka (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With images and checkpoints as the page names them."""
    folder = tmp_path_factory.mktemp("questions")
    digits = open_source("digits-test")
    (folder / "val").mkdir()
    for index in range(64):
        digits.read(index).save(folder / "val" / f"{index}.png")
    states = ("run/epoch00", "run/epoch05", "run/epoch10", "seed0/last", "seed1/last")
    for seed, name in enumerate(states):
        file = folder / f"{name}.pth"
        file.parent.mkdir(exist_ok=True)
        torch.save(resolve("deit_nano=random", seed=seed)[0].module.state_dict(), file)
    return folder


def arguments(line, part):
    """What the shell makes of a line, with networks that are in the package."""
    for name in ("deit", "vit"):
        line = re.sub(rf"\b{name}_s\b", f"{name}_nano", line)
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", part))
    small = ["--device", "cpu", "--workers", "0", "--overwrite"] if words[0] == "analyze" else []
    if "--resume" in words or "--shard" in words:
        small.remove("--overwrite")
    if "--shard" in words:
        small += ["--batch-size", "16"]  # a batch for each of the four
    names = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
    return [*names[:1], *small, *names[1:]]


def test_every_command_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Drawn in tests of their own; here they would take most of the time.
    monkeypatch.setattr("cli.output.save_figures", lambda *_, **__: [])
    for line in COMMANDS:
        for part in "1234" if "$SLURM_ARRAY_TASK_ID" in line else "1":
            succeed(*arguments(line, part))
    assert rc.load("merged/analysis.h5").images == rc.load("results/whole/analysis.h5").images == 64
    assert Path("figure.pdf").exists()
    assert Path("table.tex").exists()


def test_the_example_of_two_arrays_prints_what_it_says():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with redirect_stdout(io.StringIO()) as stdout:
        exec(block, {})
    same, unrelated = map(float, stdout.getvalue().split())
    assert (same, np.abs(unrelated) < 0.05) == (1.0, True)
