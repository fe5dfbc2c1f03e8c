"""The HDF5 file of a result, written whole and read with suspicion; docs/file-format.md specifies it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ResultError, ResultFileError, one_line
from ..sums import Places, Quantity
from .atomic import write_whole
from .result import AttentionLayer, Layer, Result, Unreadable

Array = npt.NDArray[np.float64]
_Kind = TypeVar("_Kind")

FORMAT = "refiner-cka"
FORMAT_VERSION = 1

SUMS = {"hsic": "sums", "images": "images", "correct": "top1/correct", "labelled": "top1/labelled"}
"""Name of a sum -> its path in the file. Any other sum is stored under the path that is its name."""

BATCHES = ("batches", "batch_planned", "batch_images", "batch_digests")
"""Datasets that say which batches the sums hold, and what each was made of."""

AGREEMENT = 1e-9
"""How far the stored `cka` may lie from the one that follows from `sums`."""


def save(result: Result, path: str | Path) -> None:
    """Write a result to an HDF5 file, whole or not at all.

    Raises:
        ResultFileError: the file cannot be written.
    """
    # Built in memory: HDF5 on a full disk fails in ways that leave the library unusable.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        _write(file, result)
        file.attrs["digest"] = digest_of(file)
    write_whole(path, buffer.getbuffer())


def load(path: str | Path) -> Result:
    """Read a result from an HDF5 file; nothing but numbers, strings and JSON is taken from it.

    Raises:
        ResultFileError: no such file; not a result; of a newer version; damaged.
    """
    _refuse_other_files(Path(path))
    try:
        # Files are replaced, never changed, so locks protect nothing; network file systems may lack them.
        with h5py.File(path, "r", locking=False) as file:
            _check_format(file)
            result = _read(file)
    except ResultFileError:
        raise
    except ResultError as error:
        raise ResultFileError(f"{path}: {error}; the file is damaged, analyse again") from error
    except Exception as error:  # h5py has no list of what a damaged file makes it raise
        raise ResultFileError(
            f"{path} is damaged or truncated ({one_line(error)}); analyse again"
        ) from error
    return result


def _write(file: h5py.File, result: Result) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["complete"] = result.complete
    file.attrs["fingerprint"] = result.fingerprint
    file.attrs["total_batches"] = result.total_batches
    file["cka"] = result.cka()
    file["cka_se"] = result.cka_se()
    file["layers/model"] = _encoded(layer.model for layer in result.layers)
    file["layers/path"] = _encoded(layer.path for layer in result.layers)
    file["layers/tokens"] = _encoded(layer.tokens for layer in result.layers)
    file["layers/index"] = np.array([layer.index for layer in result.layers], np.int64)
    file["layers/depth"] = np.array([layer.depth for layer in result.layers], np.float64)
    for name, values in result.sums.items():
        dataset = file.create_dataset(SUMS.get(name, name), data=values)
        dataset.attrs["additive"] = True
    _write_smoothing(file, result)
    for name in BATCHES:
        file[name] = getattr(result, name)
    file["unreadable/image"] = _encoded(entry.image for entry in result.unreadable)
    file["unreadable/reason"] = _encoded(entry.reason for entry in result.unreadable)
    file["warnings"] = _encoded(result.warnings)
    provenance = file.create_group("provenance", track_order=True)
    for key, value in result.provenance.items():
        provenance.attrs[key] = _to_attribute(value)


def _write_smoothing(file: h5py.File, result: Result) -> None:
    """Write what follows from the sums of over-smoothing, and what the measures are."""
    for order, quantity in enumerate(result.quantities):
        means = result.smoothing(quantity.name)
        group = file[f"smoothing/{quantity.name}"]
        group["values"], group["se"] = means.values, means.se
        least, greatest = quantity.range
        described = {
            "order": order,
            "label": quantity.label,
            "about": quantity.about,
            "least": least,
            "greatest": greatest,
            "smoother": quantity.smoother or "",
            "source": quantity.source,
            "places": quantity.places,
            "few": quantity.few,
        }
        for key, value in described.items():
            if value is not None:
                group.attrs[key] = value
    if result.attention:
        blocks = result.attention
        file["attention/model"] = _encoded(block.model for block in blocks)
        file["attention/path"] = _encoded(block.path for block in blocks)
        file["attention/maps"] = _encoded(block.maps for block in blocks)
        file["attention/index"] = np.array([block.index for block in blocks], np.int64)
        file["attention/depth"] = np.array([block.depth for block in blocks], np.float64)


def _encoded(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return strings as fixed-length UTF-8, so that a dataset takes no more memory than it declares."""
    # File names need not be UTF-8; Python carries their bytes in surrogates.
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max([1, *map(len, raw)])
    return np.array(raw, dtype=h5py.string_dtype("utf-8", width))


