"""Tar files."""

import gzip
import io
import os
import tarfile

import pytest

from refiner_cka.images import open_source
from refiner_cka.images.decoding import decode
from tests.images.examples import PICTURES, batches_of, jpeg, pixels, refusal, scene, tar_of


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


def test_the_unpacked_copy_goes_with_its_source(tmp_path, temporary, monkeypatch):
    source = open_source(tar_of(tmp_path / "x.tar.gz", PICTURES, "w:gz"))
    assert len(list(temporary.iterdir())) == 1
    assert [batch.images for batch in batches_of(source, workers=2, size=4)] == [4]
    assert len(list(temporary.iterdir())) == 1, "a worker that ends must not remove it"
    copied = open_source(tmp_path / "x.tar.gz")
    del source
    assert len(list(temporary.iterdir())) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a forked worker
    del copied
    assert len(list(temporary.iterdir())) == 1


@pytest.mark.parametrize("content", [b"no tar file" * 100, None])
def test_no_unpacked_copy_is_left_of_what_is_refused(content, tmp_path, temporary):
    path = tar_of(tmp_path / "x.tgz", [("notes.txt", b"hello")], "w:gz")
    if content is not None:
        path.write_bytes(gzip.compress(content))
    assert ("no images" if content is None else "cannot be read as a tar file") in refusal(path)
    assert not list(temporary.iterdir())


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
