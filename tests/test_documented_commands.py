"""Every command of the README and the pages runs in its order, on embedded networks in place of large ones."""

import glob
import io
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import pytest
import torch

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.subjects import resolve
from tests.cli.running import ROOT, succeed

PAGES = ("README.md", *(f"docs/{name}.md" for name in ("nano", "performance", "questions")))
PAGES += tuple(f"docs/{name}.md" for name in ("reliability", "replicates", "report", "smoothing"))
PAGES += ("docs/statistics.md",)

HOW_TO = {
    "arrays": None,
    "checkpoint": ["deit_nano", "Ours"],
    "column": ["vit_nano", "deit_nano"],
    "hugging-face": ["DINOv2", "deit_nano"],
    "how-long": ["deit_nano", "vit_nano"],
    "laptop": ["vit_nano", "resnet_nano"],
    "own-data": ["untrained", "Ours"],
    "r-and-matlab": ["vit_nano", "deit_nano"],
    "training": ["deit_nano", "deit_nano=random"],
}
"""Pages of docs/howto, of which blocks of Python run, too, and the models of `analysis.h5` in the end."""

ELSEWHERE = ("docs/gallery.md", "docs/reviewers.md", "docs/tables.md")
"""Pages whose commands run in tests of their own, which also look at what comes out."""

COMMAND = re.compile(
    r"^ *(?:srun |time )?(?:refiner-cka|torchrun .* -m refiner_cka.cli.app) ((?:.*\\\n)*.*)$",
    re.MULTILINE,
)
BLOCK = re.compile(r"^( *)```(python|r|matlab)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`refiner-cka ([^`]* [^`]*)`")

EMBEDDED = {
    r"\b(vit|deit|refiner)_[sb]\b": r"\1_nano",
    r"\bresnet50\b": "resnet_nano",
    r"\bMODEL\b": "vit_nano",
    r"\b(imagenet/val|photos)\b": "val",
    r"\b256\b": "36",
    r"\b224\b": "32",
}


def text_of(page):
    return (ROOT / page).read_text()


def steps(page):
    """The commands of a page, continued lines joined, and its blocks of code with their languages, in order."""
    text = text_of(page)
    found = [*COMMAND.finditer(text), *INLINE.finditer(text), *BLOCK.finditer(text)]
    for each in sorted(found, key=lambda each: each.start()):
        if each.re is BLOCK:
            yield each[2], textwrap.dedent(each[3])
        else:
            yield "shell", each[1].replace("\\\n", " ")


def commands(page):
    """The commands of a page, continued lines joined."""
    return [text for language, text in steps(page) if language == "shell"]


def embedded(text):
    """The same of networks that are in the package."""
    for large, small in EMBEDDED.items():
        text = re.sub(large, small, text)
    return text


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
    line = re.sub(r"--shard (?:\d|\$SLURM_ARRAY_TASK_ID)/", f"--shard {part}/", embedded(line))
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


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of the folder as the working directory."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    # Drawn in tests of their own; here they would take most of the time.
    monkeypatch.setattr("refiner_cka.plots.save_figures", lambda *_, **__: [Path("curves.pdf")])
    return tmp_path / "here"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, here):
    for line in commands(page):
        run(line)
    assert not Path("merged").exists() or rc.load("merged/analysis.h5").images == 64


@pytest.fixture
def python(here, monkeypatch):
    """A function that runs a block of Python, or writes it where its first line names a file; what it prints."""
    names = {}
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    monkeypatch.setattr("refiner_cka.analysis.preparation.Analysis.workers", 0)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", _without_a_download)

    def execute(block):
        if file := re.match(r"# (\w+\.py)\n", block):
            (here / file[1]).write_text(block)
            return []
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as stdout:
            warnings.simplefilter("ignore", rc.AnalysisWarning)
            exec(block, names)
        return stdout.getvalue().splitlines()

    return execute


def _without_a_download(_name):
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    return Dinov2Model(Dinov2Config(**sizes, image_size=32, patch_size=8))


def shown(page, python):
    """Run a page's commands and blocks; what its blocks of Python print, a list of lines each."""
    printed = []
    for language, text in steps(f"docs/howto/{page}.md"):
        if language == "shell":
            run(text)
        elif language == "python":
            printed.append(python(embedded(text)))
    return printed


def prints_what_is_left_of_each_block(printed):
    [lines] = printed
    kept = rc.load("results/analysis.h5").cka("deit_nano", "Ours").diagonal()
    assert [float(line.split()[1]) for line in lines] == pytest.approx([*kept], abs=6e-4)


def prints_each_state(printed):
    [lines] = printed
    names = [line.split()[0] for line in lines]
    assert names == [f"deit_nano=epoch{epoch:02d}" for epoch in (0, 5, 10)]


def prints_what_its_comments_say(printed):
    (rotated, unrelated), [line] = printed
    found, by_chance = map(float, re.findall(r"\d\.\d+", line))
    assert float(rotated) == 1.0
    assert abs(float(unrelated)) < 0.05
    assert found > by_chance


PRINTED = {
    "arrays": prints_what_its_comments_say,
    "checkpoint": prints_what_is_left_of_each_block,
    "training": prints_each_state,
}


@pytest.mark.parametrize("page", HOW_TO)
def test_every_command_and_block_of_a_how_to_runs(page, here, python):
    printed = shown(page, python)
    if page in PRINTED:
        PRINTED[page](printed)
    if HOW_TO[page]:
        assert list(rc.load("analysis.h5").models) == HOW_TO[page]


def test_the_first_lines_of_python_draw_the_figure(here, python):
    block = next(text for language, text in steps("README.md") if language == "python")
    python(block.replace('"digits")', '"digits", images=64)'))
    assert Path("curves.pdf").read_bytes().startswith(b"%PDF")


def test_what_the_page_of_other_languages_reads_is_in_the_file(made):
    page = text_of("docs/howto/r-and-matlab.md")
    read = re.findall(r"""h5read\(file, "(.*?)"\)|file\[\["(.*?)"\]\]""", page)
    with h5py.File(made / "results" / "analysis.h5") as file:
        assert len(read) > 10
        assert not {name for pair in read for name in pair if name and name not in file}


def _has_r():
    ask = ["Rscript", "-e", "library(rhdf5); library(hdf5r)"]
    return shutil.which("Rscript") and not subprocess.run(ask, capture_output=True).returncode


@pytest.mark.skipif(not _has_r(), reason="R with rhdf5 and hdf5r is not installed")
def test_the_code_in_r_prints_the_matrix(here):
    printed = []
    for language, text in steps("docs/howto/r-and-matlab.md"):
        if language == "r":
            Path("block.R").write_text(embedded(text))
            done = subprocess.run(
                ["Rscript", "block.R"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
    cka = rc.load("results/analysis.h5").cka("vit_nano")
    first = next(line for line in printed[0].splitlines() if line.startswith("blocks.0 "))
    assert float(first.split()[2]) == pytest.approx(cka[0, 1], abs=6e-4)
    with h5py.File("results/analysis.h5") as file:
        assert "{} {}".format(*file["cka"].shape) in printed[1]


def test_no_page_with_commands_is_left_out():
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")]
    assert {page for page in ["README.md", *pages] if commands(page)} == {*PAGES, *ELSEWHERE}
    assert {page.stem for page in (ROOT / "docs" / "howto").glob("*.md")} == {*HOW_TO}
