"""Moments of products of shuffled layers, against all shuffles there are."""

import itertools

import pytest
import torch

from refiner_cka.measures import null
from refiner_cka.measures.indices import INDICES

# A few hundred products of doubles, of which none is much larger than their sum's standard deviation.
TOLERANCE = 1e-12


def matrices(name, n):
    generator = torch.Generator().manual_seed(n)
    first = torch.randn(n, 9, generator=generator, dtype=torch.float64)
    features = [first @ torch.randn(9, 5, generator=generator, dtype=torch.float64)]
    features.append(features[0] + torch.randn(n, 5, generator=generator, dtype=torch.float64))
    centred = [value - value.mean(0) for value in features]
    grams = torch.stack([value @ value.T for value in centred])
    return INDICES[name].matrices(grams, torch.ones(2, n))


def shuffled(found):
    """The product of two matrices for all orders of the images of the second."""
    n = found.shape[-1]
    orders = torch.tensor([*itertools.permutations(range(n))])
    return (found[0] * found[1][orders[:, :, None], orders[:, None, :]]).sum((1, 2))


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_mean_and_variance_are_those_of_all_shuffles(name, n):
    found = matrices(name, n)
    moments = null.moments(found, zero_rows=INDICES[name].centring == "rows")
    products, variance = shuffled(found), null.variance(moments, n)
    size = variance[0, 1].sqrt()
    assert abs(products.mean()) < TOLERANCE * size
    assert variance[0, 1] == pytest.approx(products.square().mean().item(), rel=TOLERANCE)
    assert variance[0, 1] == variance[1, 0]


@pytest.mark.parametrize("name", ["cka", "cka-cosine", "cka-rbf"])
@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_the_third_moment_is_that_of_all_shuffles(name, n):
    """At n = 4 and 5 some choices of five and six images do not exist."""
    found = matrices(name, n)
    products = shuffled(found)
    third = null.third(null.moments(found, zero_rows=True), n)[0, 1]
    size = products.abs().pow(3).mean().item()
    assert third == pytest.approx(products.pow(3).mean().item(), abs=TOLERANCE * size)


@pytest.mark.parametrize("name", ["rsa", "knn"])
def test_without_zero_rows_no_third_moment_is_stated(name):
    assert not null.third(null.moments(matrices(name, 7), zero_rows=False), 7).any()


def test_the_special_forms():
    """That of zero rows, that of symmetric matrices, and that of neighbours, in the words of each."""
    n = 30
    found = matrices("cka", n)
    size = found.square().sum((1, 2))
    variance = null.variance(null.moments(found, zero_rows=True), n)
    expected = 2 * torch.outer(size, size) / (n * (n - 3))
    torch.testing.assert_close(variance, expected, rtol=TOLERANCE, atol=0)
    # The general form, told nothing of the rows.
    general = null.variance(null.moments(found, zero_rows=False), n)
    torch.testing.assert_close(general, expected, rtol=TOLERANCE, atol=0)

    found = matrices("rsa", n)
    (a, a2), (r, r2) = found.square().sum((1, 2)), found.sum(2).square().sum(1)
    n_2, n_3, n_4 = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    expected = 2 * a * a2 / n_2 + 4 * (r - a) * (r2 - a2) / n_3
    expected += 4 * (a - 2 * r) * (a2 - 2 * r2) / n_4
    found = null.variance(null.moments(found, zero_rows=False), n)[0, 1]
    assert found == pytest.approx(expected.item(), rel=TOLERANCE)

    k = 10
    found = matrices("knn", n)
    near = found > 0
    assert (near.sum(2) == k).all()
    mutual = (near & near.mT).sum((1, 2)).double()
    popular = near.sum(1).square().sum(1) - n * k
    apart = n**2 * k**2 - 3 * n * k**2 + mutual - popular
    expected = (n**2 * k**2 + mutual.prod()) / n_2 + apart.prod() / n_4 - (n * k**2 / (n - 1)) ** 2
    chains = 2 * (n * k**2 - mutual).prod()
    expected += ((n * k * (k - 1)) ** 2 + popular.prod() + chains) / n_3
    found = null.variance(null.moments(found, zero_rows=False), n)[0, 1]
    # The mean is taken away from numbers 100 times as large as what is left.
    assert found == pytest.approx(expected.item(), rel=1e-10)


def test_the_fourth_moment_of_single_entries():
    """A matrix of one pair: the product is 0 or 2 x 3 x 5, once in n (n - 1) / 2 orders."""
    n = 7
    found = torch.zeros(2, n, n, dtype=torch.float64)
    found[0, 0, 1] = found[0, 1, 0] = 3.0
    found[1, 2, 5] = found[1, 5, 2] = 5.0
    fourth = null.fourth(null.moments(found, zero_rows=True), n)[0, 1]
    # (2 a b)^4 = 16 a^4 b^4, and the sums of fourth powers count each pair twice.
    expected = (2 * 3 * 5) ** 4 / (n * (n - 1) / 2)
    assert fourth == pytest.approx(expected, rel=TOLERANCE)
    assert shuffled(found).pow(4).mean().item() == pytest.approx(expected, rel=TOLERANCE)
