"""Similarity indices of layers that follow from their Gram matrices: one function and one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from ..errors import DataError, LayerError
from ..sums import LAYERS, MIN_BATCH, Quantity
from . import hsic

NEIGHBOURS = 10
"""Of each image, for `knn`; as many as Huh et al. take."""

BANDWIDTH = 0.4
"""Of the Gaussian kernel, in medians of the distances of a batch. Of the three that Kornblith et al. tried it is
the narrowest that still tells layers apart as well as the linear kernel; wider ones come ever closer to that."""


@dataclass(frozen=True)
class Index:
    """A similarity index: S_kl / sqrt(S_kk S_ll), where S sums the products of matrices that represent layers.

    A layer's matrix in a batch says of each pair of images how alike, or how unlike, the layer takes them to be.
    What it says of an image and itself has no part.

    Attributes:
        quantity: what a result says of it; `{n}` in its label stands for the size of the batches.
        represent: from Gram matrices of a batch centred over its images, `(L, n, n)` float64, which it may
            overwrite, to the matrices, `(L, n, n)` float64. A layer whose Gram matrix is 0 is constant: its matrix
            has one value in all places. One with numbers that are not finite gets such numbers.
        centring: what is taken away of the matrix. `rows`: of a symmetric one what makes each of its rows sum
            to 0, see `hsic.centre_rows`; `mean`: its mean.
        symmetric: whether the matrix is.
        least: images that a batch must be planned with.
        parameters: what its numbers depend on, JSON types by name.
    """

    quantity: Quantity
    represent: Callable[[torch.Tensor], torch.Tensor]
    centring: Literal["rows", "mean"] = "rows"
    symmetric: bool = True
    least: int = MIN_BATCH
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def matrices(self, grams: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the centred matrices of a batch, `(L, n, n)` float64, with 0 in their diagonals.

        Args:
            grams: `(L, n, n)` on scales `(L, n)`, as `hsic.gram` writes them.
            scales: see there.
        """
        found = self.represent(hsic.exact(grams, scales))
        return hsic.centre_rows(found) if self.centring == "rows" else _centre_mean(found)

    def described(self, images: int) -> Quantity:
        """Return what a result of batches of so many images says of it.

        Raises:
            DataError: batches of so few images have no such index.
        """
        name, label = self.quantity.name, self.quantity.label
        if images < self.least:
            raise DataError(
                f"the index {name} takes batches of at least {self.least} images, and the largest here has "
                f"{images}: give more images or a larger batch size, or leave it out"
            )
        return replace(self.quantity, label=label.replace("{n}", str(images)))


def linear(grams: torch.Tensor) -> torch.Tensor:
    """Return the inner products of features."""
    return grams


def cosines(grams: torch.Tensor) -> torch.Tensor:
    """Return the cosines of features, each taken from the mean of the batch: how long they are has no part."""
    energies = grams.diagonal(dim1=-2, dim2=-1)
    lengths = energies.where(energies != 0, 1.0).sqrt()  # An image at the mean has no direction.
    finite = (energies - energies).sum(-1)
    return grams / lengths.unsqueeze(-1) / lengths.unsqueeze(-2) + finite[..., None, None]


