"""Unbiased HSIC of linear kernels in three steps: Gram matrix, U-centring, products of all pairs.

Song et al. 2012 (JMLR 13, "Feature selection via dependence maximization", eq. 5), summed over minibatches as in
Nguyen, Raghu & Kornblith (arXiv 2010.15327). For a batch of n images with Gram matrices K and L,
n(n-3) HSIC_1(K, L) = <U(K), U(L)>, U being the U-centring below. Minibatch CKA is a ratio of sums of these
products: summing them as they are weights each batch by n(n-3), as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .scaling import block_bytes, limits, median_of_three, power_of_two

_SLICE = 2048
"""Columns of one product. Several such products in one batched call keep all cores busy on a result that is
only n x n, where one long product does not."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)

_NOISE, _LARGEST = 2.0, 32.0
"""Deviations that may be rounding, in eps: see `_Variation`."""

_MANY = 128
"""Images of a batch from which on a quarter of a product takes an accelerator longer than a few kernels do."""

_FAR = 8.0
"""An image so many times as far out as the median image has no part in the mean that is subtracted."""


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


def gram(
    chunks: Sequence[torch.Tensor], out: torch.Tensor, scales: torch.Tensor, workspace: Workspace
) -> None:
    """Write the Gram matrix of features centred over the batch, on a scale of its own for each image.

    The Gram matrix is `scales[:, None] * out * scales`: `scales` are powers of two that keep the squares of
    very large and very small features within the range of `out`. Centring leaves HSIC_1 exactly as it is and
    removes the cancellation that ruins single precision when features share an offset. Features that differ
    between images by no more than the rounding of the kernels that computed them are no signal: they count
    as constant, and their Gram is 0 (see `_Variation`).

    On a CPU the features are first multiplied as they are, which is right for almost all, and the energies
    that come out tell whether it was. An accelerator, where looking at a number means waiting for it, scales
    all features.

    Args:
        chunks: the batch's features in parts, each `(images, features)`, of any floating type.
        out: `(n, n)`, float32 or float64; n the images of all chunks.
        scales: `(n,)`, of the type of `out`.
        workspace: reused by every call with the same type and device of `out`.
    """
    if out.device.type == "cpu":
        _plain_gram(chunks, out, workspace)
        scales.fill_(1.0)
        if _is_sound(out, chunks[0][0]):
            return
    _scaled_gram(chunks, out, scales, workspace)


def _plain_gram(chunks: Sequence[torch.Tensor], out: torch.Tensor, workspace: Workspace) -> None:
    """Write the Gram matrix of the features as they are."""
    out.zero_()
    for start, stop in _columns(chunks[0].shape[1], out):
        block = workspace.block(len(out), stop - start, out)
        parts, _ = _parts(chunks, start, stop, out.dtype)
        for part, rows in zip(parts, _rows_of(block, chunks), strict=True):
            rows.copy_(part)
        _centre(block)
        _add_product(block, out)
    _mirror(out)


