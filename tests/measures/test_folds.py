"""What leaving out a fold's images removes, against products of what remains."""

import numpy as np
import pytest
import torch

from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import INDICES
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.sums import FOLDS

CPU = torch.device("cpu")


def stack(n, layers=4, seed=0):
    """Gram matrices of layers that have something in common, symmetric to the last bit."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 20, generator=generator, dtype=torch.float64)
    grams = []
    for _ in range(layers):
        x = x @ torch.randn(20, 20, generator=generator, dtype=torch.float64) / 20**0.5
        x = x + 0.3 * torch.randn(n, 20, generator=generator, dtype=torch.float64)
        gram = (x - x.mean(0)) @ (x - x.mean(0)).T
        grams.append((gram + gram.T) / 2)
    return torch.stack(grams)


FOLDS_OF = {
    "each its own": np.arange(12),
    "uneven": np.array([3, 3, 19, 0, 3, 7, 19, 3, 0, 5, 5, 3, 8]),
    "several rounds": (np.arange(64) * 7) % FOLDS,
    "four images": np.array([18, 19, 7, 8]),
    "one fold": np.full(6, 4),
    "all but one in a fold": np.array([2, 2, 2, 2, 11]),
}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("folds", FOLDS_OF.values(), ids=FOLDS_OF)
def test_what_remains_is_the_product_over_the_other_images(name, folds):
    n, index = len(folds), INDICES[name]
    grams = stack(n)
    found = batch_sums(index, grams, torch.ones(4, n), Folded(folds, CPU))
    matrices = index.matrices(grams, torch.ones(4, n))
    products = torch.einsum("kij,lij->kl", matrices, matrices)
    size = products.diagonal().sqrt()
    size = torch.outer(size, size)
    assert (abs(found["products"] - products) <= 1e-12 * size).all()
    for fold in range(FOLDS):
        rest = matrices[:, folds != fold][:, :, folds != fold]
        if index.centring == "mean" and rest.shape[-1] > 1:
            pairs = ~torch.eye(rest.shape[-1], dtype=torch.bool)
            rest = rest[:, pairs] - rest[:, pairs].mean(1, keepdim=True)
        rest = rest.flatten(1)
        remaining = found["products"] - found["removed"][fold]
        assert (abs(remaining - rest @ rest.T) <= 1e-10 * size).all()
        assert (remaining.diagonal() >= -1e-12 * size.diagonal()).all()
    empty = sorted(set(range(FOLDS)) - set(folds.tolist()))
    assert not found["removed"][empty].any()


@pytest.mark.parametrize("name", INDICES)
def test_sums_are_symmetric_to_the_last_bit(name):
    folds = (np.arange(33) * 7) % FOLDS
    scales = 2.0 ** torch.arange(-16, 17).expand(37, 33)
    found = batch_sums(INDICES[name], stack(33, layers=37).float(), scales, Folded(folds, CPU))
    for values in found.values():
        assert values.dtype == torch.float64
        assert torch.equal(values, values.mT)


@pytest.mark.parametrize("name", INDICES)
def test_layers_made_in_blocks_are_those_made_at_once(name, monkeypatch):
    folds = np.arange(32) % FOLDS
    whole = batch_sums(INDICES[name], stack(32), torch.ones(4, 32), Folded(folds, CPU))
    block = 3 * 8 * 32**2
    monkeypatch.setattr("refiner_cka.measures.pairs.block_bytes", lambda _device: block)
    parts = batch_sums(INDICES[name], stack(32), torch.ones(4, 32), Folded(folds, CPU))
    for part, values in whole.items():
        size = values.abs().max() if part != "removed" else whole["products"].max()
        torch.testing.assert_close(parts[part], values, rtol=0, atol=1e-12 * float(size))


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_layers_that_are_constant_or_not_finite_leave_the_others_alone(name, number):
    folds = np.arange(24) % FOLDS
    grams = stack(24)
    grams[1] = 0.0
    grams[2, 5, :] = grams[2, :, 5] = number
    found = batch_sums(INDICES[name], grams, torch.ones(4, 24), Folded(folds, CPU))
    alone = batch_sums(INDICES[name], grams[[0, 3]], torch.ones(2, 24), Folded(folds, CPU))
    assert not found["products"][1, [0, 1, 3]].any()
    assert not found["removed"][:, 1, [0, 1, 3]].any()
    assert not found["products"][2].isfinite().any()
    for part, values in found.items():
        kept = values[..., [0, 3], :][..., [0, 3]]
        torch.testing.assert_close(kept, alone[part], rtol=1e-12, atol=0)
