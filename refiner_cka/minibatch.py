"""Minibatch CKA: the Gram stack that hooks fill, and the plain function for two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import estimate, hsic
from .accumulator import sums_device
from .errors import DataError

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
        self._layers = layers
        self._workspace = hsic.Workspace()
        self._grams = self._buffer.view(layers, batch_size, batch_size)

    def begin(self, images: int) -> None:
        """Make room for a batch of `images`, at most the batch size."""
        used = self._layers * images**2
        self._grams = self._buffer[:used].view(self._layers, images, images)

    def put(self, row: int, chunks: Sequence[torch.Tensor]) -> None:
        """Reduce one layer's features to its Gram matrix.

        Args:
            row: the layer's row in the final matrix.
            chunks: its features for the whole batch, in parts `(images, features)`.
        """
        hsic.gram(chunks, self._grams[row], self._workspace)

    def products(self) -> torch.Tensor:
        """Return the batch's HSIC products of all pairs, float64 `(layers, layers)`."""
        grams = self._grams.to(sums_device(self._grams.device))
        return hsic.products(hsic.u_centre(grams))


def cka(x: npt.ArrayLike | torch.Tensor, y: npt.ArrayLike | torch.Tensor) -> float:
    """Return unbiased linear CKA of two sets of features of the same images.

    Args:
        x: `(n, p)` array or tensor, one row an image; further axes are flattened.
        y: `(n, q)`, the same images in the same order.

    Returns:
        CKA with the unbiased HSIC of Song et al. 2012, computed over all rows at once. 1 for features equal
        up to rotation and scale; on both sides of 0 for unrelated ones. NaN if either is constant or not
        finite.

    Raises:
        DataError: unequal numbers of rows, or fewer than 4.
    """
    features = [_matrix(value) for value in (x, y)]
    rows = [len(value) for value in features]
    if rows[0] != rows[1]:
        raise DataError(
            f"the arrays hold {rows[0]} and {rows[1]} rows; CKA compares the same images"
        )
    if rows[0] < hsic.MIN_BATCH:
        raise DataError(f"CKA needs at least {hsic.MIN_BATCH} rows, got {rows[0]}")
    grams = torch.empty(2, rows[0], rows[0], dtype=torch.float64)
    for value, out in zip(features, grams, strict=True):
        hsic.gram([value], out, hsic.Workspace())
    similarity = estimate.cka(hsic.products(hsic.u_centre(grams)).numpy())
    return float(similarity[0, 1])


def _matrix(value: Any) -> torch.Tensor:
    tensor = (
        value.detach().cpu()
        if isinstance(value, torch.Tensor)
        else torch.from_numpy(np.array(value))
    )
    if tensor.ndim == 0:
        raise DataError("CKA compares arrays with one row per image, got a single number")
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    return tensor.reshape(len(tensor), -1)
