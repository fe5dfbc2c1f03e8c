"""What reads each kind of file, as the commands do, and what may come of it."""

import dataclasses
import tempfile
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn
from typer.testing import CliRunner

import refiner_cka as rc
from cli.app import app
from refiner_cka.images import Plan, load_batches, open_source
from refiner_cka.results.contents import Contents
from refiner_cka.subjects import checkpoint, fitting
from tests.fuzz.corpus import honest
from tests.images.examples import SMALL

REFUSED, SKIPPED, READ = "refused", "skipped", "read"


def outcome(read, path):
    """Return what came of reading a file.

    Raises:
        Exception: what is no refusal in one line of words of the tool's own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(path)
        except rc.RefinerCkaError as error:
            _check_line(str(error))
            return REFUSED


def _check_line(text):
    assert text.strip(), "no words"
    assert len(text.splitlines()) == 1, f"not one line: {text!r}"


def result(path):
    """Load a result, which has exactly the numbers that were written, or is refused."""
    found = rc.load(path)
    assert any(_same(found, whole) for whole in _whole()), "other numbers than were written"
    return READ


@cache
def _whole():
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(honest("result")):
            Path(folder, f"{number}.h5").write_bytes(content)
        return [rc.load(path) for path in Path(folder).iterdir()]


def _same(a, b):
    pairs = [
        (getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Contents)
    ]
    return all(_equal(one, other) for one, other in pairs) and _equal(a.cka(), b.cka())


def _equal(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and a == b


def crafted_result(path):
    """Show a result that may say anything in its own right, and do one thing more with it."""
    shown = _command("show", path)
    with tempfile.TemporaryDirectory() as folder:
        more = (
            ("show", path, "--json"),
            ("export", path, f"{folder}/table.csv"),
            ("plot", path, "--panel", "curve", "--out", f"{folder}/curve.pdf", "--quiet"),
        )
        _command(*more[zlib.crc32(path.read_bytes()) % len(more)])
    return shown


def _command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == len(errors) <= 1, done.output
    assert not any(line.startswith("error: unexpected ") for line in errors), done.output
    assert all(line.isprintable() for line in done.output.splitlines()), "obeyed by a terminal"
    return REFUSED if errors else READ


def weights(path):
    """Read a checkpoint and load it into the network that it was of."""
    state = checkpoint.read(path).state
    network = nn.ModuleDict({"fc": nn.Linear(3, 2)})
    fitting.fit(network, fitting.unwrap(state, network), path.name)
    return READ


def images(path):
    """Look through images and decode the first of them."""
    source = open_source(path)
    chosen = range(min(8, len(source.ids)))
    source.digest(chosen)
    [batch] = load_batches(source, Plan(8, 0, (tuple(chosen),), ()), [0], [SMALL], workers=0)
    for _, reason in batch.unreadable:
        _check_line(reason)
    return SKIPPED if batch.unreadable else READ


def picture(path):
    """Decode the one picture in a folder."""
    return images(path.parent)
