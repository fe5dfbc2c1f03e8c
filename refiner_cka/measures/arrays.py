"""CKA of two arrays of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..sums import MIN_BATCH, cosine
from . import hsic

if TYPE_CHECKING:
    import numpy.typing as npt


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

    What is no tensor gets memory of its own, aligned as torch aligns it: equal features then go through equal
    operations, to the last bit.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise DataError(f"CKA compares arrays of numbers; this is none: {error}") from None
        if array.dtype.kind not in "biufc":
            raise DataError(f"CKA compares arrays of numbers, got one of {array.dtype}")
        tensor = torch.tensor(array.astype(complex if array.dtype.kind == "c" else float))
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
