"""Each token measure against float64 written from its definition with all pairs, and in closed-form cases.

Tolerance 2e-5: a cosine of float32 tokens carries a few eps (1.2e-7) for each of up to 100 tokens' sums.
"""

import itertools

import numpy as np
import pytest
import timm
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.measures import directions, scaling, smoothing
from refiner_cka.measures import tokens as token_module
from refiner_cka.measures.smoothing import MEASURES
from refiner_cka.measures.tokens import Tokens
from refiner_cka.subjects.hooks import first_outputs
from refiner_cka.sums import FOLDS, fold_of
from tests.analysis import runs
from tests.analysis.runs import seeded

TOLERANCE = 2e-5
GRID = (3, 4)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def mean_pair_cosine(x):
    x = [token for token in x if token.any()]
    return np.mean([cosine(a, b) for a, b in itertools.permutations(x, 2)])


def between_images(x):
    """Mean over pairs of images of the mean cosine of their tokens."""
    return np.mean(
        [
            np.mean([[cosine(p, q) for q in b] for p in a])
            for a, b in itertools.permutations(list(x), 2)
        ]
    )


def effective_rank(x):
    values = np.linalg.svd(x, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return np.exp(-(shares * np.log(shares)).sum())


def dirichlet(x):
    """Both ends of every edge of the grid, one by one."""
    rows, columns = GRID
    x = x.reshape(rows, columns, -1)
    total = 0.0
    for i, j in itertools.product(range(rows), range(columns)):
        if i + 1 < rows:
            total += ((x[i, j] - x[i + 1, j]) ** 2).sum()
        if j + 1 < columns:
            total += ((x[i, j] - x[i, j + 1]) ** 2).sum()
    return total / (x**2).sum()


def centred_cosine(x):
    """Mean pair cosines of tokens without the batch's mean token, and what each image moves these by through it.

    The derivative to the mean token m of the mean of cos(a - m, b - m) over all pairs of an image's tokens, and of
    that the mean over images, is written out pair by pair. A token is taken away first: with offsets of 10^6
    float64 too rounds the mean by more than 10^-10.
    """
    x = x - x[-1, 1]
    deviations = x.mean(1) - x.mean((0, 1))
    x = x - x.mean((0, 1))
    slopes = []
    for image in x:
        sizes = np.linalg.norm(image, axis=1)
        units = image / sizes[:, None]
        pairs = itertools.permutations(range(len(units)), 2)
        slopes.append(
            np.mean(
                [
                    ((units[i] @ units[j]) * units[i] - units[j]) / sizes[i]
                    + ((units[i] @ units[j]) * units[j] - units[i]) / sizes[j]
                    for i, j in pairs
                ],
                axis=0,
            )
        )
    return of_each(mean_pair_cosine)(x) + deviations @ np.mean(slopes, axis=0)


def massive_activation(x):
    sizes = np.sort(np.abs(x).ravel())
    return sizes[-3:].mean() / np.median(sizes) if np.median(sizes) else np.nan


def variance_within(x):
    """Squares within each image; and with what the variance of mean tokens, times all tokens, owes to it."""
    x = x - x[-1, 1]
    within = np.array([((image - image.mean(0)) ** 2).sum() for image in x])

    def between(images):
        return images.shape[0] * images.shape[1] * images.mean(1).var(0, ddof=1).sum()

    owed = [between(x) - between(np.delete(x, image, axis=0)) for image in range(len(x))]
    return np.stack([within, within + owed])


def class_token(x):
    """A class token for tokens without: one of them, so that it is of any size that they are."""
    return x[:, 2]


def of_each(function):
    return lambda x: np.array([function(image) for image in x])


ORACLES = {
    "patch_cosine": of_each(mean_pair_cosine),
    "patch_cosine_centred": centred_cosine,
    "rank_collapse": of_each(lambda x: np.linalg.norm(x - x.mean(0)) / np.linalg.norm(x)),
    "frequency_ratio": of_each(
        lambda x: np.linalg.norm(x - x.mean(0)) / np.linalg.norm(np.tile(x.mean(0), (len(x), 1)))
    ),
    "effective_rank": of_each(effective_rank),
    "dirichlet_energy": of_each(dirichlet),
    "token_norm": of_each(lambda x: np.mean([np.sqrt((t**2).sum()) for t in x])),
    "token_norm_ratio": of_each(
        lambda x: np.linalg.norm(x, axis=1).max() / np.median(np.linalg.norm(x, axis=1))
    ),
    "outlier_tokens": of_each(
        lambda x: np.mean(np.linalg.norm(x, axis=1) > 3 * np.median(np.linalg.norm(x, axis=1)))
    ),
    "massive_activation": of_each(massive_activation),
    "cls_patch_cosine": lambda x: np.array(
        [
            np.mean([cosine(token, cls) for token in image])
            for image, cls in zip(x, class_token(x), strict=True)
        ]
    ),
    "within_image_variance": variance_within,
}


def tokens(kind, images=6, dim=20):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, GRID[0] * GRID[1], dim, generator=generator)
    return {"normal": x, "relu": x.relu(), "offset": x + 10}[kind]


