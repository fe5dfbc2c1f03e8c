"""`plot` as it is used: the commands of the gallery, and what it refuses without leaving anything behind."""

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.running import ROOT, command, refused, succeed
from tests.synthetic import synthetic_result, with_smoothing

GALLERY = ROOT / "docs" / "gallery.md"


@pytest.fixture(scope="module")
def results():
    """Two runs with the names of the gallery."""
    a = with_smoothing(synthetic_result({"vit_s": 4, "deit_s": 4, "resnet50": 5}, batches=5))
    return a, with_smoothing(synthetic_result({"vit_s": 4, "deit_s": 4}, batches=3, seed=1))


@pytest.fixture(autouse=True)
def _stored(results, tmp_path, _elsewhere):
    for name, result in zip("ab", results, strict=True):
        result.save(tmp_path / f"{name}.h5")


def pictures():
    """What lies here beside the results."""
    return sorted(path.name for path in Path().rglob("*") if path.suffix != ".h5")


def commands():
    """The commands of the gallery that are of these."""
    return re.findall(r"^    refiner-cka (plot a.h5.*)$", GALLERY.read_text(), re.MULTILINE)


def test_the_gallery_has_five_figures_for_a_paper():
    assert len(commands()) == 5


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_gallery_run(line):
    arguments = shlex.split(line)
    done = succeed(*arguments)
    (out,) = pictures()
    assert done.stdout == ""
    assert done.stderr == f"wrote {out}\n"
    written = Path(out).read_bytes()
    if out.endswith(".svg"):
        assert b">CKA" in written or b"Difference in" in written
    else:
        assert b"/CIDFontType2" in written
        assert b"/Type3" not in written


def test_equal_commands_write_equal_bytes():
    for suffix in ("svg", "png"):
        for name in ("x", "y"):
            succeed("plot", "a.h5", "--panel", "curve,of=vit_s", "-o", f"{name}.{suffix}")
        assert Path(f"x.{suffix}").read_bytes() == Path(f"y.{suffix}").read_bytes()


def test_default_figures_of_some_models_in_a_style():
    options = ["--model", "deit_s,label=Ours", "--style", "text", "--normalize", "none"]
    succeed("plot", "a.h5", "-o", "out", *options)
    stems = {Path(name).stem for name in pictures() if name != "out"}
    assert stems == {"curves", "cka_deit_s", "smoothing", "attention", "attention_deit_s"}


def test_default_figures_of_several_files_have_folders_of_their_own():
    options = ["--model", "vit_s", "--normalize", "none"]
    succeed("plot", "a.h5", "b.h5", "-o", "out", *options)
    assert {path.parent.name for path in Path("out").rglob("*.pdf")} == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--panel", "curve", "-o", "x.eps"], "x.eps: a figure is written as .pdf, .png, .svg"),
        (["--panel", "curve", "-o", "x"], "x: a figure is written as"),
        (["--panel", "curve", "-o", "a.h5"], "a.h5: a figure is written as"),
        (["--panel", "curve,of=vit", "-o", "x.pdf"], "did you mean vit_s?"),
        (["--panel", "measure,of=patch_cosin", "-o", "x.pdf"], "did you mean patch_cosine?"),
        (["--model", "vit"], "no model 'vit' here: did you mean vit_s?"),
        (["--set", "image.cmap=x"], "the setting image.cmap: no colours 'x'"),
        (["--style", "poster"], "no style 'poster'"),
        (["--panel", "curve", "-o", "a.h5/x.pdf"], "is a file, not a folder"),
    ],
)
def test_refusals_leave_nothing_behind(arguments, told):
    assert told in refused("plot", "a.h5", *arguments)
    assert pictures() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused():
    Path("locked").mkdir(mode=0o500)
    assert "name another --out" in refused("plot", "a.h5", "--panel", "curve", "-o", "locked/x.pdf")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--panel", "curve"], "--panel needs it"),
        (["--panel", "curve", "-o", "x.pdf", "--normalize", "none"], "goes into the panel"),
        (["-o", "x.pdf"], "say with --panel"),
        (["--set", "image.cmap"], "is not RCPARAM=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, told):
    done = command("plot", "a.h5", *arguments)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.replace("\u2502", " ").split())
    assert pictures() == []


@pytest.mark.parametrize(
    "label",
    ["<b>x</b>&amp;", "$x_{", "\\textbf{x}", "_hidden", "a%b#c", "caf\udce9", "\x1b[2J", "$a$"],
)
def test_labels_are_written_as_they_are(label):
    panels = ["--panel", "curve", "--panel", "heatmap", "--panel", "contrast,of=vit_s:deit_s"]
    shown = ["--model", f"vit_s,label={label}", "--model", "deit_s"]
    succeed("plot", "a.h5", *panels, *shown, "-o", "x.svg", "--style", "text")
    svg = Path("x.svg").read_text(encoding="utf-8")
    assert "<b>" not in svg
    if label.isascii() and label.isprintable():
        escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert escaped in svg


def test_a_wrong_value_of_a_property_leaves_nothing():
    assert "ylim=x of the panel curve" in refused(
        "plot", "a.h5", "--panel", "curve,ylim=x", "-o", "x.pdf"
    )
    assert pictures() == []
