"""The embedded digits."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from refiner_cka.images import open_source
from refiner_cka.images.array_files import DIGITS
from tests.images.examples import folder_of, pixels


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