def measured(name, x, chunks=1):
    found = Tokens(list(torch.chunk(x, chunks)), GRID, len(x), class_token(x))
    return MEASURES[name].function(found).numpy()


def test_every_measure_has_an_oracle():
    assert set(ORACLES) | {"patch_cosine_between"} == set(MEASURES)


@pytest.mark.parametrize("kind", ["normal", "relu", "offset"])
@pytest.mark.parametrize("name", ORACLES)
def test_measures_equal_float64(name, kind):
    x = tokens(kind)
    expected = ORACLES[name](x.double().numpy())
    np.testing.assert_allclose(measured(name, x), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(params=["as on a CPU", "as on an accelerator"])
def way(request, monkeypatch):
    """A CPU asks whether numbers need scaling; an accelerator, which would wait for the answer, scales all."""
    if request.param == "as on an accelerator":
        for module in (scaling, token_module):
            monkeypatch.setattr(module, "are_ordinary", lambda _sizes: False)
        for module in (scaling, token_module, smoothing):
            monkeypatch.setattr(module, "lengths", scaling._scaled_lengths)


def check(name, x):
    exact = x.double().numpy()
    found = measured(name, x)
    if name == "patch_cosine_between":
        assert found.mean() == pytest.approx(between_images(exact), abs=TOLERANCE)
    else:
        expected = ORACLES[name](exact)
        # What an image moves a mean cosine by may cancel its own: what is left rounds like terms of about 1. And
        # the variance of mean tokens owes nothing to others where one image is far away.
        tolerances = {
            "patch_cosine_centred": 1e-6,
            "within_image_variance": TOLERANCE * np.abs(expected).max(),
        }
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=tolerances.get(name, 0))


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 3e-23, 1e-18, 1e18, 1e20, 5e37])
@pytest.mark.parametrize("name", MEASURES)
def test_features_of_any_size(name, scale, way):
    check(name, tokens("offset") / 16 * scale)
    check(name, tokens("relu") * scale)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.bfloat16, 1e-30), (torch.bfloat16, 1e20), (torch.float16, 1e-3), (torch.float16, 1e3)],
)
def test_features_of_any_size_in_half_precision(name, dtype, scale, way):
    check(name, (tokens("relu") * scale).to(dtype))


@pytest.mark.parametrize("name", MEASURES)
def test_the_largest_features_of_both_signs(name):
    """Their differences, sums, squares and lengths are beyond float32."""
    check(name, torch.where(tokens("normal") > 0, 3.4e38, -3.4e38) * (1 - tokens("relu") / 9))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("size", [1e-30, 1e20])
@pytest.mark.parametrize("what", ["image", "token"])
def test_one_image_or_token_of_another_size(name, size, what, way):
    """At each place from which a reference may be taken."""
    for place in [(0, 0), (3, 6), (5, 11), (2, 2)]:
        x = tokens("relu") + 0.1
        x[place if what == "token" else place[0]] *= size
        check(name, x)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("outlier", [None, (0, 0), (3, 6), (5, 11)])
def test_what_all_tokens_share_costs_no_digits(name, offset, outlier):
    """What float32 keeps of the features is measured to its own rounding, not to that of the offset."""
    x = tokens("normal") + offset * torch.linspace(0.5, 1.5, 20)
    if outlier is not None:
        x[outlier] *= -3
    check(name, x)


@pytest.mark.parametrize("size", [1, 1e3])
def test_variance_within_images_without_an_image_is_that_of_the_others(size):
    """What the others add up to, also where one image is far away, is what they amount to alone."""
    x = tokens("normal")
    x[2] *= size
    parts, wholes = measured("within_image_variance", x)
    part, whole = measured("within_image_variance", x[[0, 1, 3, 4, 5]])
    assert parts.sum() - parts[2] == pytest.approx(part.sum(), rel=1e-5)
    assert wholes.sum() - wholes[2] == pytest.approx(whole.sum(), rel=1e-5)


