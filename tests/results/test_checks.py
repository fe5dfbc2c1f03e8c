"""Numbers that no run can have made are refused by what they are said to be."""

from __future__ import annotations

import functools
import itertools
import math

import h5py
import numpy as np
import pytest

from refiner_cka.errors import ResultError
from refiner_cka.results import load
from refiner_cka.results.checks import check_quantities, check_sums
from refiner_cka.sums import FOLDS, Layer, Quantity
from tests.results.files import edited, refusal
from tests.synthetic import synthetic_result, with_smoothing

CKA = "similarity/cka"
PRODUCTS = f"{CKA}/products"


@pytest.mark.parametrize(
    ("path", "place", "value", "told"),
    [
        (PRODUCTS, (1, 2), lambda old: 1.01 * old, "products is not symmetric"),
        (PRODUCTS, ..., lambda old: old * np.arange(7), "is not symmetric"),
        (PRODUCTS, (2, 1), math.nan, "is not symmetric"),
        (PRODUCTS, (2, 2), lambda old: -old, "a negative product of a layer"),
        (f"{CKA}/removed", (3, 1, 2), lambda old: 1.01 * old, "removed is not symmetric"),
        (f"{CKA}/removed", (3, 2, 2), lambda old: -old, "removed holds a negative product"),
        (f"{CKA}/variance", (2, 2), lambda old: -old, "variance holds a negative product"),
        (f"{CKA}/third", (1, 2), lambda old: old + 1, "third is not symmetric"),
        (f"{CKA}/fourth", (2, 2), lambda old: -old, "fourth holds a negative product"),
        ("cka", (1, 2), lambda old: old + 1e-6, "cka does not follow from similarity"),
        ("images", 3, -1.0, "images is not a count"),
        ("images", 3, math.nan, "images is not a count"),
        ("batches", 3, 2, "holds a batch twice"),
        ("batches", -1, 40, "does not have"),
        ("batches", 0, -1, "does not have"),
        ("batch_images", 3, 17, "17 images in batch 3, for which 16"),
        ("batch_images", 3, -1, "batch_images counts -1 images"),
        ("batch_images", 3, 15, "640 images in the sums where their batches"),
        ("batch_planned", 3, 15, "16 images in batch 3, for which 15"),
        (
            "images",
            ...,
            lambda old: 2 * old,
            "1280 images in the sums where their batches have 640",
        ),
        ("images", slice(2), (31, 33), "images in fold 0 where its batches have 32"),
        ("image_digests", (3, 5), 0, "image_digests has others than one for each image"),
        ("image_digests", (3, slice(None)), 0, "image_digests has others than one for each"),
        ("top1/trials", 0, 641, "trials counts more images"),
        ("top1/hits", 0, -1, "top1/hits is not a count"),
        ("layers/depth", 0, math.nan, "layers/depth"),
    ],
)
def test_inconsistent_numbers(saved, path, place, value, told):
    with h5py.File(saved, "r+") as file:
        values = file[path][()]
        values[place] = value(values[place]) if callable(value) else value
        file[path][...] = values
    assert told in refusal(saved)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *itertools.product(["top1/hits", "top1/trials"], [-5.0, 1e9, math.nan, 0.5]),
        *itertools.product(["smoothing/patch_cosine/images"], [-1.0, 1e9, math.nan, 0.5]),
        *itertools.product(["smoothing/attention_block_similarity/images"], [-1.0, 1e9]),
    ],
)
def test_sums_that_no_run_can_have_made_are_refused_by_what_they_are(measured, path, value):
    with edited(measured) as file:
        file[path][(0,) * file[path].ndim] = value
    assert path.split("/")[1] in refusal(measured)


@pytest.mark.parametrize(
    "name", ["top1/hits", f"{CKA}/removed", f"{CKA}/fourth", "smoothing/patch_cosine/total"]
)
def test_a_sum_that_is_missing_is_named(measured, name):
    with edited(measured) as file:
        del file[name]
    assert f"{name} is missing" in refusal(measured)


def test_numbers_where_nothing_was_measured_are_refused(measured):
    """A layer without tokens has no over-smoothing, and says so."""
    with edited(measured) as file:
        file["smoothing/rank_collapse"].attrs["absent"] = "[1]"
    assert "rank_collapse/total holds numbers where nothing was measured" in refusal(measured)
    with edited(measured) as file:
        for part in ("total", "images"):
            file[f"smoothing/rank_collapse/{part}"][:, 1] = 0
    assert np.isnan(load(measured).smoothing("rank_collapse").values).tolist() == [0, 1, 0, 0, 0, 0]
    with edited(measured) as file:
        file["smoothing/rank_collapse"].attrs["absent"] = "[6]"
    assert "absent where its axis has no place" in refusal(measured)