def _is_sound(out: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether a Gram matrix of unscaled features is right, judged by its diagonal, the images' energies.

    Three things must hold, or the features are scaled:
    - No number left the range of `out`. With all energies below `max` no partial sum overflows, for
      |K_ij|^2 <= K_ii K_jj. What underflows is at most `tiny` for each of up to 2^30 products: with all energies
      above 2^66 tiny, less than 2^-36 sqrt(K_ii K_jj), a thousandth of a float32's rounding.
    - No image is so far out that the mean, which it draws towards itself, costs the others digits. One outlier
      of n images comes out with (n - 1)^2 times the energy of the others, however far out it is.
    - The features, of which `first` are those of one image, vary by more than `_Variation` takes for rounding.
    """
    info, images = torch.finfo(out.dtype), len(out)
    energies = sorted(out.diagonal().tolist())
    if not all(info.tiny * 2.0**66 <= energy <= info.max for energy in energies):
        return False
    outlier = min(_FAR**2, (images - 1) ** 2 / 2)
    floor = _NOISE * info.eps * float(torch.linalg.vector_norm(first.to(out.dtype)))
    near = energies[-1] <= outlier * energies[images // 2]
    return near and bool(sum(energies) > images * floor**2)


def _scaled_gram(
    chunks: Sequence[torch.Tensor], out: torch.Tensor, scales: torch.Tensor, workspace: Workspace
) -> None:
    """Write the Gram matrix of features of any size, and the scale of each image. Nothing waits for the device.

    What underflows is 2^-126 of the largest deviation of its own image. A scale grows with the blocks of
    columns, and what has been added before is rescaled.
    """
    large = torch.finfo(out.dtype).max ** 0.75
    out.zero_()
    variation = _Variation()
    for start, stop in _columns(chunks[0].shape[1], out):
        parts, taken = _parts(chunks, start, stop, out.dtype)
        parts = [part.to(out.dtype) for part in parts]
        block = workspace.block(len(out), stop - start, out)
        reference = _median_of_three(parts)
        # Two numbers of 2^127 and more may differ by more than there are numbers for: they are made smaller.
        unit = 1.0 - 0.75 * (_largest(reference) >= large)
        for part, rows in zip(parts, _rows_of(block, chunks), strict=True):
            # The sign has no part in a product of the block with itself.
            torch.addcmul(reference * unit, part, unit, value=-1.0, out=rows)
        varies = block.any(0)
        distances = torch.linalg.vector_norm(block, float("inf"), dim=1)
        near = (distances <= _FAR * distances.median()).to(block)
        mean = block.T @ (near / near.sum())
        grown = (power_of_two(distances + _largest(mean)) / unit).clamp(*limits(out.dtype))
        if start:
            grown = torch.maximum(scales, grown)
            ratio = scales / grown
            out.mul_(ratio.unsqueeze(1)).mul_(ratio)
        inverse = (grown * unit).reciprocal()
        block.mul_(inverse.unsqueeze(1)).addr_(inverse, mean, alpha=-1.0)
        _add_product(block, out)
        scales.copy_(grown)
        features = reference if taken is None else reference + taken
        variation.add(distances.amax() / unit, features.where(varies, 0.0), grown.amax())
    _mirror(out)
    out.masked_fill_(variation.is_rounding(out, scales), 0.0)


class _Variation:
    """Whether features vary between images by more than the rounding of the kernels that computed them.

    Kernels round differently at different places of a batch, so that features which are the same for all
    images (a class token before the first attention) come out with differences of a few eps. They count as
    constant if both hold, of the columns that differ at all (which rounding leaves none out of, whatever their
    size, so that a column which is exactly constant says nothing about the others):
    - the root mean square of the deviations is at most `_NOISE` eps of that of the features;
    - no deviation exceeds `_LARGEST` eps of the largest feature. The largest of 10^9 normal deviations is 6.1
      of their root mean squares, sqrt(2) times as much from another image's value as from the mean:
      2 x 6.1 x 1.4 = 17, and a factor of 2 for tails.
    Both are ratios, and all that is kept is in units of the largest scale: no size of features matters. A
    column that differs does so by at least eps/2 of itself, so no size overflows in those units.
    """

    def __init__(self) -> None:
        # Of each block of columns: the largest deviation, the largest feature, the length of all, their unit.
        self._blocks: list[tuple[torch.Tensor, ...]] = []

    def add(self, deviation: torch.Tensor, features: torch.Tensor, unit: torch.Tensor) -> None:
        """Take in a block of columns.

        Args:
            deviation: the largest from the reference.
            features: the reference where columns differ, 0 where they do not.
            unit: the largest scale so far.
        """
        features = features / unit
        length = torch.linalg.vector_norm(features)
        self._blocks.append((deviation / unit, _largest(features), length, unit))

    def is_rounding(self, out: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return whether features are finite and count as constant, as a tensor of one truth value."""
        eps = torch.finfo(out.dtype).eps
        deviation, largest, length, unit = self._blocks[0]
        if len(self._blocks) > 1:
            deviations, largests, lengths, units = map(torch.stack, zip(*self._blocks, strict=True))
            unit = units[-1]
            ratios = units / unit
            deviation, largest = (deviations * ratios).amax(), (largests * ratios).amax()
            length = torch.linalg.vector_norm(lengths * ratios)
        energy = (out.diagonal() * (scales / unit) ** 2).sum()
        is_constant = energy <= len(out) * (_NOISE * eps * length) ** 2
        return is_constant & (deviation <= _LARGEST * eps * largest)


def _largest(values: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute value, NaN if there is one."""
    found: torch.Tensor = torch.linalg.vector_norm(values, float("inf"))
    return found


def _parts(
    chunks: Sequence[torch.Tensor], start: int, stop: int, dtype: torch.dtype
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Return columns of each chunk, ready to be rounded to a type, and what, if anything, was taken from them.

    Of float64 features that go into a float32 Gram matrix an image is taken away before they are rounded.
    """
    parts = [chunk[:, start:stop] for chunk in chunks]
    if parts[0].dtype != torch.float64 or dtype == torch.float64:
        return parts, None
    image = _median_of_three(parts)
    return [part - image for part in parts], image.to(dtype)


def _rows_of(block: torch.Tensor, chunks: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return the rows of a block that are each chunk's."""
    return torch.split(block, [chunk.shape[0] for chunk in chunks])


def _median_of_three(chunks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the median of the features of three images, `(columns,)`."""
    images = [image for chunk in chunks for image in chunk.unbind()]
    return median_of_three(images[0], images[len(images) // 2], images[-1])


def _columns(width: int, out: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield start and end of blocks of columns for `out` `(n, n)`."""
    # On a CPU 8 MB, though a core's own cache is smaller: with less, calls take as much time as what they do.
    size = max(block_bytes(out.device), 1 << 23)
    columns = max(size // (len(out) * out.element_size()) // _SLICE, 1) * _SLICE
    for start in range(0, width, columns):
        yield start, min(start + columns, width)


def _mirror(out: torch.Tensor) -> None:
    """Fill the upper right quarter, which `_add_product` leaves out."""
    half = len(out) // 2
    out[:half, half:] = out[half:, :half].T


def _centre(block: torch.Tensor) -> None:
    """Take the mean over images from `block` `(n, columns)`, which is in cache.

    Where the mean equals the first image up to its own rounding, the first image is subtracted instead, so
    that features that do not vary are exactly 0. HSIC_1 is the same whatever is subtracted.
    """
    images, first = len(block), block[0]
    # The sum over images as a product with a vector: on a CPU twice as fast as `sum(0)`.
    mean = (block.T @ block.new_ones(images)) / images
    rounding = images * torch.finfo(block.dtype).eps * first.abs()
    block -= torch.where((mean - first).abs() <= rounding, first, mean)


def _add_product(block: torch.Tensor, out: torch.Tensor) -> None:
    """Add `block @ block.T` to `out`, but for the upper right quarter, which symmetry gives.

    Of few images on an accelerator, where two more kernels take longer than that quarter, the whole.
    """
    if out.device.type != "cpu" and len(out) < _MANY:
        out += _product(block, block)
        return
    half = len(out) // 2
    lower = block[half:]
    out[:, :half].add_(_product(block, block[:half]))
    out[half:, half:].add_(_product(lower, lower))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `left @ right.T` of contiguous matrices of few rows and many columns."""
    if _HAS_ONEDNN and left.device.type == "cpu" and left.dtype == torch.float32:
        # What torch compiles linear layers to. The BLAS behind `@` is tuned for large results, and on processors
        # other than its maker's takes twice as long.
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return found
    return _sliced_product(left, right)


def _sliced_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `left @ right.T` in one batched product of equal slices of at most `_SLICE` columns.

    Columns that no such slices hold are filled up with zeros, of which layers of ordinary widths need none.
    """
    width = left.shape[1]
    least = -(-width // _SLICE)
    count = next((each for each in range(least, 2 * least) if width % each == 0), least)
    columns = -(-width // count)
    if missing := count * columns - width:
        left, right = (torch.nn.functional.pad(each, (0, missing)) for each in (left, right))
    a, b = (each.view(len(each), count, columns).transpose(0, 1) for each in (left, right))
    return torch.bmm(a, b.mT).sum(0)


def exact(grams: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return Gram matrices on one scale, `scales[..., None] * grams * scales[..., None, :]`, new in float64."""
    factors = scales.to(torch.float64)
    found = grams.to(torch.float64, copy=True)
    found *= factors.unsqueeze(-1)
    found *= factors.unsqueeze(-2)
    return found


def centre_rows(matrices: torch.Tensor) -> torch.Tensor:
    """U-centre symmetric matrices, `(..., n, n)` float64, n at least `MIN_BATCH`, in place.

    With the diagonal of K set to 0, row sums r_i and total s:
    U_ij = K_ij - (r_i + r_j)/(n - 2) + s/((n - 1)(n - 2)) for i != j, and U_ii = 0.
    """
    n = matrices.shape[-1]
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    rows = matrices.sum(-1)
    total = rows.sum(-1)
    matrices -= (rows.unsqueeze(-1) + rows.unsqueeze(-2)) / (n - 2)
    matrices += total[..., None, None] / ((n - 1) * (n - 2))
    diagonal.zero_()
    return matrices


def u_centre(grams: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return U-centred Gram matrices, new in float64: see `exact` and `centre_rows`."""
    return centre_rows(exact(grams, scales))


def relative(gram: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return scales `(n,)` over one power of two: the largest entry off the Gram matrix' diagonal is then about 1.

    For one batch, where CKA does not depend on the size of either Gram matrix, `(n, n)` in float64: features of
    1e200 have none on their own scale.
    """
    exponents = scales.frexp().exponent
    sizes = gram.frexp().exponent + exponents + exponents.unsqueeze(-1)
    counted = (gram != 0) & ~torch.eye(len(gram), dtype=torch.bool)
    if not counted.any():
        return scales
    half = int(sizes[counted].amax()) // 2
    return scales * 2.0 ** min(max(-half, -1000), 1000)