def test_variance_within_images_is_that_of_the_population_whatever_the_batch_size():
    """Tokens vary by 1 and mean tokens by as much again: N - 1 of N parts in two, N + 1, are within images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 12, 3, generator=generator) + torch.randn(
        60_000, 1, 3, generator=generator
    )
    for batch_size in (4, 100):
        found = [measured("within_image_variance", batch) for batch in x.split(batch_size)]
        part, whole = np.sum(found, axis=(0, 2))
        assert part / whole == pytest.approx(11 / (11 + 12 + 1), abs=0.003)


def test_values_of_the_centred_cosine_are_its_derivatives_to_the_weights_of_images():
    """An image's value is the measure of the batch, and what moves it as the image is given more weight."""
    x = tokens("relu").double().numpy()

    def of_batch(weights):
        weights = weights / weights.sum()
        centred = x - np.einsum("i,itd->d", weights, x) / 12
        return weights @ of_each(mean_pair_cosine)(centred)

    step, ones = 1e-5, np.ones(6)
    slopes = [
        (of_batch(ones + step * unit) - of_batch(ones - step * unit)) / (2 * step)
        for unit in np.eye(6)
    ]
    # The differences' own error is of step^2, and of 1e-16 / step.
    expected = of_batch(ones) + 6 * np.array(slopes)
    found = measured("patch_cosine_centred", tokens("relu"))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_derivative_of_a_centred_cosine_is_that_of_autograd():
    x = tokens("relu")
    x[2, 5] = 0  # has a direction once the mean is taken away
    mean = x.double().mean((0, 1)).requires_grad_()
    units = torch.nn.functional.normalize(x.double() - mean, dim=2)
    values = (units.sum(1).square().sum(1) - 12) / (12 * 11)
    expected = torch.stack([torch.autograd.grad(v, mean, retain_graph=True)[0] for v in values])
    found = Tokens([x], GRID)
    gradients = found.centred_gradients / found.typical_deviation
    torch.testing.assert_close(gradients.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["normal", "relu", "offset", "some without a value"])
def test_what_is_added_for_the_mean_token_leaves_the_batch_mean_as_it_is(kind):
    """Also where images without a value have a part in the mean token."""
    x = tokens("relu" if kind == "some without a value" else kind)
    if kind == "some without a value":
        # Whole numbers with mean 0; of two images all tokens but one are that mean, and have no direction.
        x = 12 * (4 * x).round()
        x[1], x[4], x[0, 0], x[2, 6] = 0, 0, 0, 0
        x[1, 3], x[4, 3] = 60, 120
        x[5] = -x[:5].sum(0)
    found = Tokens([x], GRID)
    plain = directions.mean_cosine(*found.centred_directions).numpy()
    values = measured("patch_cosine_centred", x)
    without = [1, 4] if kind == "some without a value" else []
    assert np.flatnonzero(np.isnan(values)).tolist() == without
    assert np.nanmean(values) == pytest.approx(np.nanmean(plain), abs=1e-6)
    assert np.nanmax(np.abs(values - plain)) > 1e-4


@pytest.mark.parametrize("constant", [1e3, 1e8, 1e30])
def test_a_feature_that_all_tokens_share_exactly_hides_no_others(constant, way):
    x = tokens("normal")
    expected = ORACLES["patch_cosine_centred"](x.double().numpy())
    x = torch.cat([x, torch.full_like(x[..., :1], constant)], 2)
    np.testing.assert_allclose(measured("patch_cosine_centred", x), expected, atol=TOLERANCE)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_tokens_that_differ_by_rounding_have_no_centred_direction(scale, way):
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(20, generator=generator)
    rounding = 1 + torch.randn(6, 12, 20, generator=generator) * torch.finfo(torch.float32).eps / 2
    values = measured("patch_cosine_centred", constant * rounding * scale)
    assert np.isnan(values).all()


@pytest.mark.parametrize("kind", ["normal", "relu", "offset"])
def test_cosine_between_images_and_its_error(kind):
    """Each image's number is its jackknife pseudo-value, from leaving the image out."""
    x = tokens(kind)
    exact = x.double().numpy()
    values = measured("patch_cosine_between", x)
    everything = between_images(exact)
    assert values.mean() == pytest.approx(everything, abs=TOLERANCE)
    n = len(x)
    pseudo = [
        n * everything - (n - 1) * between_images(np.delete(exact, k, axis=0)) for k in range(n)
    ]
    np.testing.assert_allclose(values, pseudo, atol=10 * TOLERANCE)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("layout", ["chunks", "channels first", "blocks"])
