"""How a command starts: what it says while it imports what takes long, and where it says nothing."""

import contextlib
import gc
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cli import console, importing
from tests.cli.running import MODEL, ROOT, SMALL, succeed

# Ends where torch would be imported, so that what has been said is said before that.
AT_TORCH = """
import gc, importlib.abc, os, sys

class AtTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            sys.stderr.flush()
            os.write(2, b"<collecting>" if gc.isenabled() else b"<torch is imported>")
            os._exit(0)

sys.meta_path.insert(0, AtTorch())
sys.argv[0] = "refiner-cka"
from cli.app import main
main()
"""

ANALYZE = ["analyze", "--model", "vit_nano", "--data", "digits", "--out", "never"]
MAPS = ["maps", "--model", "vit_nano", "--data", "digits", "--out", "never"]
LAYERS = ["models", "vit_nano"]
SEARCH = ["models", "--search", "nano"]


def said_until_torch(*arguments):
    """Return what a command writes to a terminal until it imports torch."""
    here, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TORCH, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    said = b""
    try:
        while read := os.read(here, 4096):
            said += read
    except OSError:  # its end, on Linux
        pass
    os.close(here)
    assert process.wait() == 0, said
    return said.decode()


@pytest.mark.parametrize("arguments", [ANALYZE, MAPS, LAYERS, SEARCH])
def test_a_terminal_is_told_what_is_waited_for_before_torch_is_imported(arguments):
    before, imported, _ = said_until_torch(*arguments).partition("<torch is imported>")
    assert imported
    assert "loading torch and timm" in before


@pytest.mark.parametrize("failure", [None, ImportError])
def test_garbage_is_looked_for_again_after_imports_but_not_in_what_they_left(failure):
    before = gc.get_freeze_count()
    try:
        with contextlib.suppress(ImportError), importing.uncollected():
            assert not gc.isenabled()
            if failure:
                raise failure
        assert gc.isenabled()
        assert (gc.get_freeze_count() > before) == (failure is None)
    finally:
        gc.unfreeze()


def test_quiet_commands_say_nothing_while_they_start():
    assert said_until_torch(*ANALYZE, "--quiet") == "<torch is imported>"


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_logs_and_quiet_runs_have_no_status(terminal, quiet, monkeypatch):
    written = []
    stream = SimpleNamespace(isatty=lambda: terminal, write=written.append, flush=lambda: None)
    monkeypatch.setattr("sys.stderr", stream)
    with console.status("waiting", quiet=quiet) as waiting_for:
        waiting_for("still waiting")
    assert written == []


def test_a_log_and_the_results_are_free_of_the_status():
    done = succeed("analyze", *MODEL, *SMALL, "--dry-run")
    assert "loading" not in done.stdout + done.stderr
