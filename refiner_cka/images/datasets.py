"""Map-style torch data sets."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from ..errors import DataError, one_line, printable
from .arrays import check_rows, image_or_input, to_numpy
from .decoding import check_size, to_rgb
from .source import Digest, UnreadableImage


class DatasetImages:
    """A map-style torch data set of images, or of tuples that begin with the image.

    Labels and classes are its attributes `targets` and `classes`, as torchvision's data sets have.

    Raises:
        DataError: it is of the iterable style, or has no length.
    """

    def __init__(self, dataset: Any) -> None:
        kind = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(
                f"images cannot be read from a {kind}: give a map-style torch Dataset, which has a "
                "length and an item for each index"
            )
        self.dataset = dataset
        self.description = f"a {kind} of {len(dataset)} images"
        self.ids = [str(index) for index in range(len(dataset))]
        classes, targets = (getattr(dataset, name, None) for name in ("classes", "targets"))
        self.classes = None if classes is None else tuple(map(str, classes))
        self.labels: list[int] | None = None
        if targets is not None and classes is not None and len(targets) == len(dataset):
            self.labels = [int(target) for target in targets]

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the first readable item if it is a floating input, `None` if it is a picture."""
        for index in range(len(self.ids)):
            with suppress(UnreadableImage):
                item = self.read(index)
                return tuple(item.shape) if isinstance(item, torch.Tensor) else None
        return None

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return the sha256 of type, length and indices: the images may be made on demand."""
        kind = f"{type(self.dataset).__module__}.{type(self.dataset).__qualname__}"
        lines = [kind, str(len(self.dataset)), *map(str, indices)]
        covers = "type, length and transform of the data set, not its images"
        return Digest.of(lines, covers, whole=False, transform=_transform(self.dataset))

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return one item's image; an item that raises is unreadable."""
        try:
            item = self.dataset[index]
        except Exception as error:
            raise UnreadableImage(f"{type(error).__name__}: {one_line(error)}") from error
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, Image.Image):
            check_size(*image.size)
            return to_rgb(image)
        row = to_numpy(image) if isinstance(image, torch.Tensor) else np.asarray(image)
        try:
            check_rows(row[np.newaxis], "an item")
        except DataError as error:
            raise UnreadableImage(str(error)) from error
        return image_or_input(row)


def _transform(dataset: Any) -> str | None:
    """Return what a torch data set says of its own transform, in one line of at most 1,000 characters.

    torchvision's data sets have it as `transform`, some as `transforms`; a `Subset` has it inside.
    """
    while dataset is not None:
        for name in ("transform", "transforms"):
            if (transform := getattr(dataset, name, None)) is not None:
                # An address would be another in every process.
                text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))
                return printable(" ".join(text.split()))[:1000]
        dataset = getattr(dataset, "dataset", None)
    return None
