"""What products of two layers' matrices come to when the layers see unrelated images: moments, exactly.

Shuffle the images of one layer against those of another within a batch of n: of all n! orders the product
T = sum_ij A_ij B_s(i)s(j) of two matrices with 0 in their diagonals, whose entries sum to 0, has the mean 0. Its
higher moments are sums over the ways in which places of an entry, or of several, coincide: for each way what A
has of it times what B has of it, over n_v = n (n - 1) ... (n - v + 1), the number of choices of v images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Moments(NamedTuple):
    """Sums over each matrix M of a stack, `(L,)` float64.

    Attributes:
        squares: of M_ij^2.
        reversed: of M_ij M_ji.
        rows: of squared row sums.
        columns: of squared column sums.
        chains: of row sums times column sums of the same image.
        cubes: of M_ij^3.
        triangles: of M_ij M_jk M_ki.
        fourths: of M_ij^4.
    """

    squares: torch.Tensor
    reversed: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    chains: torch.Tensor
    cubes: torch.Tensor
    triangles: torch.Tensor
    fourths: torch.Tensor


def moments(matrices: torch.Tensor, *, zero_rows: bool) -> Moments:
    """Return the sums over matrices `(L, n, n)`, float64, with 0 in their diagonals.

    Args:
        matrices: their entries sum to 0.
        zero_rows: they are symmetric, and so does each row. For the others nothing is made of `cubes` and
            `triangles`, which are 0.
    """
    flat = matrices.flatten(1)
    squared = flat.square()
    squares, fourths = squared.sum(1), torch.linalg.vecdot(squared, squared)
    none = torch.zeros_like(squares)
    if zero_rows:
        cubes = torch.linalg.vecdot(squared, flat)
        triangles = torch.linalg.vecdot(torch.bmm(matrices, matrices).flatten(1), flat)
        return Moments(squares, squares, none, none, none, cubes, triangles, fourths)
    rows, columns = matrices.sum(2), matrices.sum(1)
    return Moments(
        squares,
        (matrices * matrices.mT).sum((1, 2)),
        torch.linalg.vecdot(rows, rows),
        torch.linalg.vecdot(columns, columns),
        torch.linalg.vecdot(rows, columns),
        none,
        none,
        fourths,
    )


def variance(of: Moments, n: int) -> torch.Tensor:
    """Return the variance of the product of all pairs in a batch of n images, `(L, L)`.

    The two entries of a square are the same; each other's reverse; in one row; in one column; a chain, the one's
    row being the other's column; or have no image in common. For zero rows it is 2 a a' / (n (n - 3)).
    """
    a, b = of.squares, of.reversed
    apart = a + b - of.rows - of.columns - 2 * of.chains
    return _sum(
        n,
        (2, 1, a),
        (2, 1, b),
        (3, 1, of.rows - a),
        (3, 1, of.columns - a),
        (3, 2, of.chains - b),
        (4, 1, apart),
    )


def third(of: Moments, n: int) -> torch.Tensor:
    """Return the third moment of the product of all pairs, `(L, L)`; 0 unless rows sum to 0."""
    p, q = of.cubes, of.triangles
    return _sum(
        n,
        (2, 4, p),
        (3, 24, p),
        (3, 8, q),
        (4, 56, p),
        (4, 24, p - q),
        (5, 48, q - 2 * p),
        (6, 64, 2 * p - q),
    )


def fourth(of: Moments, n: int) -> torch.Tensor:
    """Return 8 sum A_ij^4 sum B_ij^4 / (n (n - 1)) of all pairs, `(L, L)`.

    That is the part of the fourth moment which single entries have. Where it is not small beside the square of
    the variance, a few entries decide, and three moments say little of the tails.
    """
    return _sum(n, (2, 8, of.fourths))


def _sum(n: int, *terms: tuple[int, int, torch.Tensor]) -> torch.Tensor:
    """Return the sum of weight x A's x B's / n_v of terms `(v, weight, (L,))` for all pairs, `(L, L)`.

    There are no v different images of fewer. Each step is one rounding of each number, which a sum over an axis
    need not be: what comes out is symmetric to the last bit.
    """
    result = torch.zeros_like(torch.outer(terms[0][2], terms[0][2]))
    for images, weight, sums in terms:
        if images <= n:
            result += torch.outer(sums, sums) * (weight / math.perm(n, images))
    return result
