"""Each similarity index against its textbook form, with loops, in float64, over several batches.

Tolerance: Gram matrices are float32, with a relative error of a few eps (1.2e-7) of an image's squared distance
from the mean. An index is a ratio of sums of many of them: 1e-5 leaves a factor for the differences of distances.
"""

import numpy as np
import pytest
import torch

import refiner_cka as rc
from refiner_cka.measures import hsic
from refiner_cka.measures.folds import Folded
from refiner_cka.measures.indices import BANDWIDTH, INDICES, NEIGHBOURS, chosen
from refiner_cka.measures.pairs import batch_sums
from refiner_cka.sums import FOLDS, cosine
from tests import float64, pathological
from tests.analysis import runs

TOLERANCE = 1e-5
CPU = torch.device("cpu")


def features(n, p, seed, offset=0.0):
    """Two layers' features that have something in common, float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator)
    y = x @ torch.randn(p, p, generator=generator) / p**0.5 + torch.randn(n, p, generator=generator)
    return x + offset, y.tanh() - offset


def summed(name, layers):
    """The sums of one batch, through the way of a run."""
    n = len(layers[0])
    grams, scales = torch.empty(len(layers), n, n), torch.empty(len(layers), n)
    for values, gram, scale in zip(layers, grams, scales, strict=True):
        hsic.gram([values], gram, scale, hsic.Workspace())
    return batch_sums(INDICES[name], grams, scales, Folded(np.arange(n) % FOLDS, CPU))


def measured(name, batches):
    return cosine(sum(summed(name, layers)["products"].numpy() for layers in batches))


def squared_distances(x):
    x = x.double().numpy()
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


def directions(x):
    x = x.double().numpy()
    x = x - x[:1]
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def kernel(x):
    squares = squared_distances(x)
    # Of an even number of pairs the lower of the two in the middle.
    pairs = np.sort(squares[np.triu_indices(len(squares), 1)])
    median = np.sqrt(pairs[(len(pairs) - 1) // 2])
    return np.exp(-squares / (2 * (BANDWIDTH * median) ** 2))


def unbiased(kernel_of):
    def number(batches):
        grams = [[kernel_of(layers[side]) for layers in batches] for side in (0, 1)]
        return float64.minibatch_cka(*grams)

    return number


def rsa(batches):
    """Pearson correlation of all batches' dissimilarities, each batch's less their mean."""
    sides = []
    for side in (0, 1):
        found = [off_diagonal(squared_distances(layers[side])) for layers in batches]
        sides.append(np.concatenate([values - values.mean() for values in found]))
    return np.corrcoef(*sides)[0, 1]


def overlap(x, y):
    """How many of their nearest two layers have in common, and how many they may have."""
    common = 0
    for a, b in zip(squared_distances(x), squared_distances(y), strict=True):
        own = np.argsort(a)[0]
        k = min(NEIGHBOURS, len(x) - 2)
        common += len(set(np.argsort(a)[1 : k + 1]) & set(np.argsort(b)[1 : k + 1]))
        assert a[own] == 0
    return common, k


def knn(batches):
    """The share in common, less what chance gives, over what is left above chance."""
    above = possible = 0.0
    for layers in batches:
        n = len(layers[0])
        common, k = overlap(*layers)
        chance = k / (n - 1)
        above += common - n * k * chance
        possible += n * k * (1 - chance)
    return above / possible


TEXTBOOK = {
    "cka": unbiased(float64.gram),
    "cka-cosine": unbiased(directions),
    "cka-rbf": unbiased(kernel),
    "rsa": rsa,
    "knn": knn,
}


def test_there_is_a_textbook_for_each():
    assert TEXTBOOK.keys() == INDICES.keys()


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("sizes", [(32,), (32, 32, 13), (4,), (5, 4)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_agrees_with_the_textbook(name, sizes, offset):
    batches = [features(n, 24, seed, offset) for seed, n in enumerate(sizes)]
    found = measured(name, batches)
    # An offset of 30 has rounded the float32 features themselves, of which the textbook is made too.
    assert found[0, 1] == pytest.approx(TEXTBOOK[name](batches), abs=TOLERANCE)
    assert found[0, 1] == found[1, 0]
    assert found[0, 0] == found[1, 1] == 1


def test_the_overlap_of_neighbours_is_what_is_counted():
    """(S / (N k) - c) / (1 - c), S being the neighbours in common."""
    x, y = features(40, 24, 3)
    (common, k), n = overlap(x, y), 40
    chance = k / (n - 1)
    expected = (common / (n * k) - chance) / (1 - chance)
    assert measured("knn", [(x, y)])[0, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e18])
def test_the_size_of_features_has_no_part(name, size):
    x, y = features(24, 16, 5)
    expected = measured(name, [(x, y)])[0, 1]
    assert measured(name, [(x * size, y)])[0, 1] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_layer_has_no_number(name, value):
    x, _ = features(24, 16, 6)
    found = measured(name, [(x, torch.full((24, 16), value))])
    assert found[0, 0] == 1
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_layer_that_is_not_finite_has_no_number(name, value):
    x, y = features(24, 16, 7)
    y[3, 2] = value
    found = measured(name, [(x, y)])
    assert found[0, 0] == 1
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("name", INDICES)
def test_the_order_of_images_has_no_part(name):
    """Also where distances are the same: points of a coarse grid, some of them more than once."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randint(0, 3, (30, 3), generator=generator).float()
    y = x + torch.randint(0, 2, (30, 3), generator=generator).float()
    order = torch.randperm(30, generator=generator)
    # A multiple of the number of images, so that all means and distances are whole: nothing is rounded.
    x, y = 30 * x, 30 * y
    found, other = measured(name, [(x, y)]), measured(name, [(x[order], y[order])])
    np.testing.assert_allclose(found, other, atol=1e-10)