def _to_attribute(value: Any) -> Any:
    """Return scalars as they are and everything else as JSON text; `_from_attribute` is the inverse."""
    plain = isinstance(value, bool | int | float) or (isinstance(value, str) and _is_plain(value))
    return value if plain else json.dumps(value)


def _from_attribute(value: str | np.generic) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value if _is_plain(value) else json.loads(value)


def _is_plain(text: str) -> bool:
    """Return whether a string is stored as it is: HDF5 can hold it and it does not look like JSON."""
    if text.startswith(("{", "[", '"')) or text == "null" or "\0" in text:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_other_files(path: Path) -> None:
    if path.is_dir():
        raise ResultFileError(f"{path} is a folder; name the .h5 file in it")
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ResultFileError(f"no such file: {path}") from error
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {one_line(error)}") from error
    if not h5py.is_hdf5(path):
        raise ResultFileError(f"{path} is not an HDF5 file; give the .h5 file of an analysis")


def _check_format(file: h5py.File) -> None:
    if "format" not in file.attrs or _scalar(file, file, "format") != FORMAT:
        raise ResultFileError(
            f"{file.filename} is an HDF5 file of another tool, not of refiner-cka"
        )
    version = _attribute(file, "format_version", int)
    if version > FORMAT_VERSION:
        raise ResultFileError(
            f"{file.filename} was written by a newer refiner-cka (format version {version}; this one reads "
            f"{FORMAT_VERSION}); update refiner-cka"
        )
    if version < FORMAT_VERSION:
        raise _fault(file, "attribute format_version", f"is {version}; versions start at 1")


def _read(file: h5py.File) -> Result:
    models = _texts(file, "layers/model")
    count = len(models)
    if not count:
        raise _fault(file, "layers/model", "is empty")
    layers = tuple(
        Layer(model, path, tokens, int(index), float(depth))
        for model, path, tokens, index, depth in zip(
            models,
            _texts(file, "layers/path", count),
            _texts(file, "layers/tokens", count),
            _numbers(file, "layers/index", np.int64, (count,)).tolist(),
            _numbers(file, "layers/depth", np.float64, (count,)).tolist(),
            strict=True,
        )
    )
    images = _texts(file, "unreadable/image")
    reasons = _texts(file, "unreadable/reason", len(images))
    held = len(_numbers(file, "batches", np.int64, (None,)))
    result = Result(
        layers=layers,
        sums=_sums(file, count, len(set(models))),
        batches=_numbers(file, "batches", np.int64, (None,)),
        batch_planned=_numbers(file, "batch_planned", np.int64, (held,)),
        batch_images=_numbers(file, "batch_images", np.int64, (held,)),
        batch_digests=_numbers(file, "batch_digests", np.uint8, (held, len(set(models)), 32)),
        total_batches=_attribute(file, "total_batches", int),
        unreadable=tuple(map(Unreadable, images, reasons)),
        warnings=_texts(file, "warnings"),
        provenance=_provenance(file),
        fingerprint=_attribute(file, "fingerprint", str),
        attention=_attention(file),
        quantities=_quantities(file),
    )
    _check_layers(file, result)
    _check_derived(file, result)
    if _attribute(file, "digest", str) != digest_of(file):
        raise _fault(file, "attribute digest", "is not that of the contents")
    return result