def test_what_is_measured_of_pairs_has_no_course_to_compare(measured):
    result = load(measured)
    for ask in (result.smoothing_change, functools.partial(result.smoothing_contrast, other="b")):
        with pytest.raises(ResultError, match="attention_block_similarity is of pairs"):
            ask("attention_block_similarity", model="a")


def test_every_array_has_a_place_of_its_own_in_the_file():
    axes = {"layers": (Layer("m", "p", "all", 0, 1.0),)}
    known = Quantity("known", "a/b", "mean", ("layers",))

    def check(path, **more):
        check_quantities([known, Quantity("new", path, "mean", ("layers",))], {**axes, **more})

    check("a/c")
    check("ab")
    for path in ("a/b", "a", "a/b/total", "layers", "images", "provenance/x", "x", "models"):
        with pytest.raises(ResultError, match="that of something else"):
            check(path, x=())
    for path in ("", "/x", "x/", "x//y", "../x", "x/./y", "x\0y"):
        with pytest.raises(ResultError, match="is no path in the file"):
            check(path)
    with pytest.raises(ResultError, match="'models' is no path"):
        check("x", models=())


def test_a_count_is_bounded_in_each_fold_or_where_it_has_none_as_a_whole():
    images = np.zeros(FOLDS)
    images[0] = 8
    mean = Quantity("m", "m", "mean", ("layers",))
    share = Quantity("s", "s", "share", ("layers",))

    def check(in_folds, trials):
        counts = np.zeros((FOLDS, 1))
        counts[:2, 0] = in_folds
        one = np.full(1, float(trials))
        sums = {"images": images, "m/total": counts, "m/images": counts}
        sums |= {"s/hits": one, "s/trials": one}
        check_sums(sums, [mean, share], {"layers": 1, "folds": FOLDS})

    check([8, 0], 8)
    for in_folds, trials, told in (
        ([4, 4], 8, "m/images counts more images"),
        ([9, 0], 8, "m/images counts more images"),
        ([8, 0], 9, "s/trials counts more images"),
        ([4.5, 0], 8, "m/images is not a count"),
    ):
        with pytest.raises(ResultError, match=told):
            check(in_folds, trials)


def test_where_features_are_constant_or_not_finite_products_may_be_anything():
    """Rounding of nothing, or an overflow, is not damage: nothing is made of it."""
    quantity = Quantity("cka", "similarity/cka", "cosine", ("layers", "layers"))

    def check(own, cross, back):
        products = np.array([[4.0, 1.0, cross], [1.0, 9.0, 1.0], [back, 1.0, own]])
        names = ("products", "variance", "third", "fourth")
        sums = {quantity.sum(name): products for name in names}
        sums |= {"images": np.ones(FOLDS), quantity.sum("removed"): np.stack([products] * FOLDS)}
        check_sums(sums, [quantity], {"layers": 3, "folds": FOLDS})

    for own in (0.0, np.inf, np.nan):
        for cross in (1e-30, -1e-30, np.nan, np.inf):
            check(own, cross, cross)
    with pytest.raises(ResultError, match="is not symmetric"):
        check(4.0, 1.0, 1.0 + 1e-6)
    with pytest.raises(ResultError, match="is not symmetric"):
        check(4.0, np.nan, 1.0)
    with pytest.raises(ResultError, match="negative product"):
        check(-1e-3, 0.0, 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models", "true"),
        ("models", '[{"label": "a"}]'),
        ("models", '[{"name": "a", "origin": "random"}]'),
        ("images", '{"count": "many"}'),
        ("identity", '["seed", []]'),
        ("left_out", "none"),
        ("fingerprint_of_images", '{"whole": false}'),
        ("notes", '{"a": ["one"]}'),
        ("faint_parameters", "of a"),
        ("training", '{"a": {"run": "last", "time": ["first"]}}'),
    ],
)
def test_a_record_of_another_form_than_a_run_makes_is_refused(saved, key, value):
    """It would fail where it is read, in the summary or a figure."""
    with edited(saved) as file:
        file["provenance"].attrs[key] = value
    assert f"{key} in provenance is not what a run records there" in refusal(saved)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda of: of.smoothing("patch_cosin"), r"was not measured: did you mean patch_cosine\?"),
        (lambda of: of.curve("vit_s", index="rsa"), "choose among cka, .* again with --index"),
        (lambda of: of.similarity("token_norm"), "no similarity index: choose among cka$"),
        (lambda of: of.curve("vit_s", index="top1"), "no similarity index: choose among cka$"),
        (lambda of: of.smoothing("cka"), "'cka' is no measure of images: choose among patch_"),
        (lambda of: of.smoothing("top1", "vit_s"), "'top1' is no measure of images"),
        (lambda of: of.smoothing_change("cka", "vit_s"), "'cka' is no measure of images"),
    ],
)
def test_a_question_of_the_wrong_kind_says_what_can_be_asked(ask, told):
    with pytest.raises(ResultError, match=told):
        ask(with_smoothing(synthetic_result(batches=4)))
