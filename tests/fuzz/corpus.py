"""Honest files, small, of every kind that is read: what the fuzzing starts from."""

import argparse
import gzip
import io
import pickle
import re
import tempfile
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_tensors

from refiner_cka.results.contents import Unreadable
from refiner_cka.sums import all_sums
from tests.fuzz.mutations import members, zipped
from tests.images.examples import IMAGES, PICTURES, scene, tar_of
from tests.synthetic import synthetic_result, with_smoothing

_NUMBERS = torch.arange(8.0)
# Views of one storage: of two the order in a file depends on where they lie in memory.
STATE = OrderedDict({"fc.weight": _NUMBERS[:6].view(2, 3), "fc.bias": _NUMBERS[6:]})
PICTURES_OF = {
    ".jpg": [("JPEG", {}), ("JPEG", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"})],
    ".png": [("PNG", {}), ("PNG", {"optimize": True})],
    ".webp": [("WEBP", {"lossless": True}), ("WEBP", {"quality": 50})],
    ".tif": [("TIFF", {}), *(("TIFF", {"compression": f"tiff_{how}"}) for how in ("lzw", "jpeg"))],
    ".bmp": [("BMP", {})],
    ".gif": [("GIF", {}), ("GIF", {"save_all": True, "append_images": [scene(seed=5)]})],
    ".avif": [("AVIF", {})],
    ".jp2": [("JPEG2000", {})],
    ".ppm": [("PPM", {})],
}


def _written(write, suffix):
    """Return the bytes of a file that a function writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{suffix}")
        write(path)
        return path.read_bytes()


def results():
    small = synthetic_result(
        {"a": 3, "b": 2},
        batches=4,
        unreadable=[Unreadable("x.png", "damaged")],
        warnings=["of something"],
        provenance={"batch_size": 16, "models": [{"name": "a"}, {"name": "b"}], "seed": None},
    )
    plain = synthetic_result({"a": 3}, references=("labels",), batches=3, total_batches=5)
    return [_written(made.save, ".h5") for made in (_few(with_smoothing(small)), plain)]


def _few(result):
    """Return a result of one quantity of each kind alone: what is read often is to be small."""
    names = ("cka", "top1", "patch_cosine", "attention_entropy", "attention_block_similarity")
    kept = tuple(each for each in result.quantities if each.name in names)
    sums = {path: result.sums[path] for path in all_sums(kept)}
    return replace(result, quantities=kept, sums=sums)


def _checkpoints():
    return [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)},
    ]


def _saved(content, zipped):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    # Where a storage lay in memory is its name in an old file.
    return re.sub(rb"X.\0{3}\d{11,18}", b"X\x0f\0\0\0" + b"1" * 15, stream.getvalue())


def _pickled():
    state = {name: tensor.numpy() for name, tensor in STATE.items()}
    return [pickle.dumps({"state_dict": state, "epoch": 3}, protocol) for protocol in (0, 2, 4)]


def _picture(suffix):
    pictures = []
    for seed, (format_, options) in enumerate(PICTURES_OF[suffix]):
        modes = {".png": "RGBA", ".gif": "P"}
        image = scene(seed=seed)
        stream = io.BytesIO()
        image.convert(modes.get(suffix, "RGB")).save(stream, format_, **options)
        pictures.append(stream.getvalue())
    grey = io.BytesIO()
    if suffix in (".png", ".tif"):
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(
            grey, PICTURES_OF[suffix][0][0]
        )
        pictures.append(grey.getvalue())
    return pictures


def _hdf5(**options):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", data=IMAGES, **options)
        file["labels"] = np.arange(6) % 2
    return stream.getvalue()


def _array(save, *values, **named):
    stream = io.BytesIO()
    save(stream, *values, **named)
    return stream.getvalue()


def _arrays(suffix):
    floats = IMAGES.transpose(0, 3, 1, 2).astype(np.float32)
    if suffix == ".npy":
        return [_array(np.save, IMAGES), _array(np.save, floats)]
    archives = [
        _array(np.savez, images=IMAGES, labels=np.array(list("ababab"))),
        _array(np.savez_compressed, x=floats, y=np.arange(6)),
    ]
    return [zipped(members(archive)) for archive in archives]  # without the time


@cache
def honest(kind):
    """Return the bytes of the files of a kind, a row of `tests.fuzz.kinds.KINDS`."""
    makers = {
        "result": results,
        "torch zip": lambda: [_saved(content, True) for content in _checkpoints()],
        "legacy": lambda: [_saved(content, False) for content in _checkpoints()],
        "pickle": _pickled,
        "safetensors": lambda: [
            save_tensors({name: tensor.clone() for name, tensor in STATE.items()}),
            save_tensors({"fc.weight": torch.ones(2, 3)}),
        ],
        "hdf5": lambda: [_hdf5(), _hdf5(chunks=(2, 5, 12, 3), compression="gzip")],
        "tar": lambda: [_written(lambda path: tar_of(path, PICTURES), ".tar")],
        "tgz": lambda: [gzip.compress(honest("tar")[0], mtime=0)],
    }
    if kind in makers:
        return makers[kind]()
    return _arrays(kind) if kind in (".npy", ".npz") else _picture(kind)
