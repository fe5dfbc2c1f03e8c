"""Minibatch CKA: the Gram stack that hooks fill, and the plain function for two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..sums import MIN_BATCH, cosine
from . import hsic
from .scaling import sums_device

if TYPE_CHECKING:
    import numpy.typing as npt


class GramStack:
    """Gram matrices of all layers of all models for one batch.

    One stack for everything: its product with itself holds each model's own similarities in its diagonal
    blocks and those between models beside them.

    Args:
        layers: number of rows of the final matrix, over all models and readouts.
        batch_size: images of a full batch.
        device: where features live.
    """

    def __init__(self, layers: int, batch_size: int, device: torch.device) -> None:
        self._buffer = torch.zeros(layers * batch_size**2, dtype=torch.float32, device=device)
        self._scale_buffer = torch.ones(layers * batch_size, dtype=torch.float32, device=device)
        self._layers = layers
        self._workspace = hsic.Workspace()
        self.begin(batch_size)

    def begin(self, images: int) -> None:
        """Make room for a batch of `images`, at most the batch size."""
        used = self._layers * images
        self._grams = self._buffer[: used * images].view(self._layers, images, images)
        self._scales = self._scale_buffer[:used].view(self._layers, images)

    def put(self, row: int, chunks: Sequence[torch.Tensor]) -> None:
        """Reduce one layer's features to its Gram matrix.

        Args:
            row: the layer's row in the final matrix.
            chunks: its features for the whole batch, in parts `(images, features)`.
        """
        hsic.gram(chunks, self._grams[row], self._scales[row], self._workspace)

    def products(self) -> torch.Tensor:
        """Return the batch's HSIC products of all pairs, float64 `(layers, layers)`."""
        device = sums_device(self._grams.device)
        return hsic.products(hsic.u_centre(self._grams.to(device), self._scales.to(device)))


def cka(x: npt.ArrayLike | torch.Tensor, y: npt.ArrayLike | torch.Tensor) -> float:
    """Return unbiased linear CKA of two sets of features of the same images.

    Args:
        x: `(n, p)` array or tensor of real numbers, one row an image; further axes are flattened.
        y: `(n, q)`, the same images in the same order.

    Returns:
        CKA with the unbiased HSIC of Song et al. 2012, computed over all rows at once in float64. 1 for
        features equal up to rotation and scale, exactly 1 for equal ones; on both sides of 0 for unrelated
        ones. NaN if either is constant or not finite.

    Raises:
        DataError: unequal numbers of rows, or fewer than 4; no features; not real numbers.
    """
    features = [_matrix(value) for value in (x, y)]
    rows = [len(value) for value in features]
    if rows[0] != rows[1]:
        raise DataError(
            f"the arrays hold {rows[0]} and {rows[1]} rows; CKA compares the same images"
        )
    if rows[0] < MIN_BATCH:
        raise DataError(f"CKA needs at least {MIN_BATCH} rows, got {rows[0]}")
    centred = [_u_centred(value) for value in features]
    # Sums of equal numbers are equal; a matrix product may add each of its entries in another order.
    products = [[float((a * b).sum()) for b in centred] for a in centred]
    return float(cosine(np.array(products))[0, 1])


def _u_centred(features: torch.Tensor) -> torch.Tensor:
    """Return the U-centred Gram matrix, up to a factor, `(n, n)` from `(n, p)`, float64."""
    gram = torch.empty(len(features), len(features), dtype=torch.float64)
    scales = torch.empty(len(features), dtype=torch.float64)
    hsic.gram([features], gram, scales, hsic.Workspace())
    return hsic.u_centre(gram, hsic.relative(gram, scales))


def _matrix(value: Any) -> torch.Tensor:
    """Return features as a tensor of floating type on the CPU, `(n, p)`.

    Raises:
        DataError: no array of real numbers with a row for each image.
    """
    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else _array(value)
    if tensor.is_complex():
        raise DataError(
            "CKA compares real numbers, got complex ones: give real and imaginary parts as features"
        )
    if tensor.ndim == 0:
        raise DataError("CKA compares arrays with one row per image, got a single number")
    if not tensor.numel():
        raise DataError(f"an array of shape {tuple(tensor.shape)} holds no features to compare")
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    return tensor.reshape(len(tensor), -1)


def _array(value: Any) -> torch.Tensor:
    """Return what NumPy makes of a value, as a tensor with memory of its own, aligned as torch aligns it.

    Equal features then go through equal operations, to the last bit.

    Raises:
        DataError: it is no array of numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"CKA compares arrays of numbers; this is none: {error}") from None
    if array.dtype.kind not in "biufc":
        raise DataError(f"CKA compares arrays of numbers, got one of {array.dtype}")
    return torch.tensor(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
