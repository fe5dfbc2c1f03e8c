"""Powers of two that keep the squares of very large and very small numbers within the range of their type.

Multiplying by a power of two is exact unless the product underflows. A number that does is so much smaller than
the largest beside it that nothing of it would be left in their sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

_ORDINARY = 2.0**40
"""Numbers of at most this, the largest of at least its inverse, can be squared and summed as they are."""


def power_of_two(values: torch.Tensor) -> torch.Tensor:
    """Return the largest power of two in each non-negative number, within `limits`.

    Args:
        values: float32 or float64, of any shape. Denormal numbers give the lower limit, inf and NaN the upper.
    """
    # The exponent bits alone: exact, unlike `exp2`, and one cheap operation on any device.
    integer, mask = (
        (torch.int32, 0x7F800000)
        if values.dtype == torch.float32
        else (torch.int64, 0x7FF0000000000000)
    )
    return (values.view(integer) & mask).view(values.dtype).clamp(*limits(values.dtype))


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and the greatest scale of a type.

    They leave room for one more factor of 4, and their inverses are normal numbers. The largest numbers of the
    type divided by the greatest come to less than 16, the smallest denormal ones divided by the least to 2^-27
    (2^-56 in float64): both have squares.
    """
    info = torch.finfo(dtype)
    return info.tiny * 16, 2.0 ** (math.frexp(info.max)[1] - 4)


def are_ordinary(sizes: torch.Tensor) -> bool:
    """Whether numbers or tokens of these sizes, any shape, can be squared and summed as they are."""
    return 1 / _ORDINARY <= float(sizes.amax()) <= _ORDINARY


def common_scale(chunks: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return a power of two by which the largest of all numbers, if finite, comes to about 1.

    `None` if they are ordinary as they are, which only a CPU is asked: elsewhere looking at a number means
    waiting for it.

    Args:
        chunks: any floating type, images first.

    Returns:
        float32, a single number. Images that are not finite have no part in it.
    """
    if chunks[0].device.type == "cpu":
        # Unlike `aminmax`, these two read any memory format in its own order.
        ends = [end.abs() for chunk in chunks for end in (chunk.amax(), chunk.amin())]
        if are_ordinary(torch.stack(ends)):
            return None
    peaks = joined(
        [
            torch.linalg.vector_norm(chunk.flatten(1).float(), float("inf"), dim=1)
            for chunk in chunks
        ]
    )
    return power_of_two(peaks.nan_to_num(0.0, 0.0).amax())


def lengths(x: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean lengths of `(..., dim)` along the last axis, `(...)`, float32.

    To the rounding of float32 for lengths that are normal numbers, whatever becomes of the squares.
    """
    if not x.shape[-1]:
        return x.new_zeros(x.shape[:-1])
    if x.device.type != "cpu":
        return _scaled_lengths(x)
    found = _plain_lengths(x)
    # Outside these bounds squares may have left the range: at most tiny of each of up to 2^22 numbers is lost.
    odd = ~((found >= 2.0**-40) & (found <= 2.0**60))
    if odd.any():
        found[odd] = _scaled_lengths(x[odd])
    return found


def _plain_lengths(x: torch.Tensor) -> torch.Tensor:
    if x.stride(-1) == 1:
        norms: torch.Tensor = x.norm(dim=-1)
        return norms
    # Channels first: torch's norm along a stride is several times slower than this.
    return (x * x).sum(-1).sqrt()


def _scaled_lengths(x: torch.Tensor) -> torch.Tensor:
    scale = power_of_two(torch.linalg.vector_norm(x, float("inf"), dim=-1))
    return _plain_lengths(x / scale.unsqueeze(-1)) * scale


def units(x: torch.Tensor) -> torch.Tensor:
    """Return float32 vectors `(..., dim)` of any size divided by their lengths; NaN for those of length 0."""
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True)
    scaled = x / power_of_two(largest)
    return scaled / _plain_lengths(scaled).unsqueeze(-1)


def ascending(values: torch.Tensor) -> torch.Tensor:
    """Return values sorted along the last axis, NaN last."""
    if values.device.type == "cpu":
        # In a thirtieth of the time of torch's sort, and a quarter of that of its median.
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values


def median(ordered: torch.Tensor) -> torch.Tensor:
    """Return the median along the last axis of what `ascending` returns.

    Of an even number of values it is the mean of the two in the middle.
    """
    count = ordered.shape[-1]
    lower, upper = ordered[..., (count - 1) // 2], ordered[..., count // 2]
    return lower + (upper - lower) / 2


def median_of_three(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return the median of three numbers, one by one: a reference that one outlier cannot move far."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def joined(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Return parts joined along an axis; a single one as it is, without a copy."""
    return torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]


def block_bytes(device: torch.device) -> int:
    """Return the size of blocks to read: small enough for a CPU's cache, large for few kernels elsewhere."""
    return 1 << 22 if device.type == "cpu" else 1 << 28


def sums_device(device: torch.device) -> torch.device:
    """Return `device`, or the CPU for a device that has no float64 (Apple's MPS)."""
    return torch.device("cpu") if device.type == "mps" else device
