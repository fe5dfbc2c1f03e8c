"""Whether two runs are the same within error, against errors and p-values taken by hand."""

import dataclasses
import json
import re

import numpy as np
import pytest
from scipy import stats

import refiner_cka as rc
from refiner_cka.sums import cosine
from tests.results.made import jackknife
from tests.synthetic import synthetic_result, with_smoothing

CKA = "similarity/cka"


@pytest.fixture(scope="module")
def run():
    return with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10))


@pytest.fixture(scope="module")
def others():
    """Other networks' numbers, said to be of the same images."""
    run = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10))
    other = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10, seed=1, unresolved=["a"]))
    return dataclasses.replace(other, image_digests=run.image_digests)


def with_sum(result, **changes):
    """The result with other sums, by path with `__` for `/`."""
    return dataclasses.replace(
        result, sums=result.sums | {path.replace("__", "/"): of for path, of in changes.items()}
    )


def shifted(run, by):
    """The run with the token norms of all images greater by so many of their standard errors."""
    path = "smoothing/token_norm"
    shift = by * run.smoothing("token_norm").se
    total = run.sums[f"{path}/total"] + shift * run.sums[f"{path}/images"]
    return with_sum(run, **{f"{path}/total": total})


def found_of(found, quantity):
    return next(each for each in found.compared if each.quantity == quantity)


def test_a_run_is_the_same_as_itself_to_the_last_bit(run):
    found = rc.diff(run, run)
    assert found.same
    assert found.paired
    # 21 pairs of 7 layers, 2 top-1, 5 measures of 7 layers, 5 of 7 blocks and one of their 49 pairs.
    assert found.verdict == "The same: all 142 numbers are identical to the last bit."
    assert (found.differences, found.changes, found.missing) == ((), (), ())


def test_rounding_is_no_difference_however_systematic(run):
    # Products with the last layer of `a` are greater by 1e-7 of themselves, in every fold alike.
    factor = np.ones((7, 7))
    factor[3, :3] = factor[:3, 3] = 1 + 1e-7
    noisy = {
        f"{CKA}/{part}": run.sums[f"{CKA}/{part}"] * factor for part in ("products", "removed")
    }
    found = rc.diff(run, with_sum(run, **noisy))
    assert found.same
    told = r"The same: 142 numbers, identical to \de-08, within \S+ of their standard error over images\."
    assert re.fullmatch(told, found.verdict)
    largest = found_of(found, "cka")
    values = run.cka()[3, :3]
    assert largest.largest == pytest.approx(1e-7 * values.max(), rel=1e-4)
    assert largest.in_errors < 1e-4


@pytest.mark.parametrize(("by", "same"), [(0.05, True), (0.5, False)])
def test_a_shift_counts_by_the_error_over_images_though_its_own_error_is_nothing(run, by, same):
    found = rc.diff(run, shifted(run, by))
    assert found.same is same
    assert found_of(found, "token_norm").in_errors == pytest.approx(by, rel=1e-6)
    told = "The same: 142 numbers, within 0.05 of their standard error over images."
    assert (found.verdict == told) is same
    places = [] if same else [("token_norm", layer.model, layer.path) for layer in run.layers]
    assert sorted((each.quantity, each.model, each.path) for each in found.differences) == places
    assert all(abs(each.errors) > 1e6 for each in found.differences)


def test_errors_of_differences_are_the_jackknife_of_both_without_the_same_fold(run, others):
    found = rc.diff(run, others)
    assert found.paired
    pairs = np.triu_indices(7, 1)
    here, there = (
        np.array(
            [cosine(each.sums[f"{CKA}/products"] - of)[pairs] for of in each.sums[f"{CKA}/removed"]]
        )
        for each in (run, others)
    )
    se = jackknife(there - here)
    difference = (others.cka() - run.cka())[pairs]
    names = [(layer.model, layer.path) for layer in run.layers]
    at = {
        frozenset([names[i], names[j]]): number
        for number, (i, j) in enumerate(zip(*pairs, strict=True))
    }
    of_cka = [each for each in found.differences if each.quantity == "cka"]
    assert of_cka
    for each in of_cka:
        number = at[frozenset([(each.model, each.path), each.beside[:2]])]
        assert each.second - each.first == pytest.approx(difference[number], rel=1e-9)
        assert each.se == pytest.approx(se[number], rel=1e-6)
        assert each.errors == pytest.approx(difference[number] / se[number], rel=1e-6)
    # Of every layer the clearest pair.
    for name in names:
        mine = [number for pair, number in at.items() if name in pair]
        told = [each.errors for each in of_cka if (each.model, each.path) == name]
        if told:
            assert abs(told[0]) == pytest.approx(np.abs(difference / se)[mine].max(), rel=1e-6)