def digest_of(file: h5py.File) -> str:
    """Return the SHA-256 of all datasets and scalar attributes, each with its path, in order of the paths.

    Whatever changed a file after it was written shows in it, also where no number contradicts another.
    """
    paths = ["/"]
    file.visit(paths.append)  # takes hard links only
    total = hashlib.sha256()
    for path in sorted(paths):
        node = file[path]
        for name in sorted(node.attrs):
            if (path, name) != ("/", "digest") and node.attrs.get_id(name).shape == ():
                value = node.attrs[name]
                plain = value.item() if isinstance(value, np.generic) else value
                total.update(f"{path}\0{name}\0{json.dumps(plain)}\n".encode())
        if isinstance(node, h5py.Dataset):
            values = _dataset(file, path)[()]
            total.update(f"{path}\0{node.dtype.str}\0{node.shape}\n".encode())
            total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


def _attention(file: h5py.File) -> tuple[AttentionLayer, ...]:
    if "attention" not in file:
        return ()
    models = _texts(file, "attention/model")
    count = len(models)
    return tuple(
        AttentionLayer(model, path, maps, int(index), float(depth))
        for model, path, maps, index, depth in zip(
            models,
            _texts(file, "attention/path", count),
            _texts(file, "attention/maps", count),
            _numbers(file, "attention/index", np.int64, (count,)).tolist(),
            _numbers(file, "attention/depth", np.float64, (count,)).tolist(),
            strict=True,
        )
    )


def _quantities(file: h5py.File) -> tuple[Quantity, ...]:
    """Return what the file says of its measures, also of those this version does not know, in their order."""
    found: list[tuple[int, Quantity]] = []
    for name in sorted(_node(file, "smoothing")) if "smoothing" in file else ():
        group = file["smoothing"][name]
        if not isinstance(group, h5py.Group) or "total" not in group:
            continue
        told = {
            key: _plain(file, group, key, kind)
            for key, kind in {
                **dict.fromkeys(("label", "about", "smoother", "source", "places"), str),
                "order": int,
                "few": bool,
            }.items()
        }
        where = f"smoothing/{name}"
        if told["places"] not in get_args(Places):
            raise _fault(
                file, where, f"has values for {told['places']!r}, which this version does not know"
            )
        if told["smoother"] not in ("higher", "lower", ""):
            raise _fault(
                file, where, f"is smoother {told['smoother']!r}, not higher, lower or nothing"
            )
        least, greatest = (
            _plain(file, group, key, float) if key in group.attrs else None
            for key in ("least", "greatest")
        )
        quantity = Quantity(
            name,
            told["label"],
            told["about"],
            (least, greatest),
            told["smoother"] or None,
            told["source"],
            told["places"],
            told["few"],
        )
        found.append((told["order"], quantity))
    return tuple(quantity for _, quantity in sorted(found, key=lambda each: each[0]))


def _plain(file: h5py.File, node: h5py.Group, name: str, kind: type) -> Any:
    value = _scalar(file, node, name)
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, kind):
        where = f"attribute {name}" if node.name == "/" else f"attribute {name} of {node.name}"
        raise _fault(file, where, f"is {plain!r}, not {kind.__name__}")
    return plain


def _sums(file: h5py.File, layers: int, models: int) -> dict[str, Array]:
    """Return every additive dataset, also those of quantities this version does not know."""
    groups = len(_numbers(file, SUMS["images"], np.float64, (None,)))
    shapes: dict[str, tuple[int | None, ...]] = {
        "hsic": (groups, layers, layers),
        "images": (groups,),
        "correct": (groups, models),
        "labelled": (groups, models),
    }
    sums = {name: _numbers(file, SUMS[name], np.float64, shape) for name, shape in shapes.items()}
    for path in _unknown_additive(file):
        rank = len(file[path].shape)
        sums[path] = _numbers(file, path, np.float64, (groups, *[None] * (rank - 1)))
    return sums


def _unknown_additive(file: h5py.File) -> list[str]:
    found: list[str] = []

    def visit(path: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset) and "additive" in node.attrs:
            found.append(path)

    file.visititems(visit)  # takes hard links only
    return [path for path in found if path not in SUMS.values()]