def test_neither_chunks_nor_memory_formats_nor_blocks_change_a_value(name, layout, monkeypatch):
    x = tokens("offset")
    expected = measured(name, x)
    if layout == "channels first":
        x = x.mT.contiguous().mT
    if layout == "blocks":
        monkeypatch.setattr(token_module, "block_bytes", lambda _device: 2000)
    found = measured(name, x, chunks=4 if layout == "chunks" else 1)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_identical_tokens():
    x = torch.full((4, 1, 5), 2.0).expand(4, 12, 5).clone()
    assert measured("patch_cosine", x) == pytest.approx(1.0, abs=1e-6)
    assert measured("patch_cosine_between", x) == pytest.approx(1.0, abs=1e-6)
    assert measured("rank_collapse", x).tolist() == [0.0] * 4
    assert measured("frequency_ratio", x).tolist() == [0.0] * 4
    assert measured("dirichlet_energy", x).tolist() == [0.0] * 4
    assert measured("effective_rank", x) == pytest.approx(1.0, abs=1e-6)
    assert measured("token_norm", x) == pytest.approx(np.sqrt(20), rel=1e-6)
    assert measured("token_norm_ratio", x) == pytest.approx(1.0, abs=1e-6)
    assert measured("outlier_tokens", x).tolist() == [0.0] * 4
    assert measured("massive_activation", x) == pytest.approx(1.0)
    assert measured("cls_patch_cosine", x) == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(measured("within_image_variance", x)).all()
    # Nothing is left of them without their mean: no direction, so undefined, and not a cosine of rounding.
    assert np.isnan(measured("patch_cosine_centred", x)).all()


def test_constant_tokens_of_awkward_numbers_have_no_centred_direction():
    x = torch.randn(7, generator=torch.Generator().manual_seed(1)).expand(5, 12, 7).clone()
    assert np.isnan(measured("patch_cosine_centred", x)).all()


def test_variance_within_images_of_images_of_one_colour_and_of_images_alike():
    alike = tokens("normal")[:1].expand(5, -1, -1).clone()
    part, whole = measured("within_image_variance", alike)
    assert whole == pytest.approx(part, rel=1e-6)
    of_one_colour = tokens("normal")[:, :1].expand(-1, 12, -1).clone()
    part, whole = measured("within_image_variance", of_one_colour)
    assert part.tolist() == [0.0] * 6
    assert whole.sum() > 0


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"dirichlet_energy"}))
@pytest.mark.parametrize("dim", [1, 20])
def test_a_single_token_or_number_is_measured_or_undefined(name, dim):
    """The meter leaves such layers out; a measure itself gives a number or NaN, and no error."""
    x = torch.randn(5, 1, dim, generator=torch.Generator().manual_seed(0))
    values = MEASURES[name].function(Tokens([x], None, 5, x[:, 0])).numpy()
    assert values.shape == ((2, 5) if name == "within_image_variance" else (5,))
    if name in ("patch_cosine", "patch_cosine_centred"):
        assert np.isnan(values).all()
    if name == "cls_patch_cosine":
        assert values == pytest.approx(1.0)


def test_orthogonal_tokens():
    x = 3 * torch.eye(12).expand(4, 12, 12).clone()
    assert measured("patch_cosine", x) == pytest.approx(0.0, abs=1e-6)
    assert measured("patch_cosine_between", x) == pytest.approx(1 / 12, abs=1e-6)
    assert measured("rank_collapse", x) == pytest.approx(np.sqrt(11 / 12), abs=1e-6)
    assert measured("frequency_ratio", x) == pytest.approx(np.sqrt(11), rel=1e-6)
    assert measured("effective_rank", x) == pytest.approx(12, rel=1e-6)
    assert measured("patch_cosine_centred", x) == pytest.approx(-1 / 11, abs=1e-6)
    # 17 edges of a 3 x 4 grid, each the squared distance 2 of two unit vectors, over 12 of them.
    assert measured("dirichlet_energy", x) == pytest.approx(17 * 2 / 12, rel=1e-6)


def test_an_outlier_token_shows_in_the_norms():
    x = torch.ones(4, 12, 4)
    x[:, 5] *= 50
    assert measured("token_norm_ratio", x) == pytest.approx(50.0)
    assert measured("outlier_tokens", x) == pytest.approx(1 / 12)
    assert measured("massive_activation", x) == pytest.approx(50.0)
    x[:, :6] *= 50  # half of them: then the median is in between, and none is an outlier
    x[:, 5] /= 50
    assert measured("outlier_tokens", x).tolist() == [0.0] * 4


