"""Every command of the README and the pages runs in its order, on embedded networks in place of large ones."""

import glob
import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.subjects import resolve
from tests.cli.running import ROOT, succeed

PAGES = ("README.md", *(f"docs/{name}.md" for name in ("nano", "questions", "reliability")))
PAGES += tuple(f"docs/{name}.md" for name in ("replicates", "report", "smoothing", "statistics"))

ELSEWHERE = ("docs/gallery.md", "docs/reviewers.md", "docs/tables.md")
"""Pages whose commands run in tests of their own, which also look at what comes out."""

COMMAND = re.compile(
    r"^(?: {4})?(?:srun )?(?:refiner-cka|torchrun .* -m refiner_cka.cli.app) ((?:.*\\\n)*.*)$",
    re.MULTILINE,
)
INLINE = re.compile(r"`refiner-cka ([^`]* [^`]*)`")

EMBEDDED = {
    r"\b(vit|deit|refiner)_[sb]\b": r"\1_nano",
    r"\bresnet50\b": "resnet_nano",
    r"\bMODEL\b": "vit_nano",
    r"imagenet/val\b": "val",
}


def text_of(page):
    return (ROOT / page).read_text()


def commands(page):
    """The commands of a page, continued lines joined."""
    found = [*COMMAND.finditer(text_of(page)), *INLINE.finditer(text_of(page))]
    return [each[1].replace("\\\n", " ") for each in sorted(found, key=lambda each: each.start())]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with images, checkpoints and results as the pages name them."""
    folder = tmp_path_factory.mktemp("documented")
    digits = open_source("digits-test")
    (folder / "val").mkdir()
    for index in range(64):
        digits.read(index).save(folder / "val" / f"{index}.png")
    for family in ("deit", "vit"):
        states = ("run/epoch00", "run/epoch05", "run/epoch10", "seed0/last", "seed1/last")
        paths = [Path(name) for name in states] if family == "deit" else []
        paths += [Path(family, name) for name in states[3:]]
        for seed, name in enumerate(paths):
            file = folder / f"{name}.pth"
            file.parent.mkdir(exist_ok=True, parents=True)
            torch.save(resolve(f"{family}_nano=random", seed=seed)[0].module.state_dict(), file)
    result = rc.analyze(
        ["vit_nano", "deit_nano"],
        "digits",
        images=64,
        workers=0,
        device="cpu",
        index="cka,rsa",
        against="labels",
    )
    for place in ("", "results", "results/demo", "results/again"):
        result.save(folder / place / "analysis.h5")
    return folder


def arguments(line, part):
    """What the shell makes of a line, with networks that are in the package."""
    for large, small in EMBEDDED.items():
        line = re.sub(large, small, line)
    line = re.sub(r"--shard (?:\d|\$SLURM_ARRAY_TASK_ID)/", f"--shard {part}/", line)
    words = shlex.split(line, comments=True)
    names = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
    if words[0] != "analyze":
        return names
    few = ["--device", "cpu", "--workers", "0", "--batch-size", "8"]
    few += [] if "--images" in words else ["--images", "64"]
    return [*names[:1], *few, *names[1:]]


def run(line):
    """Run a line; of one that measures a shard, all of them."""
    shards = re.search(r"--shard \S+/(\d)", line)
    for part in range(1, int(shards[1]) + 1 if shards else 2):
        words = arguments(line, part)
        if words[0] != "analyze":
            succeed(*words)
            continue
        # Each run of a page is one of its own, though several go into the folder that is the default.
        out = Path(words[words.index("--out") + 1] if "--out" in words else "results")
        (out / "analysis.h5").unlink(missing_ok=True)
        succeed(*words)
        if not shards and "--dry-run" not in words:
            shutil.copy(out / "analysis.h5", "analysis.h5")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    # Drawn in tests of their own; here they would take most of the time.
    monkeypatch.setattr("refiner_cka.plots.save_figures", lambda *_, **__: [Path("curves.pdf")])
    for line in commands(page):
        run(line)
    for folder in ("merged", "results/whole"):
        assert not Path(folder).exists() or rc.load(f"{folder}/analysis.h5").images == 64


def test_no_page_with_commands_is_left_out():
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")]
    assert {page for page in ["README.md", *pages] if commands(page)} == {*PAGES, *ELSEWHERE}


def test_the_example_of_two_arrays_prints_what_it_says():
    (block,) = re.findall(r"```python\n(.*?)```", text_of("docs/questions.md"), re.DOTALL)
    with redirect_stdout(io.StringIO()) as stdout:
        exec(block, {})
    same, unrelated = map(float, stdout.getvalue().split())
    assert (same, np.abs(unrelated) < 0.05) == (1.0, True)
