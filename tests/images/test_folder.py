"""Folders of image files."""

import os
from pathlib import Path

import pytest

from refiner_cka.errors import AnalysisWarning
from refiner_cka.images import UnreadableImage, open_source
from tests.images.examples import folder_of, pixels, refusal, save, scene


def test_a_flat_folder_has_no_labels_and_is_sorted_by_name(tmp_path):
    source = open_source(str(folder_of(tmp_path, ["b.png", "a.jpg", "B.PNG", "10.png", "9.png"])))
    assert list(source.ids) == ["10.png", "9.png", "B.PNG", "a.jpg", "b.png"]
    assert source.labels is None
    assert source.classes is None
    assert source.description == str(tmp_path)


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    folder_of(tmp_path, ["a.png", "._a.png", ".thumbnails/a.png"])
    (tmp_path / "notes.txt").write_text("a")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "folder.png").mkdir()
    assert list(open_source(tmp_path).ids) == ["a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    elsewhere = folder_of(tmp_path / "elsewhere", ["e.png"])
    root = folder_of(tmp_path / "root", ["a.png", "sub/b.png"])
    (root / "sub" / "up").symlink_to(root)
    (root / "linked").symlink_to(elsewhere)
    (root / "self").symlink_to(root / "self")
    assert list(open_source(root).ids) == ["a.png", "linked/e.png", "sub/b.png"]


def test_a_broken_link_is_reported_as_unreadable(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    source = open_source(tmp_path)
    assert list(source.ids) == ["a.png", "b.png"]
    assert len(source.digest([0, 1]).sha256) == 64
    for index in (0, 1):
        with pytest.raises(UnreadableImage):
            source.read(index)


def test_a_folder_that_cannot_be_listed_is_left_out_with_a_warning(tmp_path, monkeypatch):
    folder_of(tmp_path, ["a.png", "locked/b.png"])
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(AnalysisWarning, match="folder locked is left out: Permission denied"):
        assert list(open_source(tmp_path).ids) == ["a.png"]
    assert "cannot list" in refusal(tmp_path / "locked")


def test_strange_names_are_printable_and_still_found(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    os.rename(save(scene(), tmp_path / "a.png"), raw)
    save(scene(), tmp_path / "日本.png")
    source = open_source(tmp_path)
    assert list(source.ids) == ["caf\\udce9\\n.png", "日本.png"]
    assert pixels(source.read(0)).shape == (16, 24, 3)
    assert len(source.digest([0, 1]).sha256) == 64