def test_a_zero_token_has_no_part_in_a_cosine():
    """A dead position after a ReLU: without the rule its 0/0 takes the whole layer with it."""
    x = tokens("normal")
    x[:, 3] = 0
    expected = ORACLES["patch_cosine"](np.delete(x.double().numpy(), 3, axis=1))
    np.testing.assert_allclose(measured("patch_cosine", x), expected, atol=TOLERANCE)


def test_an_image_of_zeros_is_undefined_and_spoils_no_other():
    x = tokens("normal")
    whole = {name: measured(name, x[1:]) for name in MEASURES}
    x[0] = 0
    for name in set(MEASURES) - {"token_norm", "patch_cosine_centred", "within_image_variance"}:
        values = measured(name, x)
        assert np.isnan(values[0])
        np.testing.assert_allclose(values[1:], whole[name], rtol=1e-5, atol=1e-5)
    assert measured("token_norm", x)[0] == 0


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("name", ["patch_cosine", "rank_collapse", "token_norm"])
def test_half_precision_tokens_stay_within_their_rounding(name, dtype, unit):
    """Rounding to nearest moves a token by at most `unit` of its length, so turns it by as much.

    A cosine of two tokens moves by at most twice that, and so does a ratio of norms, relatively; a norm by once.
    """
    x = tokens("offset")
    half = x.to(dtype)
    exact, rounded = measured(name, x), measured(name, half)
    assert np.abs(rounded / exact - 1).max() < 2 * unit * max(1, 1 / exact.min())
    # And the measure itself computes in float32: it equals that of the rounded tokens.
    np.testing.assert_allclose(rounded, measured(name, half.float()), rtol=1e-6)


class Blocks(nn.Module):
    """Blocks whose outputs lie as asked: class token and patches, or a grid of either kind."""

    def __init__(self, spatial="nlc", prefix=1, depth=3, dim=16):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.views = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.spatial, self.prefix = spatial, prefix

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        for block, view in zip(self.blocks, self.views, strict=True):
            x = x + block(x).tanh()
            flat = x.flatten(1, 2)
            given = {
                "nlc": torch.cat([5 + flat[:, : self.prefix] * 0, flat], 1),
                "nhwc": x,
                "nchw": x.permute(0, 3, 1, 2),
            }
            view(given[self.spatial])
        return x.mean((1, 2))


VIEWS = ["views.0", "views.1", "views.2"]


def error(values):
    """Standard error of a mean of values in the order of a run, each fold of images left out in turn."""
    folds = fold_of(np.arange(len(values)))
    means = [values[folds != fold].mean() for fold in range(FOLDS)]
    return np.sqrt((FOLDS - 1) * np.var(means))


def subject(module, layers=VIEWS, name="model", **kwargs):
    return runs.subject(module, layers, name, **{"preprocessing": runs.sized(16), **kwargs})


def images(count=40, size=16):
    return runs.inputs(count, size)


def run(subjects, data=None, **kwargs):
    return runs.run(subjects, images() if data is None else data, **{"batch_size": 8, **kwargs})


def prepare(subjects, data, **kwargs):
    return runs.prepare(subjects, data, **{"batch_size": 8, **kwargs})


def number(values):
    """The mean over images, or the parts of all over their wholes."""
    return values.mean() if values.ndim == 1 else values[0].sum() / values[1].sum()


def leaving_out_folds(values):
    """The jackknife error of the number of the first images of a run."""
    folds = fold_of(np.arange(values.shape[-1]))
    left = np.array([number(values[..., folds != fold]) for fold in range(20)])
    return np.sqrt(19 / 20 * ((left - left.mean()) ** 2).sum())