def test_images_at_the_same_distance_share_the_places():
    """Of 24 images 12 lie in one point and 12 in another: 11 of them have 10 places among them."""
    x = torch.tensor([[0.0]] * 12 + [[8.0]] * 12)
    centred = x - x.mean(0)
    found = INDICES["knn"].represent((centred @ centred.T).double()[None])[0]
    found.fill_diagonal_(0)
    torch.testing.assert_close(found.sum(1), torch.full((24,), 10.0).double())
    assert torch.allclose(found[0, 1:12], torch.tensor(10 / 11).double())
    assert not found[:12, 12:].any()


def test_most_images_being_the_same_leaves_the_narrowest_kernel():
    x = torch.zeros(9, 2, dtype=torch.float64)
    x[7], x[8] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])
    gram = (x - x.mean(0)) @ (x - x.mean(0)).T
    gram = torch.as_tensor(np.round(gram.numpy() * 81) / 81)
    found = INDICES["cka-rbf"].matrices(gram[None], torch.ones(1, 9))[0]
    same = (torch.arange(9) < 7).double()
    expected = hsic.u_centre(torch.outer(same, same), torch.ones(9))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", INDICES)
def test_unrelated_layers_lie_on_both_sides_of_nothing(name):
    """Each number scatters by less than 0.2 about 0, the mean of 60 by less than 0.03: 4 of those."""
    generator = torch.Generator().manual_seed(9)
    values = [
        measured(name, [torch.randn(2, 24, 12, generator=generator).unbind()])[0, 1]
        for _ in range(60)
    ]
    assert np.std(values) < 0.2
    assert abs(np.mean(values)) < 4 * np.std(values) / 60**0.5
    assert min(values) < 0 < max(values)


def test_names_choose_in_the_order_of_the_table_and_the_first_is_always_there():
    def names(text):
        return [index.quantity.name for index in chosen(text)]

    assert names("cka") == ["cka"]
    assert names("knn, rsa") == names("rsa,cka,knn") == ["cka", "rsa", "knn"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("knnn", "unknown --index 'knnn'; choose from cka, cka-cosine, cka-rbf, rsa, knn"),
        ("", "unknown --index ''"),
        ("rsa,knn,rsa", "--index names rsa twice"),
    ],
)
def test_other_names_are_refused(text, message):
    with pytest.raises(rc.LayerError, match=message):
        chosen(text)


def test_a_label_says_of_which_batches_the_number_is():
    assert INDICES["knn"].described(64).label == "10-NN overlap (batches of 64)"
    assert INDICES["rsa"].described(64) == INDICES["rsa"].quantity


def test_batches_too_small_for_neighbours_are_refused():
    assert INDICES["knn"].described(20)
    with pytest.raises(
        rc.DataError, match=r"knn takes batches of at least 20 images, and the .*19"
    ):
        INDICES["knn"].described(19)


def analysed(**options):
    module = runs.seeded(pathological.InplaceReLU)
    subject = runs.subject(module, ["fc1", "fc2"], preprocessing=runs.sized(4))
    return runs.run(subject, runs.inputs(52), batch_size=20, smoothing="none", **options)


def test_a_run_measures_them_in_one_pass_and_in_parts_that_add_up():
    names = ",".join(INDICES)
    whole, alone = analysed(index=names), analysed()
    assert whole.indices == tuple(INDICES)
    np.testing.assert_array_equal(whole.cka(), alone.cka())
    parts = [analysed(index=names, shard=(part, 2)) for part in (1, 2)]
    merged = rc.merge(parts)
    for name in INDICES:
        one, two = whole.similarity(name), merged.similarity(name)
        np.testing.assert_allclose(one.values, two.values, rtol=1e-12)
        np.testing.assert_allclose(one.se, two.se, rtol=1e-9, atol=1e-12)
        assert np.isfinite(one.se).all()
        assert 0 <= whole.p_values(index=name)[0, 1] <= 1


def test_parts_with_other_indices_do_not_merge():
    with pytest.raises(rc.ResultError, match="rsa of indices differs"):
        rc.merge([analysed(shard=(1, 2)), analysed(shard=(2, 2), index="rsa")])
