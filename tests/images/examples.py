"""Small images, and the files, arrays and data sets that hold them."""

import io
import struct
import tarfile
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from refiner_cka.errors import DataError
from refiner_cka.images import Digest, Preprocessing, load_batches, open_source, plan_batches

SMALL = Preprocessing((3, 16, 16))

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)


def scene(width=24, height=16, seed=0):
    """Smooth random colours, so that lossy formats keep them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **{"lossless": True} if path.suffix == ".webp" else {}, **options)
    return path


def jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def png(width, height, *, bits=1, colour=0, content=b""):
    """A PNG by hand; without content it only claims its size."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(image):
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    return np.asarray(image)


def folder_of(path, names):
    for seed, name in enumerate(names):
        save(scene(seed=seed), path / name)
    return path


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


PICTURES = [(f"{'ab'[index % 2]}/{index}.jpg", jpeg(scene(seed=index))) for index in range(6)]


def stored(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".npy":
        np.save(path, *arrays.values())
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


def refusal(data):
    with pytest.raises(DataError) as caught:
        open_source(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def batches_of(source, workers=0, size=4):
    plan = plan_batches(source, batch_size=size, images=None, seed=0)
    wanted = range(len(plan.batches))
    return list(load_batches(source, plan, wanted, [SMALL], workers=workers))


class Source:
    """A source written by a user: the protocol and no more."""

    description = "mine"
    labels = None
    classes = None

    def __init__(self, count, read, input_shape=None):
        self.input_shape = input_shape
        self.ids = [f"image {index}" for index in range(count)]
        self.read = read

    def digest(self, indices):
        return Digest(" ".join(map(str, indices)), "indices", whole=False)


class Pictures(Dataset):
    """Like torchvision's: an image and its label, and attributes that say the labels beforehand."""

    targets = (1, 0, 1, 1)
    classes = ("cat", "dog")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index], self.targets[index]


class Endless(IterableDataset):
    """Of a length it merely claims: an iterable data set has no items to ask for by number."""

    def __len__(self):
        return 4

    def __iter__(self):
        return iter(())