@pytest.mark.parametrize(
    ("spatial", "stated"),
    [
        ("nlc", {"prefix_tokens": 1}),
        ("nchw", {"layout": "nchw"}),
        ("nhwc", {"layout": "nhwc"}),
        ("nlc", {}),
        ("nchw", {}),
        ("nhwc", {}),
    ],
)
def test_the_whole_way_of_layouts_and_prefix_tokens(spatial, stated):
    """The same patches, however they lie: one class token more must not count."""
    module = seeded(Blocks, spatial)
    data = images()
    result = run(subject(module, **stated), data, smoothing="all")
    kept = []
    handle = module.views[1].register_forward_hook(lambda _m, _i, output: kept.append(output))
    analysis = prepare(subject(module, **stated), data, smoothing="all")
    with torch.inference_mode():
        for batch in analysis.plan.batches:
            module(data[list(batch)])
    handle.remove()
    elsewhere = {"effective_rank", "patch_cosine_between", "dirichlet_energy", "cls_patch_cosine"}
    for name in set(MEASURES) - elsewhere:
        values = []
        for output in kept[-5:]:
            patches = output.double().numpy()
            if spatial == "nlc":
                patches = patches[:, 1:]
            if spatial == "nchw":
                patches = patches.transpose(0, 2, 3, 1)
            values.append(ORACLES[name](patches.reshape(len(patches), 16, -1)))
        values = np.concatenate(values, -1)
        found = result.smoothing(name, "model")
        assert found.values[1] == pytest.approx(number(values), abs=TOLERANCE)
        assert found.se[1] == pytest.approx(leaving_out_folds(values), rel=1e-3)


@pytest.mark.parametrize(
    ("spatial", "stated", "message"),
    [
        ("nlc", {"prefix_tokens": 0}, "do without 1: give prefix_tokens=1"),
        ("nhwc", {"layout": "nchw"}, "nhwc and not nchw.*give layout=nhwc"),
        ("nchw", {"layout": "nhwc"}, "nchw and not nhwc.*give layout=nchw"),
        ("nhwc", {"layout": "nlc"}, "\\(3, 4, 4, 32\\), which is not nlc"),
        ("nlc", {"layout": "nchw"}, "\\(3, 17, 32\\), which is not nchw"),
    ],
)
def test_a_wrong_statement_of_the_layout_is_caught_by_shape(spatial, stated, message):
    module = seeded(Blocks, spatial, dim=32)
    with pytest.raises(rc.LayerError, match=message):
        run(subject(module, **stated))
    with pytest.warns(rc.AnalysisWarning, match=message):
        result = run(subject(module, layers="views.*", **stated))
    assert np.isnan(result.smoothing("patch_cosine", "model").values).all()


def test_a_layer_without_tokens_is_left_out_openly():
    module = seeded(Blocks)
    by_default = run(subject(module, ["views.0", "embed"], prefix_tokens=1))
    assert np.isfinite(by_default.smoothing("patch_cosine", "model").values).all()

    class Pooled(Blocks):
        def forward(self, x):
            return self.views[2](self.embed(x).mean((2, 3)))

    pooled = subject(seeded(Pooled), ["embed", "views.2"])
    assert np.isnan(run(pooled).smoothing("patch_cosine", "model").values).tolist() == [False, True]
    with pytest.warns(rc.AnalysisWarning, match=r"views.2 returns \(3, 16\), not several tokens"):
        run(pooled, smoothing="patch_cosine")


def test_the_class_token_is_measured_where_there_is_one():
    """Not in a grid, nor where the tokens before the patches are registers alone."""

    class Mixed(Blocks):
        def forward(self, x):
            x = self.embed(x)
            self.views[0](x)
            x = x.flatten(2).mT
            self.views[1](torch.cat([x[:, :1] - x[:, 7:8], x], 1))
            return x.mean(1)

    data = images()
    with pytest.warns(
        rc.AnalysisWarning, match=r"views.0 has no class token; left out of the measures of"
    ):
        mixed = run(
            subject(seeded(Mixed), VIEWS[:2], prefix_tokens=1), data, smoothing="cls_patch_cosine"
        )
    found = mixed.smoothing("cls_patch_cosine", "model")
    with torch.inference_mode():
        x = seeded(Mixed).embed(data).flatten(2).mT.double().numpy()
    expected = [
        [cosine(token, cls) for token in i] for i, cls in zip(x, x[:, 0] - x[:, 7], strict=True)
    ]
    assert np.isnan(found.values[0])
    assert found.values[1] == pytest.approx(np.mean(expected), abs=TOLERANCE)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
    alone = {"class_token": False, "reg_tokens": 4, "global_pool": "avg"}
    registers = seeded(timm.create_model, "vit_tiny_patch16_224", **sizes, **alone)
    model = subject(registers, "block", preprocessing=runs.sized(32))
    result = run(model, images(8, 32), smoothing="all")
    assert np.isnan(result.smoothing("cls_patch_cosine", "model").values).all()
    assert np.isfinite(result.smoothing("patch_cosine", "model").values).all()


