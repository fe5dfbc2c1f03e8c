"""What images may be given as, and what is refused."""

import gzip
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import refiner_cka as rc
from refiner_cka.images import Digest, open_source, opening
from refiner_cka.images.decoding import decode
from tests.images.examples import (
    IMAGES,
    SMALL,
    Endless,
    Source,
    folder_of,
    refusal,
    scene,
    stored,
    tar_of,
)


class ZipImages:
    """Pictures in a zip file: one class, the protocol and no more."""

    labels = classes = input_shape = None

    def __init__(self, path, name):
        self.path, self.description = path, name
        with zipfile.ZipFile(path) as archive:
            self.ids = sorted(archive.namelist())

    def digest(self, indices):
        return Digest.of((self.ids[index] for index in indices), "names", whole=False)

    def read(self, index):
        with zipfile.ZipFile(self.path) as archive, archive.open(self.ids[index]) as stream:
            return decode(stream)


def tiny():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    )
    return rc.Subject.from_module(layers, ["0", "2"], name="tiny", preprocessing=SMALL)


def test_a_new_kind_of_source_is_one_class_and_one_row(tmp_path, monkeypatch):
    names = [f"{index}.png" for index in range(8)]
    folder = folder_of(tmp_path / "folder", names)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    assert "no known source of images" in refusal(tmp_path / "x.zip")
    kinds = [*opening.KINDS, opening.Kind(ZipImages, words=("zipped",), suffixes=(".zip",))]
    monkeypatch.setattr(opening, "KINDS", kinds)
    result = rc.analyze(tiny(), tmp_path / "x.zip", batch_size=4)
    assert result.images == 8
    assert (result.cka("tiny") == rc.analyze(tiny(), folder, batch_size=4).cka("tiny")).all()
    assert result.provenance["data"] == str(tmp_path / "x.zip")
    assert ".zip)" in refusal(tmp_path / "nowhere")
    assert "did you mean zipped?" in refusal("ziped")


def test_a_source_of_ones_own_is_taken_as_it_is_and_analysed_without_a_row(tmp_path):
    folder = folder_of(tmp_path, [f"{index}.png" for index in range(8)])
    mine = Source(8, lambda index: scene(seed=index))
    assert open_source(mine) is mine
    expected = rc.analyze(tiny(), folder, batch_size=4).cka("tiny")
    assert (rc.analyze(tiny(), mine, batch_size=4).cka("tiny") == expected).all()


def test_bad_input_is_refused_in_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder_of(tmp_path / "validation", ["a.png"])
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "text.tar.gz", "text.npz", "text.npy", "text.h5"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "text.tar").write_text("hello" * 500)
    (tmp_path / "nothing.tar").write_bytes(b"")
    half = gzip.compress(np.random.default_rng(0).bytes(9000))[:4000]
    (tmp_path / "half.tgz").write_bytes(half)
    tar_of(tmp_path / "empty.tar", [])
    tar_of(tmp_path / "others.tar", [("a.txt", b"a")])
    stored(tmp_path / "two.npz", x_train=IMAGES, x_test=IMAGES, y_test=np.arange(6))
    stored(tmp_path / "none.h5", cka=np.eye(3))
    stored(tmp_path / "matrix.npy", images=np.eye(3))
    np.save(tmp_path / "pickled.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "pickled.npz", images=np.full((2, 2, 2), None))
    expected = {
        "validatio": "did you mean validation?",
        "nowhere": "no file or folder",
        "empty": "or below: none ends in .avif .bmp",
        "notes.txt": "no known source of images: give a folder or a file (.tar",
        "text.tar": "cannot be read as a tar file",
        "nothing.tar": "cannot be read as a tar file: empty file",
        "text.tar.gz": "cannot be unpacked into",
        "half.tgz": "cannot be unpacked into",
        "empty.tar": "no member ends in .avif .bmp",
        "others.tar": "no member ends in .avif .bmp",
        "text.npz": "cannot be read as an array file: File is not a zip file",
        "text.npy": "cannot be read as an array file",
        "text.h5": "cannot be read as an array file",
        "two.npz": "it holds x_train (6, 10, 12, 3), x_test (6, 10, 12, 3), y_test (6,)",
        "none.h5": "must hold images in an array named images, X, data, x, or in its only array",
        "matrix.npy": "it holds images (3, 3)",
        "pickled.npy": "cannot be read as an array file",
        "pickled.npz": "cannot be read as an array file",
    }
    for name, words in expected.items():
        message = refusal(str(tmp_path / name))
        assert words in message
        assert name in message
    assert not list(tmp_path.glob("refiner-cka-*"))


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "~nobody-of-this-name/x", "digit"])
def test_names_that_cannot_be_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert ("did you mean digits or digits-test?" in message) == (name == "digit")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 4, 4), np.uint8), "holds no images"),
        (np.zeros(4, np.uint8), "holds no images"),
        (np.zeros((4, 8, 8), np.int64), "int64 (4, 8, 8) has no usable type: give uint8 or uint16"),
        (np.zeros((4, 8, 8), bool), "has no usable type"),
        (np.zeros((4, 8, 8), complex), "has no usable type"),
        (np.zeros((4, 8, 8, 2), np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros((4, 192), np.uint8), "must be (images, height, width[, channels])"),
        (torch.zeros(4, 8, 8, dtype=torch.int32), "a tensor (4, 8, 8): the array int32"),
        (3, "images cannot be read from a int"),
        (["a.png", "b.png"], "images cannot be read from a list"),
        (Endless(), "images cannot be read from a Endless"),
        (Dataset(), "images cannot be read from a Dataset: give a map-style torch Dataset"),
    ],
)
def test_arrays_and_objects_that_are_no_images(data, words):
    assert words in refusal(data)


def test_importing_loads_no_model_library():
    code = "import sys, refiner_cka.images as i; i.open_source('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"timm", "torchvision", "h5py", "transformers", "sklearn", "scipy"}
