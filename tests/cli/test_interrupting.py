"""An interrupted `analyze`: what was measured is saved, and the run goes on from there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import refiner_cka as rc
from tests.cli.running import MODEL, ROOT, SMALL, refused, succeed

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
            os.kill(os.getpid(), signal.SIGINT)
        return self.last(self.first(x))

def build():
    torch.manual_seed(0)
    return Model()
"""

PRODUCTS = "similarity/cka/products"


def test_ctrl_c_saves_what_was_measured_and_says_how_to_go_on():
    Path("interrupting.py").write_text(INTERRUPTED)
    arguments = ["analyze", "--model", "interrupting:build,label=mine", "--layers", "*", *SMALL]
    program = [sys.executable, "-m", "cli.app", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # What a shell starts in the background ignores Ctrl-C, and so would what it starts.
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "interrupted after 4 of 6 batches" in done.stderr
    assert done.stderr.strip().endswith("--resume")
    part = rc.load("results/analysis.partial.h5")
    assert part.batches.tolist() == [0, 1, 2, 3]
    assert not Path("results/analysis.h5").exists()
    assert "go on with --resume" in refused(*arguments)
    assert "another run" in refused(*arguments, "--seed", 1)
    assert rc.load("results/analysis.partial.h5").batches.tolist() == [0, 1, 2, 3]
    succeed(*arguments, "--resume", "--quiet")
    assert rc.load("results/analysis.h5").complete
    assert not Path("results/analysis.partial.h5").exists()
    succeed(*arguments, "--out", "whole", "--quiet")
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS], rc.load("whole/analysis.h5").sums[PRODUCTS]
    )


def test_there_must_be_something_to_resume():
    assert "nothing to resume" in refused("analyze", *MODEL, *SMALL, "--resume")