def test_p_values_are_corrected_over_all_numbers(run, others):
    found = rc.diff(run, others)
    each = found.differences[0]
    raw = 2 * stats.t.sf(abs(each.errors), 19)
    # The clearest of all but those of which top-1 may have none: Holm's first factor is how many there are.
    assert each.p == pytest.approx(min(142 * raw, 1), rel=1e-6)
    assert all(other.p < 0.05 for other in found.differences)


def test_differences_of_independent_images_have_the_errors_of_both(run):
    other = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=15, seed=1, unresolved=["a"]))
    found = rc.diff(run, other)
    assert not found.paired
    assert (found.images, found.shared) == ((160, 240), 0)
    each = next(of for of in found.differences if of.quantity == "cka")
    places = [
        run.layers.index(next(layer for layer in run.layers if (layer.model, layer.path) == at))
        for at in ((each.model, each.path), each.beside[:2])
    ]
    errors = [of.cka_se()[tuple(places)] for of in (run, other)]
    assert each.se == pytest.approx(np.hypot(*errors), rel=1e-6)
    values = [of.cka()[tuple(places)] for of in (run, other)]
    sizes = [error * np.sqrt(20) for error in errors]
    t, _ = stats.ttest_ind_from_stats(
        values[1], sizes[1], 20, values[0], sizes[0], 20, equal_var=False
    )
    assert each.errors == pytest.approx(t, rel=1e-6)


def test_the_same_networks_over_other_images_are_seldom_called_different():
    runs = [
        synthetic_result({"a": 6, "b": 6}, batches=8, image_seed=number) for number in range(40)
    ]
    pairs = zip(runs[::2], runs[1::2], strict=True)
    # With 5 % of them, 4 or more of 20 would come up in 2 of 100.
    assert sum(not rc.diff(one, two).same for one, two in pairs) < 4


def test_welchs_p_values_of_independent_images_are_those_of_scipy(run):
    from refiner_cka.results.numbers import numbers
    from refiner_cka.results.pairing import Common

    other = synthetic_result({"a": 4, "b": 3}, batches=15, seed=1)
    [cka, _] = numbers(Common.of(run, other), paired=False)
    pairs = np.triu_indices(7, 1)
    sizes = [each.cka_se()[pairs] * np.sqrt(20) for each in (run, other)]
    _, p = stats.ttest_ind_from_stats(
        run.cka()[pairs], sizes[0], 20, other.cka()[pairs], sizes[1], 20, equal_var=False
    )
    np.testing.assert_allclose(cka.p, p, rtol=1e-5)


def test_images_that_lie_at_the_same_places_are_paired_whatever_the_batches(run):
    batches = run.image_digests.reshape(5, 32)
    larger = dataclasses.replace(
        run,
        batches=np.arange(5),
        batch_planned=np.full(5, 32),
        batch_images=np.full(5, 32),
        batch_digests=run.batch_digests[:5],
        image_digests=batches,
        total_batches=5,
    )
    found = rc.diff(run, larger)
    assert found.paired
    assert found.other_inputs == ()
    moved = dataclasses.replace(run, image_digests=run.image_digests[:, ::-1])
    found = rc.diff(run, moved)
    assert not found.paired
    assert found.shared == 160


def test_images_prepared_in_another_way_are_paired_by_the_digest_of_the_data(run):
    data = {"images": {"digest": "d", "count": 160}}
    one, two = (dataclasses.replace(run, provenance=data) for _ in range(2))
    two = dataclasses.replace(
        two, image_digests=run.image_digests + np.uint64(1), batch_digests=run.batch_digests ^ 1
    )
    found = rc.diff(one, two)
    assert found.paired
    assert found.other_inputs == ("a", "b")
    two = dataclasses.replace(two, provenance={"images": {"digest": "e", "count": 160}})
    assert not rc.diff(one, two).paired


def test_models_are_matched_by_name_and_the_only_ones_by_position(run):
    one, two = (synthetic_result({name: 3}, batches=4) for name in ("vit", "ours"))
    found = rc.diff(one, two)
    assert (found.by_position, found.models) == (True, (("vit", "ours"),))
    assert found.same
    assert found.sentences[0].startswith("vit and ours are compared, the only model of each")
    more = synthetic_result({"b": 3, "c": 2}, batches=10)
    found = rc.diff(run, more)
    assert (found.by_position, found.models) == (False, (("b", "b"),))
    assert "Only the first has the models a." in found.missing
    assert "Only the second has the models c." in found.missing
    assert any(line.startswith("Only the first measured patch_cosine") for line in found.missing)
    with pytest.raises(rc.ResultError, match="share no model: the first has a, b, the second c"):
        rc.diff(run, synthetic_result({"c": 2, "d": 2}, batches=4))
    with pytest.raises(rc.ResultError, match="share no layer"):
        rc.diff(one, synthetic_result({"vit": ["stem", "head"]}, batches=4))


