"""How HDF5 files are crafted: what a writer of harm could put into one that no damage makes."""

import io

import h5py
import numpy as np

from refiner_cka.results.store import Store
from tests.fuzz.mutations import damaged

_TEXTS = (
    "",
    "nothing",
    "[1, 2]",
    "{",
    "[" * 3000 + "]" * 3000,
    '{"a": NaN}',
    "null",
    "\x1b[2J",
    "é" * 300,
)
_NUMBERS = (-1, 0, 1, 2, 7, 2**31, 2**62, -(2**62), 0.5, float("nan"), float("inf"), True)


def crafted(data, rng, _other=b""):
    """Return an HDF5 file with some of its groups, datasets and attributes changed."""
    return _edited(data, rng, lambda file: None)


def signed(data, rng, _other=b""):
    """Return such a result file with a digest that fits what it holds, where one can be made."""

    def sign(file):
        file.attrs["digest"] = Store(file).digest()

    return _edited(data, rng, sign)


def hdf5(data, rng, other):
    """Return a damaged or a crafted file."""
    return damaged(data, rng, other) if rng.random() < 0.6 else crafted(data, rng)


def _edited(data, rng, finish):
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.choice((1, 1, 2, 4))):
            paths = _paths(file)
            if not paths:
                break
            try:
                rng.choice(_EDITS)(file, rng.choice(sorted(paths)), rng)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError):
                break  # what HDF5 itself does not write
        try:
            finish(file)
        except Exception:
            file.attrs["digest"] = "0" * 64
    return stream.getvalue()


def _paths(file):
    """Return the paths of what a file holds, not too deep down: HDF5 takes minutes for it."""
    paths = []
    file.visit(lambda path: paths.append(path) or path.count("/") > 70 or None)
    return paths


def _delete(file, path, _rng):
    del file[path]


def _number(file, path, rng):
    """Change one number."""
    node = file[path]
    if isinstance(node, h5py.Dataset) and node.size and node.dtype.kind in "iuf":
        values = node[()]
        with np.errstate(all="ignore"):
            values.reshape(-1)[rng.randrange(values.size)] = np.float64(
                rng.choice(_NUMBERS)
            ).astype(values.dtype)
        node[...] = values


def _numbers(file, path, rng):
    """Change all numbers of a dataset alike, which may keep them symmetric."""
    node = file[path]
    if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
        with np.errstate(all="ignore"):
            node[...] = node[()] * rng.choice((0.0, -1.0, 1e300, float("nan"), 1e-320, 0.5))


def _shape(file, path, rng):
    """Put a dataset of another shape or type in place of one."""
    shape = tuple(
        rng.choice((0, 1, 3, 5, 20, 2**20, 2**40)) for _ in range(rng.choice((0, 1, 2, 3, 4)))
    )
    types = (
        "u1",
        "i8",
        "f8",
        "f4",
        "u8",
        "S5",
        h5py.string_dtype(),
        "c16",
        [("a", "f8")],
        h5py.ref_dtype,
    )
    del file[path]
    file.create_dataset(path, shape, rng.choice(types), chunks=(1,) * len(shape) or None)


def _chunks(file, path, rng):
    """Declare chunks that are larger than the dataset."""
    node = file[path]
    # Another edit may have declared more numbers than memory holds.
    if not isinstance(node, h5py.Dataset) or not node.ndim or node.size > 2**20:
        return
    values, dtype = node[()], node.dtype
    del file[path]
    side = rng.choice((2**6, 2**10, 2**16))
    chunks = (side, *(1,) * (values.ndim - 1))
    packing = rng.choice((None, "gzip"))
    file.create_dataset(
        path,
        data=values,
        dtype=dtype,
        chunks=chunks,
        maxshape=(None,) * values.ndim,
        compression=packing,
    )


def _link(file, path, rng):
    links = (
        h5py.SoftLink("/"),
        h5py.SoftLink(f"/{path}"),
        h5py.ExternalLink("/etc/hostname", "/"),
        file["/"],
    )
    if rng.random() < 0.5:
        del file[path]
        file[path] = rng.choice(links)
    else:
        file[f"{path}.more"] = rng.choice(links)


def _elsewhere(file, path, rng):
    """Say that numbers lie in another file."""
    node = file[path]
    if not isinstance(node, h5py.Dataset):
        return
    shape, dtype = node.shape, node.dtype
    del file[path]
    if rng.random() < 0.5:
        file.create_dataset(path, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape)
        file.create_virtual_dataset(path, layout)


def _attribute(file, path, rng):
    """Change an attribute of anything, or add one."""
    node = file[rng.choice((path, path, "/", "provenance" if "provenance" in file else path))]
    names = [*node.attrs, "axis", "estimator", "additive", "groups", "images", "models", "order"]
    name = rng.choice([each for each in names if each != "digest"])
    value = rng.choice((rng.choice(_TEXTS), rng.choice(_NUMBERS), np.zeros(3), h5py.Empty("f8")))
    node.attrs[name] = value


def _text(file, path, rng):
    """Put other texts into a dataset of texts."""
    node = file[path]
    if isinstance(node, h5py.Dataset) and node.dtype.kind == "S" and node.size:
        texts = node[()]
        texts[rng.randrange(len(texts))] = rng.choice(
            (b"", b"\xff\xfe", b"\x1b[2J", b"../..", b"two\nlines", b"\0")
        )
        node[...] = texts


def _nest(file, path, rng):
    file.create_group("/".join([path, *["deep"] * rng.choice((10, 500, 3000))]))


_EDITS = (
    _delete,
    _number,
    _number,
    _numbers,
    _shape,
    _chunks,
    _link,
    _elsewhere,
    _attribute,
    _attribute,
    _attribute,
    _text,
    _text,
    _nest,
)
