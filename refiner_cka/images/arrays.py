"""Images in an array, in memory or in a file that behaves like one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, one_line, warn
from .decoding import CHANNELS, MAX_PIXELS, array_to_rgb
from .source import Digest, UnreadableImage

BLOCK_BYTES = 2**25
"""Arrays are hashed in blocks of rows of at most about this size."""

_GAP_ROWS = 8
"""So many rows on, the next wanted row of an array is read with this one."""


class Rows(Protocol):
    """An array of images, or a file that behaves like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __getitem__(self, index: int | slice, /) -> NDArray[Any]:
        """Return one image, or several with the images first."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in an array, in its order."""

    description: str
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    rows: Rows

    @classmethod
    def of(cls, rows: Rows, name: str, labels: Any = None) -> ArrayImages:
        """Return the images in an array that messages call `name`; their ids are the indices.

        Args:
            rows: the images.
            name: what the user called them.
            labels: an array, or a file that behaves like one and is read only if it holds one for each image.

        Raises:
            DataError: its type or shape is none that `open_source` lists.
        """
        check_rows(rows, name)
        ids = [str(index) for index in range(rows.shape[0])]
        if labels is not None:
            if (labels.size, labels.dtype.kind) in [(rows.shape[0], kind) for kind in "iuU"]:
                values, indices = np.unique(np.asarray(labels).reshape(-1), return_inverse=True)
                return cls(name, ids, indices.tolist(), tuple(map(str, values)), rows)
            found = f"{labels.dtype} {labels.shape}"
            warn(f"labels in {name} are left out: {found} is not one integer or text per image")
        return cls(name, ids, None, None, rows)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one row if the rows are floating inputs, `None` if they are pictures."""
        return self.rows.shape[1:] if self.rows.dtype.kind == "f" else None

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of type, shape, indices and all values."""
        chosen = list(indices)
        rows = _hash_rows(self.rows, chosen)
        kind = f"{self.rows.dtype.str} {self.rows.shape[1:]}"
        lines = [kind, *(f"{self.ids[index]}\0{rows[index]}" for index in chosen)]
        return Digest.of(lines, "type, shape and all values", whole=True)

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return one row: an image, or a floating tensor as it is."""
        try:
            row = self.rows[index]
        except OSError as error:
            raise UnreadableImage(one_line(error)) from error
        return image_or_input(row)


def check_rows(rows: Rows, name: str) -> None:
    """Refuse what is neither images nor inputs of a model.

    Raises:
        DataError: it says what is wrong with type or shape.
    """
    shape, dtype = rows.shape, rows.dtype
    if len(shape) < 2 or 0 in shape:
        problem = "holds no images: the first axis counts them"
    elif math.prod(shape[1:]) > max(CHANNELS) * MAX_PIXELS:
        problem = f"has images too large to be read: the limit is {MAX_PIXELS} pixels"
    elif dtype.kind == "f":
        return  # inputs of any shape: `check_channels` knows what the models take
    elif dtype not in (np.uint8, np.uint16):
        problem = "has no usable type: give uint8 or uint16 images, or floating inputs"
    elif len(shape) == 3 or (len(shape) == 4 and {shape[1], shape[3]} & set(CHANNELS)):
        return
    else:
        problem = (
            "must be (images, height, width[, channels]) or (images, channels, height, width) "
            "with 1, 3 or 4 channels"
        )
    raise DataError(f"{name}: the array {dtype} {shape} {problem}")


def image_or_input(row: NDArray[Any]) -> Image.Image | torch.Tensor:
    """Return one image as RGB, or one floating input as a float32 tensor.

    Raises:
        UnreadableImage: an input that is not finite in float32, or an image of an unusable size.
    """
    if row.dtype.kind != "f":
        return array_to_rgb(row)
    with np.errstate(over="ignore"):  # it becomes an infinity, and that is refused
        values = row.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableImage("holds a NaN or an infinity")
    return torch.from_numpy(values)


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array; floating ones as float32 (NumPy has no bfloat16)."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _hash_rows(rows: Rows, wanted: Sequence[int]) -> dict[int, str]:
    """Return the sha256 of each wanted row.

    Rows are read in the order of the file and many at a time: one by one, in the order of a run, a
    compressed file would be unpacked over and over.
    """
    order = np.unique(np.array(wanted, dtype=np.int64))
    block = max(1, BLOCK_BYTES // (rows.dtype.itemsize * math.prod(rows.shape[1:])))
    apart = (np.diff(order) > _GAP_ROWS) | (np.diff(order // block) > 0)
    found: dict[int, str] = {}
    for run in np.split(order, np.flatnonzero(apart) + 1):
        if run.size:
            found |= _hash_run(rows, run.tolist())
    return found


def _hash_run(rows: Rows, run: Sequence[int]) -> dict[int, str]:
    """Return the sha256 of ascending rows, read as one block; of nothing for one that cannot be read."""
    try:
        block = rows[run[0] : run[-1] + 1]
    except OSError:
        if len(run) == 1:
            return {run[0]: hashlib.sha256().hexdigest()}
        # A part of the file is damaged: its other rows can be read.
        return {index: _hash_run(rows, [index])[index] for index in run}
    values = {index: np.ascontiguousarray(block[index - run[0]]) for index in run}
    return {index: hashlib.sha256(row.data).hexdigest() for index, row in values.items()}
