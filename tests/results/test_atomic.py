"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refiner_cka.errors import ResultFileError
from refiner_cka.results import check_writable, load, save
from tests.synthetic import synthetic_result


def test_missing_folder_is_made_and_an_old_file_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "run.h5"
    save(synthetic_result({"m": 2}), path)
    save(synthetic_result({"m": 3}), path)
    assert len(load(path).layers) == 3
    assert os.listdir(path.parent) == ["run.h5"]


def test_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    save(synthetic_result({"m": 2}), tmp_path / "run.h5")
    assert (tmp_path / "run.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_symbolic_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "run.h5")
    save(synthetic_result({"m": 2}), tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert len(load(tmp_path / "real" / "run.h5").layers) == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_failure_leaves_the_old_file_and_no_other(saved, monkeypatch, step, failure):
    before = saved.read_bytes()

    def fail(*_):
        raise failure

    monkeypatch.setattr({"fsync": os, "replace": Path}[step], step, fail)
    wanted = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else ResultFileError
    with pytest.raises(wanted) as caught:
        save(synthetic_result({"m": 2}), saved)
    if wanted is ResultFileError:
        told = f"cannot write {saved}: No space left on device; choose another place"
        assert str(caught.value) == told
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run.h5"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_full_disk(tmp_path):
    """The operating system itself refuses to write on: in a process of its own, as the limit would stay."""
    program = """
import resource, signal, sys
from refiner_cka.errors import ResultFileError
from tests.synthetic import synthetic_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
result = synthetic_result()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    result.save(sys.argv[1])
except ResultFileError as error:
    sys.stderr.write(str(error))
"""
    path = tmp_path / "run.h5"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        check=True,
    )
    assert done.stderr == f"cannot write {path}: File too large; choose another place"
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    result = synthetic_result({"m": 2})
    with pytest.raises(ResultFileError, match="is a folder; name a file in it"):
        save(result, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ResultFileError, match="file is a file, not a folder"):
        save(result, tmp_path / "file" / "run.h5")
    with pytest.raises(ResultFileError, match="is a file, not a folder"):
        save(result, tmp_path / "file" / "deeper" / "run.h5")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    "place", ["x" * 300 + "/run.h5", "a/b/" + "x" * 300 + "/run.h5", "x/" * 3000 + "run.h5"]
)
def test_a_name_that_is_too_long_is_refused_beforehand(tmp_path, place):
    with pytest.raises(ResultFileError, match=r"File name too long in .*; name another --out"):
        check_writable(tmp_path / place)
    assert os.listdir(tmp_path) == []
    check_writable(tmp_path / "a" / "b" / "run.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultFileError, match="Permission denied"):
        save(synthetic_result({"m": 2}), tmp_path / "run.h5")
