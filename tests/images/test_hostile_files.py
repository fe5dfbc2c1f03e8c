"""Array files and pictures made to hang, to fill the memory or to read something else: each ends in one line."""

import io
import logging
import os
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from refiner_cka.errors import AnalysisWarning, DataError
from refiner_cka.images import UnreadableImage, decoding, open_source
from refiner_cka.images.arrays import check_rows
from tests.images.examples import IMAGES, folder_of, png, refusal, stored


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.h5", "x.tar", "x.tgz", "x.png"])
def test_a_pipe_is_no_file(name, tmp_path):
    """Nobody writes to it: whoever opens it waits for ever."""
    os.mkfifo(tmp_path / name)
    assert "is a pipe or a device, not a file" in refusal(tmp_path / name)


def test_a_pipe_among_the_images_of_a_folder_is_passed_over(tmp_path):
    folder_of(tmp_path, ["a.png"])
    os.mkfifo(tmp_path / "b.png")
    os.symlink(tmp_path / "b.png", tmp_path / "c.png")
    assert open_source(tmp_path).ids == ["a.png"]


def test_numbers_in_another_file_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 3)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset(
            "images", (3, 16, 16), "u1", external=[(str(tmp_path / "secret"), 0, 768)]
        )
    stored(tmp_path / "other.h5", images=IMAGES)
    layout = h5py.VirtualLayout((6, 10, 12, 3), "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (6, 10, 12, 3))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["images"] = IMAGES
        file.create_dataset("labels", (6,), "u1", external=[(str(tmp_path / "secret"), 0, 6)])
    for name in ("external.h5", "virtual.h5", "labels.h5"):
        assert "lies in other files, which are not read" in refusal(tmp_path / name)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["images"] = h5py.ExternalLink("other.h5", "images")
    assert "it holds nothing" in refusal(tmp_path / "link.h5")


@pytest.mark.parametrize("shape", [(2**40, 8, 8), (4, 2**20, 2**20), (2**20, 8, 8)])
def test_what_a_file_declares_takes_no_memory(shape, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", shape, "u1", chunks=(1, 8, 8))
    tracemalloc.start()
    assert "declares an array uint8" in refusal(tmp_path / "x.h5")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_chunk_larger_than_its_array_is_not_unpacked(tmp_path):
    """64 MB for the sake of 4 small images, out of a file of 64 KB."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        options = {"maxshape": (None, None, None), "compression": "gzip"}
        file.create_dataset("images", data=IMAGES[:1, ..., 0], chunks=(1, 2**13, 2**13), **options)
    assert "is stored in chunks (1, 8192, 8192), larger than it is" in refusal(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("images", data=IMAGES, maxshape=(None, 10, 12, 3))
    assert len(open_source(tmp_path / "y.h5").ids) == 6


def test_groups_nested_by_the_hundred_are_not_searched(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = IMAGES
        file.create_group("/".join(["deep"] * 300))
    assert "its groups are more than 64 levels deep" in refusal(tmp_path / "x.h5")


def test_what_pillow_logs_of_a_damaged_picture_is_not_printed(capfd):
    """It logs an error of seven numbers to a pixel, and Python prints it where nobody has set up logging."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "TIFF")
    entry = struct.pack("<HHLH", 277, 3, 1, 3)
    damaged = stream.getvalue().replace(entry, struct.pack("<HHLH", 277, 3, 1, 7))
    assert damaged != stream.getvalue()
    handlers = logging.getLogger().handlers[:]
    logging.getLogger().handlers.clear()  # pytest's own
    try:
        with pytest.raises(UnreadableImage):
            decoding.decode(io.BytesIO(damaged))
    finally:
        logging.getLogger().handlers.extend(handlers)
    assert capfd.readouterr().err == ""


def test_labels_that_are_not_one_for_each_image_are_not_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = IMAGES
        file.create_dataset("labels", (6, 100), h5py.string_dtype())
    with pytest.warns(AnalysisWarning, match="labels in .* are left out"):
        assert open_source(tmp_path / "x.h5").labels is None


def npy(header, data=bytes(1024)):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def described(descr="|u1", shape="(4, 8, 8)"):
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n"


DAMAGED = {
    "a negative shape": (described(shape="(-4, 8, 8)"), "is not what"),
    "two negative numbers": (described(shape="(-4, -8, 8)"), "is not what"),
    "a shape beyond 64 bits": (described(shape=f"({10**30}, 8, 8)"), "is not what"),
    "more than there is": (described(shape="(17, 8, 8)"), "is not what"),
    "a shape that is a word": (described(shape="'four'"), "header is missing or damaged"),
    "nested brackets": ("(" * 4000 + ")" * 4000, "header is missing or damaged"),
    "a long header": (described() + " " * 40_000, "header is missing or damaged"),
    "an unknown type": (described("hello"), "header is missing or damaged"),
    "Python objects": (described("|O"), "holds Python objects, which are never unpickled"),
    "objects in a record": (described([("a", "|O")]), "holds Python objects"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_npy_file_is_refused_in_words_of_ours(case, tmp_path):
    """NumPy's advise to fully trust the file, and to allow pickles."""
    header, words = DAMAGED[case]
    (tmp_path / "x.npy").write_bytes(npy(header))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", npy(header))
    for name in ("x.npy", "x.npz"):
        message = refusal(tmp_path / name)
        assert words in message
        assert "pickle=" not in message
        assert "trust" not in message


def test_an_array_that_does_not_fit_in_the_memory_is_refused(tmp_path, monkeypatch):
    def fail(*_args):
        raise MemoryError

    stored(tmp_path / "x.npz", images=IMAGES)
    monkeypatch.setattr(np, "load", fail)
    assert "does not fit in the memory; save its images as .npy" in refusal(tmp_path / "x.npz")


def test_images_of_an_array_are_not_read_to_find_that_they_are_too_large():
    class Rows:
        shape, dtype = (4, 3, 2**15, 2**14), np.dtype(np.float32)

    with pytest.raises(DataError, match="has images too large to be read"):
        check_rows(Rows(), "mine")


def test_a_picture_of_half_a_gigapixel_is_unreadable():
    with pytest.raises(UnreadableImage, match="22000 x 22000 pixels: the limit is 134217728"):
        decoding.decode(io.BytesIO(png(22_000, 22_000)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_picture_is_laid_over_white_in_bands(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    if mode == "P":
        image.info["transparency"] = 7
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    monkeypatch.setattr(decoding, "_BAND_PIXELS", 50)
    assert decoding.to_rgb(image).tobytes() == whole.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "I;16B"])
def test_a_picture_of_many_bits_becomes_bytes_in_bands(mode):
    pixels = np.arange(3_000_000, dtype=np.int32).reshape(1500, 2000) // 50
    pixels = pixels / pixels.max() if mode == "F" else pixels
    types = {"F": "<f4", "I": "<i4", "I;16": "<u2", "I;16B": ">u2"}
    image = Image.frombytes(mode, (2000, 1500), pixels.astype(types[mode]).tobytes())
    tracemalloc.start()
    made = decoding.to_rgb(image)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
    wanted = np.rint(pixels.astype(np.float32) * 255) if mode == "F" else pixels >> 8
    assert (np.asarray(made) == wanted[..., None]).all()
