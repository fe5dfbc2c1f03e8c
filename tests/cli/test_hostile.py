"""Closed streams, signals at odd moments, and names made to deceive a terminal: none costs a result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

import refiner_cka as rc
from refiner_cka.results.store import Store, encoded
from tests.cli.running import MODEL, ROOT, SMALL, refused, succeed
from tests.images.examples import PICTURES, tar_of
from tests.synthetic import synthetic_result

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
NOT_UTF8 = "caf\udce9"

OWN = """
import os, signal, time
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))

def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def launched(*arguments, before=None, **options):
    """Run the command line in a process of its own."""
    Path("own.py").write_text(OWN)
    return subprocess.run(
        [sys.executable, "-m", "cli.app", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(Path.cwd())},
        check=False,
        preexec_fn=before,
        **options,
    )


def files():
    return {path.name for path in Path.cwd().iterdir() if path.is_file()}


def close_all():
    os.closerange(0, 3)


def break_all():
    """Give the process streams that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    for number in (1, 2):
        os.dup2(writer, number)


def fill_all():
    """Give the process streams to a full disk."""
    full = os.open("/dev/full", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(full, number)


@pytest.mark.parametrize("how", [close_all, break_all, fill_all])
def test_streams_that_are_gone_cost_nothing_of_the_result(how):
    launched("analyze", "--model", "own:build,label=mine", "--layers", "*", *SMALL, before=how)
    assert rc.load("results/analysis.h5").complete
    assert Path("results/curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_terminated_command_leaves_no_unpacked_archive():
    tar_of(Path("x.tgz"), PICTURES, "w:gz")
    done = launched("analyze", "--model", "own:terminated", "--data", "x.tgz", capture_output=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.decode().splitlines() == ["error: interrupted"]
    assert files() == {"own.py", "x.tgz"}


def test_a_signal_while_an_archive_is_unpacked_leaves_nothing_of_it(monkeypatch):
    def terminated(_packed, target):
        target.write(b"some of it")
        os.kill(os.getpid(), signal.SIGTERM)

    tar_of(Path("x.tgz"), PICTURES, "w:gz")
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
    monkeypatch.setattr("shutil.copyfileobj", terminated)
    line = refused("analyze", *MODEL, "--data", "x.tgz", code=128 + signal.SIGTERM)
    assert line == "error: interrupted"
    assert files() == {"x.tgz"}


def test_ctrl_c_while_figures_are_drawn_says_that_the_result_is_complete(monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("refiner_cka.plots.drawing.save_figure", interrupted)
    line = refused("analyze", *MODEL, *SMALL, "--quiet", code=130)
    assert "interrupted while figures were drawn; the result is complete and safe in" in line
    assert "refiner-cka plot results/analysis.h5 --out FOLDER" in line
    assert rc.load("results/analysis.h5").complete


def test_ctrl_c_while_the_result_is_written_waits_for_it(monkeypatch):
    save, calls = rc.Result.save, []

    def interrupted(self, path):
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(rc.Result, "save", interrupted)
    assert refused("analyze", *MODEL, *SMALL, "--quiet", code=130) == "error: interrupted"
    assert rc.load("results/analysis.h5").complete


def plain(text):
    """Whether a terminal shows a text as it is."""
    return all(line.isprintable() for line in text.splitlines())


def crafted(path, model):
    """A result file whose model has a name that no run gives one, with a digest of its own."""
    synthetic_result({"a" * 40: 3}, warnings=[f"of {ESCAPE}"]).save(path)
    with h5py.File(path, "r+") as file:
        del file["layers/model"]
        file["layers/model"] = encoded([model] * 3)
        file["provenance"].attrs["command"] = json.dumps(f"analyze {ESCAPE}")
        file["provenance"].attrs[f"key {ESCAPE}"] = f"value {ESCAPE}"
        file.attrs["digest"] = Store(file).digest()


@pytest.mark.parametrize("model", [ESCAPE, NOT_UTF8, "two\nlines"])
def test_what_a_crafted_file_brings_along_is_shown_escaped_and_drawn(model):
    crafted("crafted.h5", model)
    done = succeed("show", "crafted.h5")
    assert "owned" in done.stdout
    assert plain(done.stdout)
    assert "\\x1b]0;owned" in done.stdout
    json.loads(succeed("show", "crafted.h5", "--json").stdout)
    succeed("plot", "crafted.h5", "--out", "figures")
    assert Path("figures/curves.pdf").exists()


@pytest.mark.parametrize("label", [NOT_UTF8, ESCAPE])
def test_a_label_that_is_no_text_costs_no_figures(label):
    own = ["--model", f"test_vit=random,img_size=32,label={label}"]
    done = succeed("analyze", *own, *SMALL)
    assert plain(done.stdout + done.stderr)
    assert Path("results/curves.pdf").exists()
    [model] = rc.load("results/analysis.h5").models
    assert model == rc.errors.printable(label)


def test_what_is_refused_is_said_escaped():
    assert "\\x1b" in refused("show", f"{ESCAPE}.h5")
    assert "\\udce9" in refused("show", f"{NOT_UTF8}.h5")


@pytest.mark.parametrize("command", ["show", "plot", "merge"])
def test_a_pipe_is_no_result(command):
    os.mkfifo("x.h5")
    assert "is a pipe or a device" in refused(command, "x.h5")


def test_a_name_that_no_file_can_have_is_refused():
    name = "a" * 300
    synthetic_result({"vit": 3}).save("x.h5")
    for arguments in (
        ("show", name),
        ("export", "x.h5", f"{name}.csv"),
        ("analyze", "--model", f"test_vit={name}", *SMALL),
        ("analyze", *MODEL, "--data", name),
    ):
        line = refused(*arguments)
        assert "File name too long" in line
        assert "unexpected" not in line
