"""Every kind of file that is read: its ending, how it is damaged and crafted, what reads it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import hdf5, mutations, reading
from tests.fuzz.corpus import PICTURES_OF


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        honest: name in the corpus.
        suffix: of its files.
        mutate: from the bytes of an honest file, a seeded `random.Random` and another honest file.
        read: what is done with it; returns `read` or `skipped`, or raises.
    """

    honest: str
    suffix: str
    mutate: Callable
    read: Callable


KINDS = {
    "result": Kind("result", ".h5", hdf5.hdf5, reading.result),
    "result, signed": Kind("result", ".h5", hdf5.signed, reading.crafted_result),
    "checkpoint, zip": Kind("torch zip", ".pth", mutations.torch_zip, reading.weights),
    "checkpoint, legacy": Kind("legacy", ".pth", mutations.legacy, reading.weights),
    "checkpoint, pickle": Kind("pickle", ".pkl", mutations.pickled, reading.weights),
    "checkpoint, safetensors": Kind(
        "safetensors", ".safetensors", mutations.safetensors, reading.weights
    ),
    **{
        f"picture, {suffix}": Kind(
            suffix,
            suffix,
            mutations.png if suffix == ".png" else mutations.damaged,
            reading.picture,
        )
        for suffix in PICTURES_OF
    },
    "images, .npy": Kind(".npy", ".npy", mutations.npy, reading.images),
    "images, .npz": Kind(".npz", ".npz", mutations.npz, reading.images),
    "images, .h5": Kind("hdf5", ".h5", hdf5.hdf5, reading.images),
    "images, .tar": Kind("tar", ".tar", mutations.damaged, reading.images),
    "images, .tgz": Kind("tgz", ".tgz", mutations.packed, reading.images),
}
"""Name -> kind."""
