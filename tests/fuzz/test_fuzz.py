"""A sample of `make fuzz`, which first shows that it would notice."""

import subprocess
import sys

import pytest

from tests.cli.running import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="its limits and counts are Linux's")
def test_300_damaged_and_crafted_files_of_every_kind_end_well():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", "300", "--seed", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "25 of 25 payloads and faults noticed" in done.stdout
    assert "300 cases in" in done.stdout
    assert "nothing was executed; results have the numbers that were written" in done.stdout
