"""What a source of images is, and what tells its images from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from PIL import Image

from ..errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order. Implement this to analyse images from anywhere else.

    A source never changes. It is sent to loading workers as it is, so it keeps no file open.
    """

    @property
    def description(self) -> str:
        """What the user named, for messages and provenance."""

    @property
    def ids(self) -> Sequence[str]:
        """A stable name for each image, in canonical order: its relative path, or its index."""

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each image, an index into `classes`."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names: folder names, or the label values as text."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the floating inputs that `read` returns; `None` if it returns pictures."""

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return what tells these images, in this order, from others, without decoding them."""

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return an RGB image, or a floating tensor `(C, H, W)` that models are fed as it is.

        Raises:
            UnreadableImage: this image cannot be used; the message says why in one line.
        """


@runtime_checkable
class ReducibleSource(ImageSource, Protocol):
    """A source whose pictures can be decoded at a reduced scale, in less time."""

    def read_reduced(self, index: int, at_least: int) -> Image.Image:
        """Return what `read` does, where possible smaller, with a short side of `at_least` pixels or more."""


class UnreadableImage(DataError):
    """One image cannot be used; the message is the reason. The analysis goes on without it."""


@dataclass(frozen=True)
class Digest:
    """What tells one list of images from another.

    Attributes:
        sha256: of what `covers` says, hexadecimal.
        covers: what the hash depends on, in words: `names, sizes and all contents`.
        whole: whether it depends on every byte of every image.
        transform: what the source itself does to an image before it hands it over, if that is known.
    """

    sha256: str
    covers: str
    whole: bool
    transform: str | None = None

    @classmethod
    def of(
        cls, lines: Iterable[str], covers: str, *, whole: bool, transform: str | None = None
    ) -> Digest:
        """Return the digest of some lines of text."""
        total = hashlib.sha256()
        for line in lines:
            total.update(f"{line}\n".encode())
        return cls(total.hexdigest(), covers, whole, transform)