def test_a_class_token_that_is_not_finite_makes_its_measure_alone_undefined():
    module = seeded(Blocks)
    module.views[1].register_forward_hook(
        lambda _m, _i, output: torch.cat([output[:, :1] / 0, output[:, 1:]], 1)
    )
    with pytest.warns(rc.AnalysisWarning) as caught:
        result = run(subject(module, prefix_tokens=1), smoothing="cls_patch_cosine,patch_cosine")
    lines = [str(each.message) for each in caught if "over-smoothing" in str(each.message)]
    assert len(lines) == 1
    assert "views.1 is undefined" in lines[0]
    values = result.smoothing("cls_patch_cosine", "model").values
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.isfinite(result.smoothing("patch_cosine", "model").values).all()


def test_tokens_that_are_not_finite_make_the_layer_undefined_and_are_named():
    class Overflows(Blocks):
        def forward(self, x):
            x = super().forward(x)
            return self.blocks[0](torch.where(x > x.mean(), x / 0, x))

    module = seeded(Overflows, "nhwc")
    module.views[1] = nn.Sequential(nn.Identity())
    module.views[1].register_forward_hook(
        lambda _m, _i, output: output.masked_fill(output > 2, float("inf"))
    )
    with pytest.warns(rc.AnalysisWarning) as caught:
        result = run(subject(module, layout="nhwc"))
    lines = [str(entry.message) for entry in caught if "over-smoothing" in str(entry.message)]
    assert len(lines) == 1
    assert "model: over-smoothing of layer views.1 is undefined (NaN)" in lines[0]
    values = result.smoothing("patch_cosine", "model").values
    assert np.isnan(values).tolist() == [False, True, False]
    assert lines[0] in result.warnings


