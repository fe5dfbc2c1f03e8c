"""Unbiased HSIC of linear kernels in three steps: Gram matrix, U-centring, products of all pairs.

Song et al. 2012 (JMLR 13, "Feature selection via dependence maximization", eq. 5), summed over minibatches as in
Nguyen, Raghu & Kornblith (arXiv 2010.15327). For a batch of n images with Gram matrices K and L,
n(n-3) HSIC_1(K, L) = <U(K), U(L)>, U being the U-centring below. Minibatch CKA is a ratio of sums of these
products: summing them as they are weights each batch by n(n-3), as it should be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

MIN_BATCH = 4
"""HSIC_1 divides by n - 3: a batch of fewer images holds no estimate."""

_SLICE = 2048
"""Columns of one product. Several such products in one batched call keep all cores busy on a result that is
only n x n, where one long product does not."""

_CPU_BLOCK_BYTES = 1 << 22
_ACCELERATOR_BLOCK_BYTES = 1 << 28
"""Centred copies are made a block of columns at a time: on a CPU small enough to stay in cache, on an
accelerator large, to launch few kernels."""


class Workspace:
    """Memory for the centred columns, kept from one Gram matrix to the next.

    A fresh buffer of this size costs a CPU as much in page faults as the product itself.
    """

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def block(self, images: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """Return uninitialised memory `(images, columns)` of the type and device of `like`."""
        size = images * columns
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = like.new_empty(size)
        return self._buffer[:size].view(images, columns)


def gram(chunks: Sequence[torch.Tensor], out: torch.Tensor, workspace: Workspace) -> None:
    """Write the Gram matrix of features centred over the batch to `out`.

    Centring leaves HSIC_1 exactly as it is and removes the cancellation that ruins single precision when
    features share an offset. Features that vary by less than twice the rounding error of their own size in
    the type of `out` are noise of the kernels that computed them, not a signal: they count as constant, and
    their Gram is 0.

    Args:
        chunks: the batch's features in parts, each `(images, features)`, of any floating type.
        out: `(n, n)`, float32 or float64; n the images of all chunks.
        workspace: reused by every call with the same type and device of `out`.
    """
    width, images = chunks[0].shape[1], out.shape[0]
    block_bytes = _CPU_BLOCK_BYTES if out.device.type == "cpu" else _ACCELERATOR_BLOCK_BYTES
    columns = max(block_bytes // (images * out.element_size()) // _SLICE, 1) * _SLICE
    out.zero_()
    for start in range(0, width, columns):
        stop = min(start + columns, width)
        block = workspace.block(images, stop - start, out)
        _centre([chunk[:, start:stop].to(out.dtype) for chunk in chunks], block)
        _add_product(block, out)
    half = images // 2
    out[half:, :half] = out[:half, half:].T
    # Decided on the device: a branch here would wait for it.
    size = torch.linalg.vector_norm(chunks[0][0], dtype=out.dtype)
    floor = 2.0 * torch.finfo(out.dtype).eps * size
    energy = out.trace()
    out.mul_((energy > images * floor**2) | ~torch.isfinite(energy))


def _centre(chunks: Sequence[torch.Tensor], block: torch.Tensor) -> None:
    """Fill `block` `(n, columns)` with the chunks minus their common mean.

    Where the mean equals the first image up to its own rounding, the first image is subtracted instead, so
    that features that do not vary are exactly 0. HSIC_1 is the same whatever is subtracted.
    """
    images = len(block)
    # Sums over images as products with a vector: on a CPU twice as fast as `sum(0)`.
    ones = block.new_ones(images)
    mean = torch.stack([chunk.T @ ones[: len(chunk)] for chunk in chunks]).sum(0) / images
    first = chunks[0][0]
    rounding = images * torch.finfo(block.dtype).eps * first.abs()
    reference = torch.where((mean - first).abs() <= rounding, first, mean)
    row = 0
    for chunk in chunks:
        torch.sub(chunk, reference, out=block[row : row + len(chunk)])
        row += len(chunk)


def _add_product(block: torch.Tensor, out: torch.Tensor) -> None:
    """Add `block @ block.T` to `out`, but for the lower left quarter, which symmetry gives."""
    images, width = block.shape
    whole = width // _SLICE * _SLICE
    if whole:
        _add_slices(block[:, :whole].view(images, -1, _SLICE).transpose(0, 1), out)
    if whole < width:
        _add_slices(block[None, :, whole:], out)


def _add_slices(slices: torch.Tensor, out: torch.Tensor) -> None:
    """Add the products of `(slices, n, columns)` to the two upper quarters and the lower right one."""
    half = len(out) // 2
    upper, lower = slices[:, :half], slices[:, half:]
    out[:half] += torch.bmm(upper, slices.mT).sum(0)
    out[half:, half:] += torch.bmm(lower, lower.mT).sum(0)


def u_centre(grams: torch.Tensor) -> torch.Tensor:
    """Return U-centred Gram matrices in float64.

    With the diagonal of K set to 0, row sums r_i and total s:
    U_ij = K_ij - (r_i + r_j)/(n - 2) + s/((n - 1)(n - 2)) for i != j, and U_ii = 0.

    Args:
        grams: `(..., n, n)`, n at least `MIN_BATCH`.

    Returns:
        `(..., n, n)`, float64.
    """
    n = grams.shape[-1]
    centred = grams.to(torch.float64, copy=True)
    diagonal = centred.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    rows = centred.sum(-1)
    total = rows.sum(-1)
    centred -= (rows.unsqueeze(-1) + rows.unsqueeze(-2)) / (n - 2)
    centred += total[..., None, None] / ((n - 1) * (n - 2))
    diagonal.zero_()
    return centred


def products(centred: torch.Tensor) -> torch.Tensor:
    """Return `<U_i, U_j>` for all pairs of a stack, `(L, L)`, from `(L, n, n)`.

    One matrix product: O(L^2 n^2), where the trace of a product per pair takes O(L^2 n^3). Exactly
    symmetric, which a BLAS alone does not promise.
    """
    flat = centred.flatten(1)
    pairs = flat @ flat.T
    return (pairs + pairs.T) / 2
