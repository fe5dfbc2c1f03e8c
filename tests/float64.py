"""Oracles: textbook formulas in float64, written apart from the library."""

import numpy as np


def hsic_1(k, l):  # noqa: E741
    """Unbiased HSIC of two Gram matrices by the formula of Song et al. 2012 (eq. 5), with traces and ones."""
    n = len(k)
    k, l = k.copy(), l.copy()  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def gram(x):
    """Float64 Gram matrix of the features minus their mean.

    Centring leaves HSIC_1 as it is and keeps float64's own cancellation away.
    """
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    x = x - x[:1]
    x -= x.mean(0)
    return x @ x.T


def minibatch_cka(x_grams, y_grams):
    """Minibatch CKA of two lists of Gram matrices, one a batch, batches weighted by n(n-3); NaN of a constant."""

    def total(a, b):
        return sum(len(p) * (len(p) - 3) * hsic_1(p, q) for p, q in zip(a, b, strict=True))

    with np.errstate(invalid="ignore"):
        return total(x_grams, y_grams) / np.sqrt(total(x_grams, x_grams) * total(y_grams, y_grams))


def minibatch_cka_matrix(layers):
    """CKA of all pairs; `layers` is a list, per layer, of lists of Gram matrices, one a batch."""
    return np.array([[minibatch_cka(one, other) for other in layers] for one in layers])
