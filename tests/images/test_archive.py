"""Tar files."""

import gzip
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from refiner_cka.images import open_source
from refiner_cka.images.decoding import decode
from tests.images.examples import PICTURES, batches_of, jpeg, pixels, refusal, scene, tar_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["x.tar", "x.TAR", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"])
def test_a_tar_file_is_the_folder_it_holds(name, tmp_path):
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.split(".")[-1], "w")
    extra = [("notes.txt", b"hello"), (".hidden.jpg", b""), ("./._a.jpg", b"")]
    source = open_source(tar_of(tmp_path / name, [*reversed(PICTURES), *extra], mode))
    for relative, content in PICTURES:
        path = tmp_path / "folder" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = open_source(tmp_path / "folder")
    assert list(source.ids) == list(folder.ids)
    assert source.classes == folder.classes == ("a", "b")
    assert source.labels == folder.labels
    assert source.digest(range(6)) == folder.digest(range(6))
    for index in (5, 0, 3):
        assert (pixels(source.read(index)) == pixels(folder.read(index))).all()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, empty."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def files_in(folder):
    return [path for path in folder.iterdir() if path.is_file()]  # torch may make a folder there


def test_the_unpacked_copy_is_in_no_folder_and_goes_with_its_source(tmp_path, temporary):
    source = open_source(tar_of(tmp_path / "x.tar.gz", PICTURES, "w:gz"))
    unpacked, *_ = source.places[0]
    assert os.path.exists(unpacked)
    assert [batch.images for batch in batches_of(source, workers=2, size=4)] == [4]
    assert [batch.images for batch in batches_of(source, size=4)] == [4]
    assert not files_in(temporary)
    del source
    assert not os.path.exists(unpacked)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_no_forks_read_the_unpacked_copy(method, tmp_path):
    source = open_source(tar_of(tmp_path / "x.tgz", PICTURES, "w:gz"))
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as others:
        assert (pixels(others.submit(source.read, 0).result()) == pixels(source.read(0))).all()


KILLED = """
import os, shutil, signal, sys
from refiner_cka.images import open_source

def copy_and_end(packed, target):
    target.write(packed.read())
    target.flush()
    end()

def end():
    sys.stdout.write(" ".join(os.listdir(os.environ["TMPDIR"])))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "while":
    shutil.copyfileobj = copy_and_end
source = open_source(sys.argv[1])
source.read(0)
end()
"""


@pytest.mark.parametrize("when", ["while", "after"])
def test_a_killed_process_leaves_no_unpacked_copy(when, tmp_path, temporary):
    path = tar_of(tmp_path / "x.tgz", PICTURES, "w:gz")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path, when],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "", "there is no moment at which it has a name"
    assert not files_in(temporary)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        pytest.param("os.path.samestat", lambda *_: False, id="/proc of other processes"),
        pytest.param("os.geteuid", lambda: -1, id="a process that others may not look into"),
        pytest.param("os.getpid", lambda: 2**30, id="no /proc"),
    ],
)
def test_without_proc_the_unpacked_copy_has_a_name(what, told, tmp_path, temporary, monkeypatch):
    path = tar_of(tmp_path / "x.tar.gz", PICTURES, "w:gz")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(what, told)
        source = open_source(path)
        assert len(files_in(temporary)) == 1
        del source
        assert not files_in(temporary)
        source = open_source(path)
        if what != "os.getpid":
            assert [batch.images for batch in batches_of(source, workers=2, size=4)] == [4]
            assert len(files_in(temporary)) == 1, "a worker that ends must not remove it"
        meanwhile.setattr(os, "getpid", lambda: -1)  # as in a forked worker
        del source
    assert len(files_in(temporary)) == 1


@pytest.mark.parametrize("content", [b"no tar file" * 100, None])
def test_no_unpacked_copy_is_left_of_what_is_refused(content, tmp_path, temporary):
    path = tar_of(tmp_path / "x.tgz", [("notes.txt", b"hello")], "w:gz")
    if content is not None:
        path.write_bytes(gzip.compress(content))
    assert ("no images" if content is None else "cannot be read as a tar file") in refusal(path)
    assert not files_in(temporary)


def test_hostile_members_are_harmless(tmp_path):
    picture = jpeg(scene())
    (tmp_path / "in").mkdir()
    path = tar_of(
        tmp_path / "in" / "x.tar",
        [("../../up.jpg", picture), ("/abs.jpg", picture), ("./dot.jpg", picture)],
    )
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.CHRTYPE, "device.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    source = open_source(path)
    assert list(source.ids) == ["abs.jpg", "dot.jpg", "up.jpg"]
    assert (pixels(source.read(2)) == pixels(decode(io.BytesIO(picture)))).all()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_hard_links_and_updated_members(tmp_path):
    old, new = jpeg(scene(seed=1)), jpeg(scene(seed=2))
    path = tar_of(tmp_path / "x.tar", [("original", old), ("b.jpg", old), ("b.jpg", new)])
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "original"
        archive.addfile(member)
    source = open_source(path)
    assert list(source.ids) == ["a.jpg", "b.jpg"]
    assert (pixels(source.read(0)) == pixels(decode(io.BytesIO(old)))).all()
    assert (pixels(source.read(1)) == pixels(decode(io.BytesIO(new)))).all()
