"""Products of all pairs of layers in one batch, and what of them goes with each fold of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ..sums import FOLDS


class Folded:
    """The rows of a batch's matrices, fold by fold.

    In a stack `(L, folds x m, n)` each fold that has images of the batch has m rows, as many as the largest; what
    is missing in a smaller one is 0. All that follows are then a few products, the same for any folds.

    Args:
        folds: of each image, `(n,)`; not on the device, so that nothing waits for it.
        device: where the matrices are.
    """

    def __init__(self, folds: npt.NDArray[np.int64], device: torch.device) -> None:
        counts = np.bincount(folds, minlength=FOLDS)
        filled = np.flatnonzero(counts)
        counts = counts[filled]
        is_image = np.arange(counts.max()) < counts[:, None]
        rows = np.zeros(is_image.shape, np.int64)
        rows[is_image] = np.argsort(folds, kind="stable")
        self.images = len(folds)
        self._count, self._most = is_image.shape
        self._folds, self._rows, self._is_image, self._empty, self._remaining = (
            torch.from_numpy(each).to(device, non_blocking=True)
            for each in (
                filled,
                rows.ravel(),
                is_image.astype(np.float64),
                np.flatnonzero(~is_image),
                (self.images - counts).astype(np.float64),
            )
        )

    def stack(self, layers: int) -> torch.Tensor:
        """Return memory for the rows of so many matrices, `(L, folds x m, n)` float64."""
        shape = (layers, len(self._rows), self.images)
        return torch.empty(shape, dtype=torch.float64, device=self._rows.device)

    def put(self, matrices: torch.Tensor, rows: torch.Tensor) -> None:
        """Write matrices `(l, n, n)` into a part of the stack, `(l, folds x m, n)`."""
        torch.index_select(matrices, 1, self._rows, out=rows)
        rows.index_fill_(1, self._empty, 0.0)

    def products(
        self, stack: torch.Tensor, *, symmetric: bool, zero_rows: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the products of all pairs, and what each fold removes of them when it is left out.

        With the images F of a fold, R = sum over i in F and all j of A_ij B_ij, C the same of columns, D of i
        and j both in F: without the images of F the product is S - (R + C - D). Of matrices of which only the
        mean is 0 the mean of what remains is taken away once more.

        Args:
            stack: from `stack`, filled by `put`.
            symmetric: whether the matrices are: then C = R.
            zero_rows: whether their rows sum to 0; if not, all their entries do.

        Returns:
            `(L, L)` and `(FOLDS, L, L)`, symmetric to the last bit, which a BLAS alone does not promise.
        """
        layers, folds = len(stack), self._count
        rows = stack.view(layers, folds, -1).transpose(0, 1)
        half = torch.bmm(rows, rows.mT)
        total = half.sum(0)
        if not symmetric:
            half.add_(self._columns(stack)).mul_(0.5)
        inner = self._inner(stack)
        half.baddbmm_(inner, inner.mT, alpha=-0.5)
        if not zero_rows:
            removed = self._sums(stack, inner)
            pairs = (self._remaining * (self._remaining - 1)).clamp(min=1.0)
            half.baddbmm_(removed, removed.mT / (2 * pairs[:, None, None]))
        for fold in half:  # one at a time: with 600 layers all take 58 MB
            fold += fold.T.clone()
        if folds < FOLDS:
            half = stack.new_zeros(FOLDS, layers, layers).index_copy_(0, self._folds, half)
        return (total + total.T) / 2, half

    def _inner(self, stack: torch.Tensor) -> torch.Tensor:
        """Return what images of one fold have with one another, `(folds, L, m m)`."""
        places = self._rows.view(1, self._count, 1, self._most)
        split = stack.view(len(stack), self._count, self._most, self.images)
        inner = split.gather(3, places.expand(*split.shape[:3], -1)) * self._is_image[:, None]
        return inner.flatten(2).transpose(0, 1)

    def _columns(self, stack: torch.Tensor) -> torch.Tensor:
        """Return C of each fold, `(folds, L, L)`; a fold at a time, or it would take the memory of the stack."""
        found = []
        for images, are in zip(self._rows.view(-1, self._most), self._is_image, strict=True):
            columns = (stack.index_select(2, images) * are).flatten(1)
            found.append(columns @ columns.T)
        return torch.stack(found)

    def _sums(self, stack: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """Return the sum of the entries that go with each fold, `(folds, L, 1)`."""
        rows = stack.view(len(stack), self._count, -1).sum(2)
        columns = stack.sum(1).index_select(1, self._rows).view(len(stack), -1, self._most)
        columns = (columns * self._is_image).sum(2)
        return (rows + columns).T.unsqueeze(2) - inner.sum(2, keepdim=True)
