"""Image files: suffixes, classes, digests; which of a folder are found."""

import os
from pathlib import Path

import numpy as np
import pytest

from refiner_cka.errors import AnalysisWarning
from refiner_cka.images import UnreadableImage, files, open_source
from tests.images.examples import folder_of, jpeg, pixels, refusal, save, scene, tar_of


@pytest.mark.parametrize("suffix", files.IMAGE_SUFFIXES)
def test_every_suffix_that_is_looked_for_can_be_read(suffix, tmp_path):
    image = scene(64, 64).convert({".pbm": "1", ".pgm": "L"}.get(suffix, "RGB"))
    name = tmp_path / f"a{suffix.upper()}"
    if suffix == ".jfif":
        name.write_bytes(jpeg(image))
    else:
        image.save(name)
    found = pixels(open_source(tmp_path).read(0)).astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 6


def test_first_level_folders_are_classes(tmp_path):
    names = ["dog/x.png", "cat/deep/er/y.png", "cat/z.png"]
    source = open_source(folder_of(tmp_path, names))
    assert list(source.ids) == ["cat/deep/er/y.png", "cat/z.png", "dog/x.png"]
    assert source.classes == ("cat", "dog")
    assert source.labels == [0, 0, 1]


def test_an_image_beside_the_class_folders_undoes_the_labels(tmp_path):
    source = open_source(folder_of(tmp_path, ["dog/x.png", "cat/y.png", "z.png"]))
    assert source.labels is None


def test_a_folder_around_the_class_folders_is_passed_over(tmp_path):
    assert open_source(folder_of(tmp_path, ["val/a/1.png", "val/b/2.png"])).classes == ("a", "b")


def test_a_single_class_folder_is_a_class(tmp_path):
    assert open_source(folder_of(tmp_path, ["n01440764/1.png"])).classes == ("n01440764",)


def test_a_file_that_vanished_is_unreadable(tmp_path):
    source = open_source(folder_of(tmp_path, ["a.png"]))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableImage, match=r"^No such file or directory$"):
        source.read(0)


def test_the_digest_knows_names_sizes_choice_and_order_but_not_the_place(tmp_path):
    names = [f"{index}.png" for index in range(4)]
    here, there = (open_source(folder_of(tmp_path / place, names)) for place in ("x", "y"))
    assert here.digest([0, 1, 2]) == there.digest([0, 1, 2])
    assert len({here.digest(chosen) for chosen in ([0, 1, 2], [1, 0, 2], [0, 1], [0, 1, 3])}) == 4
    with (tmp_path / "y" / "1.png").open("ab") as stream:
        stream.write(b"!")
    assert here.digest([0, 1, 2]) != there.digest([0, 1, 2])
    assert here.digest([0, 2]) == there.digest([0, 2])


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_of_more_bytes_than_the_bound_evenly_spaced_contents_are_hashed(
    kind, tmp_path, monkeypatch
):
    """Names and sizes always are. What is sampled says so."""
    contents = [bytes([index]) * 100 for index in range(6)]

    def digest(place, changed):
        members = [(f"{index}.png", content) for index, content in enumerate(changed)]
        if kind == "tar":
            return open_source(tar_of(tmp_path / f"{place}.tar", members)).digest(range(6))
        (tmp_path / place).mkdir()
        for name, content in members:
            (tmp_path / place / name).write_bytes(content)
        return open_source(tmp_path / place).digest(range(6))

    other = [*contents[:2], b"!" * 100, *contents[3:]]
    longer = [*contents[:2], contents[2] + b"!", *contents[3:]]
    everything = digest("a", contents)
    assert everything != digest("b", other)
    assert (everything.whole, everything.covers) == (True, "names, sizes and all contents")
    monkeypatch.setattr(files, "HASHED_BYTES", 200)
    sampled = digest("c", contents)
    assert (sampled.whole, sampled.covers) == (
        False,
        "names, sizes and the contents of one image in 3",
    )
    assert sampled == digest("d", other), "of six the first and the fourth are read"
    assert sampled != digest("e", longer)
    assert sampled != digest("f", [b"!" * 100, *contents[1:]])


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
