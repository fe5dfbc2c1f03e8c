"""An interrupted `analyze`: what was measured is saved, and the run goes on from there."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import refiner_cka as rc
from cli import output
from cli.interrupting import Interrupting
from tests.cli.running import MODEL, ROOT, SMALL, refused, succeed
from tests.synthetic import synthetic_result

INTERRUPTED = """
import os, pathlib, signal
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1  # The first six calls find out about the model.
        if self.calls == 11 and not pathlib.Path("interrupted").exists():
            pathlib.Path("interrupted").touch()
            if os.environ["HOW"] == "an error":
                raise RuntimeError("the device is lost")
            os.kill(os.getpid(), getattr(signal, os.environ["HOW"]))
        return self.last(self.first(x))

def build():
    torch.manual_seed(0)
    return Model()
"""

PRODUCTS = "similarity/cka/products"


ANALYZE = ["analyze", "--model", "interrupting:build,label=mine", "--layers", "*", *SMALL]


def ignoring_nothing():
    """Heed the signals that a process inherits as ignored: Ctrl-C in the background, SIGHUP under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(how, *arguments):
    """Run the command line in a process of its own, which ends in the fifth of six batches."""
    Path("interrupting.py").write_text(INTERRUPTED)
    return subprocess.run(
        [sys.executable, "-m", "cli.app", *ANALYZE, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOW": how},
        check=False,
        preexec_fn=ignoring_nothing,
    )


def check_that_it_goes_on(monkeypatch):
    """Resume to what one run measures."""
    monkeypatch.setenv("HOW", "never")
    succeed(*ANALYZE, "--resume", "--quiet")
    assert rc.load("results/analysis.h5").complete
    assert not Path("results/analysis.partial.h5").exists()
    succeed(*ANALYZE, "--out", "whole", "--quiet")
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS], rc.load("whole/analysis.h5").sums[PRODUCTS]
    )


@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_what_was_measured_and_says_how_to_go_on(how, code, monkeypatch):
    done = run(how)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "interrupted after 4 of 6 batches" in done.stderr
    assert done.stderr.strip().endswith("--resume")
    part = rc.load("results/analysis.partial.h5")
    assert part.batches.tolist() == [0, 1, 2, 3]
    assert not Path("results/analysis.h5").exists()
    assert "go on with --resume" in refused(*ANALYZE)
    other = refused(*ANALYZE, "--seed", 1)
    assert "holds another run: " in other
    assert "seed differs (0 / 1)" in other
    assert rc.load("results/analysis.partial.h5").batches.tolist() == [0, 1, 2, 3]
    check_that_it_goes_on(monkeypatch)


def test_an_error_keeps_what_was_measured(monkeypatch):
    done = run("an error")
    assert done.returncode == 1
    *_, kept, error = done.stderr.strip().splitlines()
    assert kept.startswith(
        "error: ended after 4 of 6 batches, saved in results/analysis.partial.h5; go"
    )
    assert "the device is lost" in error
    check_that_it_goes_on(monkeypatch)


def test_a_killed_run_goes_on_from_what_it_saved_meanwhile(monkeypatch):
    assert run("SIGKILL", "--save-every", "0").returncode == -signal.SIGKILL
    assert rc.load("results/analysis.partial.h5").batches.tolist() == [0, 1, 2, 3]
    check_that_it_goes_on(monkeypatch)


def test_a_killed_run_that_had_no_time_to_save_starts_anew(monkeypatch):
    assert run("SIGKILL").returncode == -signal.SIGKILL
    assert not Path("results/analysis.partial.h5").exists()
    check_that_it_goes_on(monkeypatch)


def test_one_command_line_serves_the_first_start_and_each_further_one():
    first = succeed("analyze", *MODEL, *SMALL, "--resume")
    assert "nothing to resume yet" in first.stderr
    before = rc.load("results/analysis.h5")
    again = succeed("analyze", *MODEL, *SMALL, "--resume")
    assert "nothing to resume" not in again.stderr
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS], before.sums[PRODUCTS]
    )


def test_a_second_signal_waits_for_the_save_and_a_third_ends_at_once():
    script = """
import os, signal
from cli.interrupting import Interrupting
with Interrupting() as interrupting:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        print("saving", interrupting.exit_code, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("saved", interrupting.exit_code, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        preexec_fn=ignoring_nothing,
    )
    assert done.stdout == "saving 143\nsaved 143\n"
    assert done.returncode == -signal.SIGINT


def test_what_is_ignored_stays_ignored_and_handlers_are_as_before():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Interrupting():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == others


def test_what_cannot_be_saved_in_its_place_is_saved_elsewhere(tmp_path, capsys):
    result = synthetic_result(total_batches=50)
    target = output.Target(tmp_path / "results", "analysis", overwrite=False)
    target.partial.mkdir(parents=True)
    kept = output.Kept(target)
    for _ in range(2):
        kept.save(result)
    told = capsys.readouterr().err
    assert told.count("is saved in") == 1
    assert "after 40 of 50 batches, saved in" in kept.report()
    elsewhere = Path(kept.report().split("saved in ")[1].split(";")[0])
    assert rc.load(elsewhere).images == result.images
    assert f"move it to {target.partial}" in kept.report()
    shutil.rmtree(elsewhere.parent)


def test_a_run_that_cannot_be_saved_anywhere_goes_on(tmp_path, capsys, monkeypatch):
    target = output.Target(tmp_path / "results", "analysis", overwrite=False)
    target.partial.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    kept = output.Kept(target)
    kept.save(synthetic_result(total_batches=50))
    assert "the run is not saved" in capsys.readouterr().err
    assert kept.result is None


def test_overwriting_and_resuming_starts_anew_beside_another_run():
    succeed("analyze", *MODEL, *SMALL, "--quiet", "--seed", 1)
    done = succeed("analyze", *MODEL, *SMALL, "--resume", "--overwrite")
    assert "nothing to resume yet" in done.stderr
    assert rc.load("results/analysis.h5").provenance["seed"] == 0


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_lives():
    target = output.Target(Path("results"), "analysis", overwrite=False)
    with target.locked():
        for more in ([], ["--resume"], ["--overwrite"]):
            refusal = refused("analyze", *MODEL, *SMALL, *more)
            assert "another run is writing to results/analysis.h5" in refusal
        succeed("analyze", *MODEL, *SMALL, "--shard", "1/2", "--quiet")
    succeed("analyze", *MODEL, *SMALL, "--quiet")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_is_said_once_and_the_run_goes_on(number, monkeypatch, capsys):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with output.Target(Path("results"), "analysis", overwrite=False).locked():
        Path("results/analysis.h5").touch()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the file system of results has no locks" in said
    assert os.listdir("results") == ["analysis.h5"]


def test_a_killed_run_leaves_no_lock(monkeypatch):
    assert run("SIGKILL").returncode == -signal.SIGKILL
    with output.Target(Path("results"), "analysis", overwrite=False).locked():
        pass


def test_how_much_an_unfinished_file_holds_is_said(tmp_path):
    synthetic_result(total_batches=50).save(tmp_path / "analysis.partial.h5")
    for command in (["plot", "--out", tmp_path], ["export", tmp_path / "x.json"]):
        name, *rest = command
        done = succeed(name, tmp_path / "analysis.partial.h5", *rest)
        assert "is unfinished: it holds 40 of 50 batches, 640 images" in done.stderr
