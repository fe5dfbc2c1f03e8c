"""Array files, and the digits among them: what is found in them, what is refused."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from refiner_cka.errors import AnalysisWarning
from refiner_cka.images import UnreadableImage, open_source
from refiner_cka.images.array_files import DIGITS
from tests.images.examples import IMAGES, folder_of, pixels, stored


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".hdf5"])
def test_an_array_file_is_the_array_it_holds(suffix, tmp_path):
    source = open_source(stored(tmp_path / f"x{suffix}", images=IMAGES))
    assert list(source.ids) == ["0", "1", "2", "3", "4", "5"]
    assert source.labels is None
    for index in (5, 0):
        assert (pixels(source.read(index)) == IMAGES[index]).all()
    assert source.digest([3, 1]) == open_source(IMAGES).digest([3, 1])


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("key", ["labels", "y", "targets"])
def test_labels_in_the_file(suffix, key, tmp_path):
    values = np.array([[7], [3], [7], [-1], [3], [7]], np.int16)
    source = open_source(stored(tmp_path / f"x{suffix}", images=IMAGES, **{key: values}))
    assert source.classes == ("-1", "3", "7")
    assert source.labels == [2, 1, 2, 0, 1, 2]


def test_labels_that_are_text(tmp_path):
    source = open_source(stored(tmp_path / "x.npz", x=IMAGES, y=np.array(list("cabcab"))))
    assert source.classes == ("a", "b", "c")
    assert source.labels == [2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("labels", [np.zeros(6), np.zeros(5, int), np.zeros((6, 10), int)])
def test_labels_that_do_not_fit_are_left_out(labels, tmp_path):
    path = stored(tmp_path / "x.npz", images=IMAGES, labels=labels)
    with pytest.warns(AnalysisWarning, match=r"labels in .* are left out"):
        assert open_source(path).labels is None


def test_the_images_are_found_by_name_or_by_being_the_only_ones(tmp_path):
    other = np.zeros((9, 5, 5), np.uint8)
    named = open_source(stored(tmp_path / "a.npz", masks=other, X=IMAGES))
    assert (pixels(named.read(0)) == IMAGES[0]).all()
    only = open_source(stored(tmp_path / "b.h5", **{"train/pictures": IMAGES, "ids": np.arange(6)}))
    assert (pixels(only.read(0)) == IMAGES[0]).all()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5"])
def test_one_changed_row_of_two_thousand_is_another_digest(suffix, tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), dtype=np.uint8)
    before = open_source(stored(tmp_path / f"x{suffix}", images=rows)).digest(range(2000))
    rows[1234, 0, 0, 0] ^= 1
    after = open_source(stored(tmp_path / f"x{suffix}", images=rows)).digest(range(2000))
    assert before != after
    assert before.whole
    assert after.whole


def test_a_damaged_part_of_a_file_has_a_digest_and_the_rest_is_read(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        stack = file.create_dataset("images", data=IMAGES, chunks=(1, 10, 12, 3), fletcher32=True)
        offset = stack.id.get_chunk_info(2).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"damaged")
    source = open_source(path)
    assert source.digest([0, 1]) == open_source(IMAGES).digest([0, 1])
    values = hashlib.sha256(IMAGES[0].tobytes()).hexdigest(), hashlib.sha256().hexdigest()
    lines = f"|u1 (10, 12, 3)\n0\0{values[0]}\n2\0{values[1]}\n"
    assert source.digest([0, 2]).sha256 == hashlib.sha256(lines.encode()).hexdigest()
    with pytest.raises(UnreadableImage):
        source.read(2)


def test_the_digits_are_scikit_learns():
    source = open_source("digits")
    expected = load_digits()
    assert source.description == "digits"
    assert source.classes == tuple("0123456789")
    assert source.labels == expected.target.tolist()
    assert len(source.ids) == 1797
    assert (source.ids[0], source.ids[-1]) == ("digits/0000", "digits/1796")
    for index in (0, 1000, 1796):
        found = pixels(source.read(index))
        assert (found[..., 1] == np.floor(expected.images[index] * 255 / 16 + 0.5)).all()


def test_the_word_is_the_embedded_data_and_a_path_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "digits", ["a.png"])
    assert len(open_source("digits").ids) == 1797
    for folder in ("./digits", "digits/", Path("digits")):
        assert list(open_source(folder).ids) == ["a.png"]


def test_the_digits_are_split_once_and_for_all():
    everything, train, test = (open_source(name) for name in DIGITS)
    assert [*train.ids, *test.ids] == list(everything.ids)
    assert [*(train.labels or ()), *(test.labels or ())] == list(everything.labels or ())
    assert len(test.ids) == 360
    assert test.read(0).tobytes() == everything.read(1437).tobytes()