def _provenance(file: h5py.File) -> dict[str, Any]:
    group = _node(file, "provenance")
    return {key: _from_attribute(_scalar(file, group, key)) for key in group.attrs}


def _check_derived(file: h5py.File, result: Result) -> None:
    """Refuse sums that are not symmetric, or from which the stored matrix does not follow."""
    count = len(result.layers)
    _numbers(file, "cka_se", np.float64, (count, count))
    stored, matrix = _numbers(file, "cka", np.float64, (count, count)), result.cka()
    if not np.allclose(matrix, matrix.T, rtol=0.0, atol=AGREEMENT, equal_nan=True):
        raise _fault(file, SUMS["hsic"], "is not symmetric")
    if not np.allclose(stored, matrix, rtol=0.0, atol=AGREEMENT, equal_nan=True):
        raise _fault(file, "cka", f"does not follow from {SUMS['hsic']}")


def _check_layers(file: h5py.File, result: Result) -> None:
    depths = np.array([layer.depth for layer in result.layers])
    if not ((depths >= 0) & (depths <= 1)).all():
        raise _fault(file, "layers/depth", "is not within 0 and 1")


def _node(file: h5py.File, path: str) -> Any:
    """Return a group or dataset that lies in this very file, reached through no link to elsewhere."""
    node: Any = file
    for name in path.split("/"):
        if not isinstance(node, h5py.Group) or name not in node:
            raise _fault(file, path, "is missing")
        if not isinstance(node.get(name, getlink=True), h5py.HardLink):
            raise _fault(file, path, "is a link to elsewhere")
        node = node[name]
    return node


def _dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """Return a dataset that is safe to read: its numbers lie in this file, as many as it declares."""
    dataset = _node(file, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise _fault(file, path, "is not a dataset")
    if dataset.is_virtual or dataset.external or dataset.id.get_create_plist().get_nfilters():
        raise _fault(file, path, "is virtual, external or compressed")
    if dataset.nbytes > file.id.get_filesize():
        raise _fault(file, path, f"declares {dataset.nbytes} bytes, more than the file has")
    return dataset


def _numbers(
    file: h5py.File, path: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """Return a dataset of exactly this type and shape; `None` is any length."""
    dataset = _dataset(file, path)
    fits = len(dataset.shape) == len(shape) and all(
        wanted in (None, held) for wanted, held in zip(shape, dataset.shape, strict=True)
    )
    if not fits or dataset.dtype != dtype:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise _fault(
            file,
            path,
            f"is {dataset.dtype} of shape {dataset.shape}, not {np.dtype(dtype)} of shape ({wanted})",
        )
    values: npt.NDArray[Any] = dataset[()]
    return values


def _texts(file: h5py.File, path: str, count: int | None = None) -> tuple[str, ...]:
    dataset = _dataset(file, path)
    info = h5py.check_string_dtype(dataset.dtype)
    if info is None or info.length is None or len(dataset.shape) != 1:
        raise _fault(file, path, "is not a list of fixed-length strings")
    if count not in (None, len(dataset)):
        raise _fault(file, path, f"has {len(dataset)} entries, not {count}")
    return tuple(text.decode("utf-8", "surrogateescape") for text in dataset[()].tolist())


def _attribute(file: h5py.File, name: str, kind: type[_Kind]) -> _Kind:
    value: _Kind = _plain(file, file, name, kind)
    return value


def _scalar(file: h5py.File, node: h5py.Group, name: str) -> str | np.generic:
    """Return a scalar attribute; anything but a string, a number or a truth value is refused."""
    if name not in node.attrs:
        raise _fault(file, f"attribute {name}", "is missing")
    value = node.attrs[name] if node.attrs.get_id(name).shape == () else None
    if not isinstance(value, str | np.bool_ | np.integer | np.floating):
        raise _fault(file, f"attribute {name}", "is not one string, number or truth value")
    return value


def _fault(file: h5py.File, path: str, what: str) -> ResultFileError:
    return ResultFileError(f"{file.filename}: {path} {what}; the file is damaged, analyse again")