def test_the_batch_may_be_split_and_parts_merged():
    """Sums of whole batches: parts add up to the whole to the last digits."""
    module, data = seeded(Blocks), images(44)
    whole = run(subject(module, prefix_tokens=1), data, smoothing="all")
    parts = [
        run(subject(module, prefix_tokens=1), data, smoothing="all", shard=(index, 3))
        for index in (1, 2, 3)
    ]
    merged = rc.merge(parts)
    for name in whole.measures:
        one, other = whole.smoothing(name, "model"), merged.smoothing(name, "model")
        np.testing.assert_allclose(other.values, one.values, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(other.se, one.se, rtol=1e-9)
        np.testing.assert_array_equal(other.images, one.images)


def test_out_of_memory_changes_no_measure(monkeypatch):
    class Hungry(Blocks):
        def forward(self, x):
            if len(x) > 5:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    split = run(subject(seeded(Hungry), prefix_tokens=1), smoothing="all")
    whole = run(subject(seeded(Blocks), prefix_tokens=1), smoothing="all")
    for name in whole.measures:
        np.testing.assert_allclose(
            split.smoothing(name, "model").values,
            whole.smoothing(name, "model").values,
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )


def test_resuming_goes_on_with_the_sums():
    module, data = seeded(Blocks), images()
    analysis = prepare(subject(module, prefix_tokens=1), data, smoothing="all")
    whole = rc.measure(analysis)

    def stop(done, _total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(rc.Interrupted) as caught:
        rc.measure(analysis, progress=stop)
    resumed = rc.measure(analysis, resume=caught.value.result)
    for name, value in whole.sums.items():
        np.testing.assert_allclose(resumed.sums[name], value, rtol=1e-12, atol=1e-12)


def test_what_is_asked_for_is_part_of_the_fingerprint():
    model = subject(seeded(Blocks), prefix_tokens=1)
    asked = [None, "none", "all", "token_norm"]
    prepared = [prepare(model, images(), smoothing=names) for names in asked]
    assert len({analysis.fingerprint for analysis in prepared}) == len(asked)
    assert [each.name for each in prepared[1].quantities] == ["cka", "top1"]
    assert prepared[0].provenance["smoothing"]["effective_rank_images"] == 4


def test_none_measures_nothing_and_unknown_names_are_refused():
    model = subject(seeded(Blocks), prefix_tokens=1)
    result = run(model, smoothing="none")
    assert result.measures == ()
    assert not [name for name in result.sums if "smoothing" in name]
    with pytest.raises(rc.ResultError, match="'patch_cosine' was not measured"):
        result.smoothing("patch_cosine", "model")
    with pytest.raises(rc.LayerError, match="unknown --smoothing 'rank'; choose all, none or from"):
        run(model, smoothing="token_norm,rank")


def test_the_default_is_the_headline_first_and_cheap():
    assert smoothing.choose(None) == (
        "patch_cosine_centred",
        "patch_cosine",
        "effective_rank",
        "token_norm",
        "token_norm_ratio",
    )


def test_effective_rank_is_of_a_few_images():
    model = subject(seeded(Blocks), prefix_tokens=1)
    result = run(model, images(1060), batch_size=10)
    cosine = result.smoothing("patch_cosine", "model")
    rank = result.smoothing("effective_rank", "model")
    assert cosine.images.tolist() == [1060] * 3
    assert rank.images.tolist() == [smoothing.expensive_images(1060)] * 3 == [4, 4, 4]


def cosines_at_the_last_view(module, data):
    outputs, _ = first_outputs(
        module, [f"views.{len(module.views) - 1}"], lambda: module(data), lambda x: x.detach()
    )
    ((tokens,),) = outputs.values()
    return MEASURES["patch_cosine"].function(Tokens([tokens[:, module.prefix :]])).numpy()


def test_paired_errors_of_contrasts_and_changes_are_those_of_a_paired_test():
    """The jackknife over 20 groups against the textbook error of the mean difference over images."""
    first, second = seeded(Blocks), seeded(Blocks, depth=4)
    result = run(
        [
            subject(first, prefix_tokens=1, name="a"),
            subject(second, ["views.0", "views.3"], prefix_tokens=1, name="b"),
        ],
        images(120),
        batch_size=6,
    )
    a, b = (result.smoothing("patch_cosine", name) for name in "ab")
    contrast = result.smoothing_contrast("patch_cosine", "a", "b")
    assert contrast.depth.tolist() == [0.0, 0.5, 1.0]
    middle = b.values.mean()
    np.testing.assert_allclose(
        contrast.values, a.values - [b.values[0], middle, b.values[1]], atol=1e-12
    )
    one, other = (cosines_at_the_last_view(module, images(120)) for module in (first, second))
    textbook = (one - other).std(ddof=1) / np.sqrt(120)
    assert contrast.se[2] == pytest.approx(textbook, rel=0.5)
    change = result.smoothing_change("patch_cosine", "a")
    assert change.values[0] == pytest.approx(a.values[2] - a.values[0], abs=1e-12)


def test_half_precision_of_a_whole_model_stays_close():
    """Every layer's rounding turns tokens by up to 2^-8 (bf16); a cosine moves by at most twice their sum."""
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=64, depth=4)
    model = subject(module, "block", "vit", preprocessing=runs.sized(64))
    exact = run(model, images(16, 64))
    half = run(model, images(16, 64), precision="bf16")
    for name in ("patch_cosine", "patch_cosine_centred"):
        difference = half.smoothing(name, "vit").values - exact.smoothing(name, "vit").values
        assert 0 < np.abs(difference).max() < 2 * 4 * 2**-8


def test_a_saved_result_holds_values_and_errors_for_plain_h5py(tmp_path):
    import h5py

    result = run(subject(seeded(Blocks), prefix_tokens=1))
    result.save(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        for name in result.measures:
            expected = result.smoothing(name)
            np.testing.assert_array_equal(file[f"smoothing/{name}/values"], expected.values)
            np.testing.assert_array_equal(file[f"smoothing/{name}/se"], expected.se)
            assert file[f"smoothing/{name}"].attrs["about"] == MEASURES[name].quantity.about
    assert rc.load(tmp_path / "run.h5").measures == result.measures


@pytest.mark.parametrize("damage", ["shape", "missing"])
def test_damaged_sums_are_refused_in_one_line(tmp_path, damage):
    import h5py

    run(subject(seeded(Blocks), prefix_tokens=1)).save(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        path = "smoothing/token_norm/total"
        before = file[path][()]
        del file[path]
        if damage != "missing":
            file[path] = before[:, :2]
    with pytest.raises(rc.ResultFileError, match="the file is damaged"):
        rc.load(tmp_path / "run.h5")


def test_lengths_beyond_float32_reach_the_result():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.wide = nn.Conv2d(3, 20, 4, 4), nn.Identity()

        def forward(self, x):
            return self.wide(self.embed(x).sign() * 3e38)

    model = subject(seeded(Large), ["wide"], layout="nchw")
    result = run(model, smoothing="token_norm,patch_cosine")
    norm = result.smoothing("token_norm", "model")
    assert norm.values[0] == pytest.approx(3e38 * 20**0.5, rel=1e-6)
    assert np.isfinite(result.smoothing("patch_cosine", "model").values).all()
    assert not result.warnings
