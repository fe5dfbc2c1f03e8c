"""`diff`: exit codes, what is printed, and two real runs."""

import dataclasses
import json
from pathlib import Path

import pytest

import refiner_cka as rc
from tests.cli.running import command, refused, succeed
from tests.synthetic import synthetic_result, with_smoothing


@pytest.fixture
def run():
    result = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10))
    result.save("a.h5")
    return result


def test_the_same_runs_end_with_0_and_different_ones_with_3(run):
    same = succeed("diff", "a.h5", "a.h5").stdout.splitlines()
    assert same[0] == rc.diff(run, run).verdict
    other = with_smoothing(synthetic_result({"a": 4, "b": 3}, batches=10, seed=1, unresolved=["a"]))
    other = dataclasses.replace(other, image_digests=run.image_digests)
    other.save("b.h5")
    found = rc.diff(run, other)
    done = command("diff", "a.h5", "b.h5")
    assert done.exit_code == 3
    assert (done.stderr, found.verdict in done.stdout) == ("", True)
    assert {*found.sentences} <= {*done.stdout.splitlines()}
    first = next(each for each in found.differences if each.quantity == "cka")
    beside = f"{first.beside[0]} {first.beside[1]} (all)"
    row = f"CKA, {first.model} {first.path} (all) with {beside}"
    mirrored = f"CKA, {beside} with {first.model} {first.path} (all)"
    [line] = [line for line in done.stdout.splitlines() if row in line or mirrored in line]
    assert f"{first.errors:+.1f}" in line
    document = command("diff", "a.h5", "b.h5", "--json")
    assert document.exit_code == 3
    assert json.loads(document.stdout) == json.loads(json.dumps(found.as_dict()))


def test_what_cannot_be_compared_is_refused_in_one_line(run):
    synthetic_result({"c": 3, "d": 3}, batches=4).save("c.h5")
    assert "share no model" in refused("diff", "a.h5", "c.h5")
    assert "no such file: none.h5" in refused("diff", "a.h5", "none.h5")
    Path("text.h5").write_text("text")
    assert "text.h5 is not an HDF5 file" in refused("diff", "text.h5", "a.h5")


def test_what_a_file_brings_along_is_printed_escaped(run):
    provenance = {"versions": {"torch\x1b]0;": "\x1b[2J"}, "data": "\x1b[2J"}
    dataclasses.replace(run, provenance=provenance).save("b.h5")
    printed = succeed("diff", "a.h5", "b.h5").stdout
    assert all(line.isprintable() for line in printed.splitlines())
    assert "torch\\x1b]0; of versions: none / \\x1b[2J" in printed


def test_real_runs_again_in_other_batches_and_of_other_weights_and_images():
    options = {
        "smoothing": "token_norm",
        "workers": 0,
        "device": "cpu",
        "images": 48,
        "batch_size": 16,
    }
    for name, model, changes in (
        ("one", "vit_nano", {}),
        ("two", "vit_nano", {}),
        ("batches", "vit_nano", {"batch_size": 24}),
        ("images", "vit_nano", {"seed": 1}),
        ("weights", "vit_nano=random", {}),
    ):
        rc.analyze(model, "digits-test", **{**options, **changes}).save(f"{name}.h5")
    # 66 pairs of 12 layers, 12 norms, top-1.
    assert (
        "all 79 numbers are identical to the last bit" in succeed("diff", "one.h5", "two.h5").stdout
    )
    printed = succeed("diff", "one.h5", "batches.h5").stdout
    assert "Both saw the same 48 images in the same folds" in printed
    assert "batch_size: 16 / 24" in printed
    printed = succeed("diff", "one.h5", "images.h5").stdout
    assert "They saw different images, 48 and 48" in printed
    assert "The same within error" in printed
    done = command("diff", "one.h5", "weights.h5")
    assert done.exit_code == 3
    assert "weights of vit_nano: pretrained / random" in done.stdout
    assert "Token norm, vit_nano blocks." in done.stdout
    assert "more; --json prints all." in done.stdout