def test_a_model_of_other_depth_is_compared_where_it_has_the_same_layers():
    one, two = (synthetic_result({"a": depth}, batches=4) for depth in (4, 3))
    found = rc.diff(one, two)
    assert found_of(found, "cka").count == 3
    assert found.missing == ("Only the first has the layers a blocks.3 (all).",)


def test_what_is_undefined_in_one_alone_differs(run):
    constant = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10, constant=[("b", 1)]))
    constant = dataclasses.replace(constant, image_digests=run.image_digests)
    found = rc.diff(run, constant)
    lost = [each for each in found.differences if np.isnan(each.second)]
    assert ("b", "blocks.1") in {(each.model, each.path) for each in lost}
    assert found_of(found, "cka").different >= 6
    assert rc.diff(constant, constant).same
    json.dumps(found.as_dict(), allow_nan=False)


def test_without_errors_the_same_images_differ_by_more_than_rounding_and_others_are_refused():
    few = synthetic_result({"a": 3}, batches=1, batch_size=11)
    products = few.sums[f"{CKA}/products"].copy()
    near, far = products.copy(), products.copy()
    for changed, by in ((near, 1e-8), (far, 1e-4)):
        changed[0, 2] = changed[2, 0] = products[0, 2] * (1 + by)
    assert rc.diff(few, with_sum(few, **{f"{CKA}/products": near})).same
    found = rc.diff(few, with_sum(few, **{f"{CKA}/products": far}))
    assert {each.path for each in found.differences} == {"blocks.0", "blocks.2"}
    other = synthetic_result({"a": 3}, batches=1, batch_size=11, seed=1)
    with pytest.raises(rc.ResultError, match="one has fewer than 12"):
        rc.diff(few, other)
    with pytest.raises(rc.ResultError, match="no images yet"):
        rc.diff(few, synthetic_result({"a": 3}, batches=0, total_batches=1))


def test_top1_has_the_error_of_a_share(run):
    hits = run.sums["top1/hits"]
    trials = run.sums["top1/trials"]
    found = rc.diff(run, with_sum(run, top1__hits=hits - np.array([60.0, 1.0])))
    [each] = [of for of in found.differences if of.quantity == "top1"]
    shares = [float(of) for of in (hits[0] / trials[0], (hits[0] - 60) / trials[0])]
    assert (each.model, each.path, each.first, each.second) == ("a", "", *shares)
    assert each.se == pytest.approx(sum(of * (1 - of) / trials[0] for of in shares) ** 0.5)


def test_what_was_recorded_of_the_runs_and_differs_is_told_once(run):
    model = {"name": "a", "origin": {"weights": "pretrained", "sha256": "1" * 64}}
    one = {"models": [model], "seed": 0, "options": {"seed": 0}, "versions": {"torch": "2.4"}}
    other = {**model, "origin": {"weights": "b.pth", "sha256": "2" * 64}}
    two = {"models": [other], "seed": 1, "options": {"seed": 1}, "versions": {"torch": "2.5\x1b"}}
    two |= {"command": "of no importance"}
    found = rc.diff(*(dataclasses.replace(run, provenance=of) for of in (one, two)))
    assert [(each.what, each.first, each.second) for each in found.changes] == [
        ("weights of a", "pretrained", "b.pth"),
        ("sha256 of weights of a", "1" * 64, "2" * 64),
        ("seed", "0", "1"),
        ("torch of versions", "2.4", "2.5\x1b"),
    ]
    assert "torch of versions: 2.4 / 2.5\\x1b" in found.sentences
    assert f"sha256 of weights of a: {'1' * 12}... / {'2' * 12}..." in found.sentences


def test_models_that_are_not_compared_are_named_and_no_more():
    def recorded(names, seed):
        models = [{"name": name, "origin": {"parameters": seed}} for name in names]
        tables = {key: dict.fromkeys(names, "said") for key in ("notes", "faint_parameters")}
        known = {"models": models, **tables}
        return synthetic_result(dict.fromkeys(names, 3), batches=4, provenance=known)

    found = rc.diff(recorded("ab", 1), recorded("bc", 2))
    assert [each.what for each in found.changes] == ["parameters of b"]
    assert found.missing == (
        "Only the first has the models a.",
        "Only the second has the models c.",
    )
    # Names are matched by position, too.
    found = rc.diff(recorded("a", 1), recorded("c", 2))
    assert [each.what for each in found.changes] == ["parameters of a"]


def test_an_index_that_depends_on_the_batch_is_compared_with_its_like_alone(run):
    from tests.synthetic import with_index

    one, two = (with_index(run, "knn", f"10-NN (batches of {size})", run) for size in (32, 64))
    assert any(each.quantity == "knn" for each in rc.diff(one, one).compared)
    found = rc.diff(one, two)
    assert not any(each.quantity == "knn" for each in found.compared)
    expected = "10-NN (batches of 32) and 10-NN (batches of 64) are not compared: they are different quantities."
    assert found.missing == (expected,)