def gaussian(grams: torch.Tensor) -> torch.Tensor:
    """Return exp(-d^2 / (2 s^2)) - 1 of the distances d, s being `BANDWIDTH` times their median in the batch.

    The 1, which centring takes away in any case, leaves a constant layer exactly 0.
    """
    squares = distances(grams)
    n = squares.shape[-1]
    # The n smallest are those of images to themselves.
    median = squares.flatten(1).sort(-1).values[:, n + (n * (n - 1) - 1) // 2, None, None]
    # Where most images are the same a distance is 0 or far: the narrowest kernel there is.
    width = (2 * BANDWIDTH**2 * median).clamp(min=torch.finfo(median.dtype).tiny)
    return (squares / -width).expm1()


def distances(grams: torch.Tensor) -> torch.Tensor:
    """Return the squared distances of features; NaN all over a layer with a number that is not finite."""
    energies = grams.diagonal(dim1=-2, dim2=-1).clone()
    squares = grams.mul_(-2.0)
    squares += energies.unsqueeze(-1)
    squares += energies.unsqueeze(-2)
    squares.clamp_(min=0.0)
    squares.diagonal(dim1=-2, dim2=-1).zero_()
    return squares.add_((energies - energies).sum(-1)[..., None, None])


def neighbours(grams: torch.Tensor) -> torch.Tensor:
    """Return 1 in the row of an image for each of its `NEIGHBOURS` nearest, 0 for the others.

    Images at the same distance share the places there are: what comes out depends on no order. A batch of fewer
    images than `NEIGHBOURS` + 2 has fewer places, so that there is always one who is no neighbour.
    """
    squares = distances(grams)
    squares.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    places = min(NEIGHBOURS, squares.shape[-1] - 2)
    farthest = squares.sort(-1).values[..., places - 1, None]
    nearer, tied = (squares < farthest).to(squares), (squares == farthest).to(squares)
    # Of distances that are NaN none is tied: 0 times infinity.
    share = (places - nearer.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)
    return nearer + tied * share


def _centre_mean(matrices: torch.Tensor) -> torch.Tensor:
    """Take from matrices `(L, n, n)` the mean of what is off the diagonal, which becomes 0; in place."""
    n = matrices.shape[-1]
    # One value first: what is the same everywhere is then exactly 0.
    matrices -= matrices[:, :1, 1:2].clone()
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    matrices -= matrices.sum((-2, -1), keepdim=True) / (n * (n - 1))
    diagonal.zero_()
    return matrices


def _row(
    name: str,
    represent: Callable[[torch.Tensor], torch.Tensor],
    label: str,
    about: str,
    source: str,
    **more: Any,
) -> Index:
    """Return an index called so; for the rest see `Index` and `Quantity`."""
    path = f"similarity/{name}"
    axes = (LAYERS, LAYERS)
    quantity = Quantity(name, path, "cosine", axes, label, about, (None, 1.0), source=source)
    return Index(quantity, represent, **more)


_TABLE = (
    _row(
        "cka",
        linear,
        "CKA",
        "unbiased linear CKA, its HSIC products summed over batches",
        "Nguyen et al., arXiv 2010.15327; Song et al., JMLR 13 (2012)",
    ),
    _row(
        "cka-cosine",
        cosines,
        "Cosine CKA",
        "unbiased CKA of the cosines of features centred over the batch: no image counts more for being far out",
        "Kornblith et al., arXiv 1905.00414, with a cosine kernel",
    ),
    _row(
        "cka-rbf",
        gaussian,
        "RBF CKA",
        f"unbiased CKA with a Gaussian kernel of {BANDWIDTH} times the median distance in the batch",
        "Kornblith et al., arXiv 1905.00414; Alvarez, arXiv 2112.09305",
        parameters={"bandwidth": BANDWIDTH},
    ),
    _row(
        "rsa",
        distances,
        "RSA",
        "Pearson correlation of the squared distances between images of a batch",
        "Kriegeskorte et al., Front. Syst. Neurosci. 2 (2008)",
        centring="mean",
    ),
    _row(
        "knn",
        neighbours,
        f"{NEIGHBOURS}-NN overlap (batches of {{n}})",
        f"share of the {NEIGHBOURS} nearest images of the batch that two layers have in common; 0 by chance",
        "Huh et al., arXiv 2405.07987, corrected for chance",
        centring="mean",
        symmetric=False,
        least=2 * NEIGHBOURS,
        parameters={"neighbours": NEIGHBOURS},
    ),
)

INDICES: dict[str, Index] = {index.quantity.name: index for index in _TABLE}
"""Name -> index. The first is always measured."""


def chosen(names: str) -> tuple[Index, ...]:
    """Return the first index and those that `--index` names, with commas, in the order of the table.

    Raises:
        LayerError: a name that is unknown, or there twice.
    """
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in INDICES:
            raise LayerError(f"unknown --index {name!r}; choose from {', '.join(INDICES)}")
        if wanted.count(name) > 1:
            raise LayerError(f"--index names {name} twice")
    first = next(iter(INDICES))
    return tuple(index for name, index in INDICES.items() if name in (first, *wanted))
